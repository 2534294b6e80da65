// Runs the pipemoe program as a user does.
#pragma once

#include <filesystem>
#include <string>

namespace pipemoe::test {

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

/// `arguments` as typed after "pipemoe", in the project's root.
Outcome run_program(const std::string& program, const std::string& arguments);

/// A directory of its own, removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::filesystem::path path(const std::string& name) const { return root_ / name; }
  /// Writes a file and returns its path.
  std::string file(const std::string& name, const std::string& text) const;
  bool is_empty() const { return std::filesystem::is_empty(root_); }

 private:
  std::filesystem::path root_;
};

}  // namespace pipemoe::test
