// fuzz_replay TARGET [FILE|FOLDER]...: runs the target's seeds and these inputs, without libFuzzer.
// Seeds must be accepted. A finding aborts.
#include <algorithm>
#include <cstdio>

#include "models/files.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz {
namespace {

std::vector<std::filesystem::path> files_of(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) {
    if (!std::filesystem::exists(path)) return {};  // a target without regressions
    return {path};
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

int replay(const Target& target, const std::vector<std::filesystem::path>& paths) {
  const std::vector<std::string> seeds = target.seeds();
  for (const std::string& seed : seeds) {
    if (!target.run(seed)) finding("a seed is refused: " + seed);
  }
  std::size_t inputs = 0;
  for (const std::filesystem::path& path : paths) {
    for (const std::filesystem::path& file : files_of(path)) {
      std::fprintf(stderr, "%s\n", file.c_str());
      target.run(read_file(file, "input"));
      ++inputs;
    }
  }
  std::printf("%s: %zu seeds and %zu inputs without a finding\n", target.name.c_str(), seeds.size(),
              inputs);
  return 0;
}

}  // namespace
}  // namespace pipemoe::fuzz

int main(int argc, char** argv) {
  using namespace pipemoe::fuzz;
  const std::string name = argc > 1 ? argv[1] : "";
  for (const Target& target : targets()) {
    if (target.name == name) return replay(target, {argv + 2, argv + argc});
  }
  std::fprintf(stderr, "usage: fuzz_replay TARGET [FILE|FOLDER]...\n");
  return 2;
}
