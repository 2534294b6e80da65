// One point of a study: its schedules simulated, and the degrees a user would choose.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/study_config.hpp"

namespace pipemoe::program {

struct PointRun {
  std::string schedule;
  std::int64_t degree = 1;  ///< of both phases
  double forward_s = 0;
  double backward_s = 0;

  double iteration_s() const { return forward_s + backward_s; }
};

struct PointResult {
  std::size_t point = 0;
  std::string error;  ///< why it failed; empty: it did not
  std::vector<PointRun> runs;
  // Chosen from the fitted cost model alone; 0: the schedule is not studied.
  Degrees chosen{0, 0};
  std::int64_t deferred_degree = 0;  ///< backward, of pipemoe-deferred
  /// The best by the fitted cost model when chunks are whole slots, not equal shares: where this is
  /// not `chosen`, uneven chunks mislead the closed form.
  Degrees whole_slots{0, 0};
};

/// Simulates every schedule at every degree that the layer can have. Does not throw for a point
/// that cannot run: it returns the reason.
PointResult run_point(const Study& study, const StudyPoint& point);

/// One line of JSON, without the line's end.
std::string to_json_line(const PointResult& result);
/// Throws InputError for anything else.
PointResult point_from_json_line(const std::string& line);

}  // namespace pipemoe::program
