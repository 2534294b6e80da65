// What libFuzzer calls: the one target of this program, its mutations, and counts at exit.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "models/files.hpp"
#include "tests/fuzz/mutators.hpp"
#include "tests/fuzz/target.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace pipemoe::fuzz {
namespace {

struct Counts {
  std::size_t executions = 0, accepted = 0;
  double slowest_ms = 0;
} counts;

void print_counts() {
  std::fprintf(stderr, "fuzz: executions %zu accepted %zu slowest_ms %.1f\n", counts.executions,
               counts.accepted, counts.slowest_ms);
}

// Accepted inputs, in no order: half of all mutations begin with one, for libFuzzer itself keeps
// many more inputs that are refused, each in its own way. They are not allocated: libFuzzer takes
// an execution that allocates more than it frees for a leak, and looks for it for milliseconds.
struct Kept {
  std::array<char, 8192> bytes;
  std::size_t size;
};
constexpr std::size_t kMostKept = 256;
std::array<Kept, kMostKept> kept;
std::size_t num_kept = 0;

void keep(std::string_view text) {
  static Random random(1);
  if (text.size() > kept[0].bytes.size()) return;
  if (num_kept == kMostKept && random.below(16) != 0) return;
  Kept& place = kept[num_kept < kMostKept ? num_kept++ : random.below(kMostKept)];
  std::copy(text.begin(), text.end(), place.bytes.begin());
  place.size = text.size();
}

// Counts the CPU time of this process, so that no verdict depends on how busy the machine is.
double cpu_ms() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

void run_and_count(std::string_view text) {
  constexpr double kMostMilliseconds = 1000;
  const double start = cpu_ms();
  const bool accepted = targets().front().run(text);
  const double took = cpu_ms() - start;
  require(took <= kMostMilliseconds, fmt::format("takes {:.0f} ms of CPU time", took));
  ++counts.executions;
  counts.accepted += accepted ? 1 : 0;
  if (accepted) keep(text);
  counts.slowest_ms = std::max(counts.slowest_ms, took);
}

void write_seeds(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  int number = 0;
  for (const std::string& seed : targets().front().seeds()) {
    write_file(folder / fmt::format("seed-{}", number++), seed);
  }
}

std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

std::size_t put(std::string_view text, std::uint8_t* data, std::size_t most) {
  const std::size_t size = std::min(text.size(), most);
  std::memcpy(data, text.data(), size);
  return size;
}

}  // namespace
}  // namespace pipemoe::fuzz

using namespace pipemoe::fuzz;

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  if (*count == 3 && std::strcmp((*arguments)[1], "--write-seeds") == 0) {
    write_seeds((*arguments)[2]);
    std::exit(0);
  }
  std::atexit(print_counts);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  run_and_count(text_of(data, size));
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned int seed) {
  Random random(seed);
  if (num_kept > 0 && random.below(2) == 0) {
    const Kept& from = kept[random.below(num_kept)];
    size = put({from.bytes.data(), from.size}, data, most);
  }
  const std::string text(text_of(data, size));
  constexpr std::size_t kBytesInstead = 6;  // every so often
  const Syntax syntax = targets().front().syntax;
  if (syntax == Syntax::Bytes || random.below(kBytesInstead) == 0) {
    return LLVMFuzzerMutate(data, size, most);
  }
  const std::string mutated =
      syntax == Syntax::Toml ? mutate_toml(text, random) : mutate_json(text, random);
  return mutated == text ? LLVMFuzzerMutate(data, size, most) : put(mutated, data, most);
}

extern "C" std::size_t LLVMFuzzerCustomCrossOver(const std::uint8_t* one, std::size_t one_size,
                                                 const std::uint8_t* other, std::size_t other_size,
                                                 std::uint8_t* out, std::size_t most,
                                                 unsigned int seed) {
  const std::string text(text_of(one, one_size)), from(text_of(other, other_size));
  Random random(seed);
  switch (targets().front().syntax) {
    case Syntax::Toml:
      return put(splice_toml(text, from, random), out, most);
    case Syntax::Json:
      return put(splice_json(text, from, random), out, most);
    case Syntax::Bytes:
      break;
  }
  return put(
      text.substr(0, random.below(text.size() + 1)) + from.substr(random.below(from.size() + 1)),
      out, most);
}
