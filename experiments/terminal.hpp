// What the program shows a person: headings, notes, a timeline in characters, a progress bar.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "models/cluster.hpp"
#include "models/layer.hpp"
#include "models/timeline.hpp"

namespace pipemoe::program {

constexpr double milliseconds(Seconds time) { return time.count() * 1e3; }
/// 0 where there is no whole.
constexpr double percent(Seconds part, Seconds whole) {
  return whole > Seconds{} ? 100 * (part / whole) : 0;
}

/// Breaks lines at spaces where they would be longer than `columns`; later lines are indented.
std::string wrapped(const std::string& text, std::size_t indent, std::size_t columns);
/// One line, wrapped to the terminal; whole where standard output is no terminal.
void print_line(const std::string& text, std::size_t indent);

/// One line on standard error, printable. Never throws: there may be no standard error.
void print_error(const std::string& text) noexcept;

void print_layer(const MoeLayer& layer);
/// Layer, cluster and whether the layer fits a GPU's memory.
void print_heading(const MoeLayer& layer, const Cluster& cluster);
/// How much of the makespan rests on measured, interpolated and estimated costs.
void print_basis(const BasisShares& shares);
void print_notes(const std::vector<std::string>& notes);

/// One line a queue and a time axis, at most `columns` wide. A task begins with its step's
/// initial and chunk where there is room: D dispatch, E expert, C combine, G gate, ...
std::string draw_timeline(const Timeline& timeline, std::size_t columns);

/// Width of the terminal on standard output, or 100.
std::size_t terminal_columns();

/// A bar with the time left on standard error, when that is a terminal and the work has taken more
/// than two seconds. Clears itself when destroyed.
class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Cheap enough to call for every step.
  void update(std::size_t done, std::size_t total);

 private:
  using Clock = std::chrono::steady_clock;

  std::string what_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_draw_;
  bool on_terminal_;
  bool drawn_ = false;
};

}  // namespace pipemoe::program
