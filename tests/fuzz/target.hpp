// What a fuzz target is, and the oracle's words. Each target's file adds one: a reader of text from
// outside, and what must be true of whatever it accepts.
#pragma once

#include <fmt/core.h>

#include <exception>
#include <filesystem>
#include <string>
#include <string_view>
#include <typeinfo>
#include <vector>

#include "models/cluster.hpp"
#include "models/error.hpp"
#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::fuzz {

/// How inputs are mutated.
enum class Syntax {
  Bytes,  ///< by libFuzzer alone
  Toml,   ///< also by lines: keys, values and tables
  Json,   ///< also by members and items; of a journal those of one line
};

struct Target {
  std::string name;
  Syntax syntax = Syntax::Bytes;
  /// Reads the text with the project's reader and judges the result. Returns whether it was
  /// accepted. Does not return from a finding.
  bool (*run)(std::string_view text) = nullptr;
  /// Small inputs to begin with, made of shipped files; accepted ones.
  std::vector<std::string> (*seeds)() = nullptr;
};

/// The targets that are linked into this program.
std::vector<Target>& targets();
/// A global of this type in a target's file adds the target.
struct Registration {
  explicit Registration(Target target) { targets().push_back(std::move(target)); }
};

// ---- the oracle ----

/// Prints what is wrong and aborts.
[[noreturn]] void finding(const std::string& what);
inline void require(bool condition, const std::string& what) {
  if (!condition) finding(what);
}
/// Finding unless from <= value <= to, which NaN is not.
void require_within(double value, double from, double to, const char* what);
/// Finding unless the time is finite and not negative.
void require_time(Seconds time, const char* what);
/// Finding unless the text is one line that a terminal can show.
void require_printable(const std::string& text, const char* what);
/// Finding unless the error's message, as the program prints it, is one printable line of at most
/// 10 kB.
void require_good_message(const std::exception& error);
/// Finding unless the text is JSON.
void require_json(const std::string& text, const char* what);

/// Whether `read` returns; false where it refuses its input. Anything but an InputError is a
/// finding.
template <class Read>
bool accepts(Read read) {
  try {
    read();
    return true;
  } catch (const InputError& error) {
    require_good_message(error);
  } catch (const std::exception& error) {
    finding(fmt::format("threw {}: {}", typeid(error).name(), error.what()));
  } catch (...) {
    finding("threw something that is no std::exception");
  }
  return false;
}

// ---- what several targets judge ----

void require_sane(const MoeLayer& layer);
void require_sane(const Cluster& cluster);
/// Writes the profile and reads it again.
void require_round_trip(const Cluster& cluster);
/// Plans and evaluates small layers on the cluster: all times are finite and none is negative.
void require_usable(const Cluster& cluster);
/// Evaluates the graph on the cluster at levels fitted and links; refusals are fine.
void require_evaluates(const TaskGraph& graph, const Cluster& cluster);
/// Writes the graph as JSON and reads it again.
void require_round_trip(const TaskGraph& graph);

// ---- seeds ----

/// A file of the source tree, by its path from the root.
std::string shipped(const std::string& path);
/// The same without comments and empty lines, and of each list of tables at most `most` tables.
std::string shipped_toml(const std::string& path, int most);
/// The authors' cluster of 16 GPUs, as if it had that many ranks on nodes of at most four.
Cluster cluster_of(std::int64_t num_ranks);

}  // namespace pipemoe::fuzz
