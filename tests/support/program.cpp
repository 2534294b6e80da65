#include "tests/support/program.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "models/files.hpp"

namespace pipemoe::test {

Outcome run_program(const std::string& program, const std::string& arguments) {
  const TemporaryDirectory directory;
  const std::string out = directory.path("out"), err = directory.path("err");
  const std::string command = std::string("cd ") + PIPEMOE_SOURCE_DIR + " && " + program + " " +
                              arguments + " >" + out + " 2>" + err + " </dev/null";
  const int status = std::system(command.c_str());
  if (!WIFEXITED(status)) throw std::runtime_error("the program did not exit: " + command);
  return {WEXITSTATUS(status), read_file(out, "output"), read_file(err, "output")};
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "pipemoe-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  root_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

std::string TemporaryDirectory::file(const std::string& name, const std::string& text) const {
  std::ofstream(root_ / name) << text;
  return root_ / name;
}

}  // namespace pipemoe::test
