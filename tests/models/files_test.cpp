#include "models/files.hpp"

#include <catch2/catch.hpp>
#include <fstream>

#include "models/error.hpp"
#include "tests/support/program.hpp"

using namespace pipemoe;
using namespace pipemoe::test;
using Catch::Matchers::Equals;
using Catch::Matchers::StartsWith;

namespace {

std::size_t entries(const std::filesystem::path& directory) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& one : std::filesystem::directory_iterator(directory)) ++count;
  return count;
}

}  // namespace

TEST_CASE("a file that was written reads the same", "[models][files]") {
  const TemporaryDirectory directory;
  std::string bytes("line\r\n\0after zero\n", 18);
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  write_file(directory.path("f"), bytes);
  CHECK(read_file(directory.path("f"), "file") == bytes);
  write_file(directory.path("empty"), "");
  CHECK(read_file(directory.path("empty"), "file").empty());
}

TEST_CASE("writing replaces a file and leaves nothing beside it", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("f", "a longer text than the new one");
  write_file(path, "new");
  CHECK(read_file(path, "file") == "new");
  CHECK(entries(directory.path("")) == 1);
}

TEST_CASE("writing replaces atomically: who has the old file open keeps it whole",
          "[models][files]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("f", "old");
  std::ifstream open_before(path);
  write_file(path, "new");
  std::string word;
  open_before >> word;
  CHECK(word == "old");
}

TEST_CASE("a path that cannot be written is an InputError", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string path = directory.path("absent/f");
  CHECK_THROWS_AS(write_file(path, "text"), InputError);
  CHECK_THROWS_WITH(write_file(path, "text"),
                    Equals(path + ": cannot write: No such file or directory"));
  CHECK(directory.is_empty());
}

TEST_CASE("a failed write leaves neither the temporary file nor the target changed",
          "[models][files]") {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory.path("d"));
  CHECK_THROWS_WITH(write_file(directory.path("d"), "text"),
                    StartsWith(directory.path("d").string() + ": cannot write: "));
  CHECK(std::filesystem::is_directory(directory.path("d")));
  CHECK(entries(directory.path("")) == 1);
}

TEST_CASE("writing replaces a symbolic link, not what it points to", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string target = directory.file("target", "kept");
  std::filesystem::create_symlink(target, directory.path("link"));
  write_file(directory.path("link"), "new");
  CHECK_FALSE(std::filesystem::is_symlink(directory.path("link")));
  CHECK(read_file(directory.path("link"), "file") == "new");
  CHECK(read_file(target, "file") == "kept");
}

TEST_CASE("a missing file and a directory cannot be read", "[models][files]") {
  const TemporaryDirectory directory;
  const std::string absent = directory.path("absent"), root = directory.path("");
  CHECK_THROWS_AS(read_file(absent, "layer file"), InputError);
  CHECK_THROWS_WITH(read_file(absent, "layer file"),
                    Equals(absent + ": cannot read this layer file"));
  CHECK_THROWS_WITH(read_file(root, "layer file"), Equals(root + ": cannot read this layer file"));
}
