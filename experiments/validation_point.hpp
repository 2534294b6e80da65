// One layer at one pair of degrees, predicted and measured.
#pragma once

#include <string>
#include <vector>

#include "models/task_graph.hpp"
#include "models/units.hpp"

namespace pipemoe::program {

struct ValidationPoint {
  std::string regime;
  std::string layer;
  Degrees degrees;

  // Made before the measurement, from the regime's calibrated profile.
  Seconds predicted_forward{};
  Seconds predicted_makespan{};
  /// The same from costs of tasks alone: what PipeMoE's closed form T(r) says.
  Seconds closed_form_makespan{};
  double predicted_hidden = 0;  ///< share of the communication, 0..1
  /// What no schedule undercuts whose chunks are not more efficient than the whole: gate and
  /// permutations, and in each phase the longer of all exchanges and all experts, in one chunk.
  Seconds limit{};
  bool chosen = false;              ///< what plan chooses of these degrees
  bool closed_form_chosen = false;  ///< the same by closed_form_makespan

  Seconds measured_makespan{};  ///< the median
  Seconds measured_least{};
  Seconds measured_most{};
  // Of an iteration of median makespan among those of which spans were taken.
  Seconds measured_forward{};  ///< forward's share of it, times the median
  double measured_hidden = 0;

  Seconds predicted_backward() const { return predicted_makespan - predicted_forward; }
  double relative_error() const { return predicted_makespan / measured_makespan - 1; }
  bool operator==(const ValidationPoint&) const = default;
};

std::string to_json_line(const ValidationPoint& point);
/// Throws InputError.
ValidationPoint validation_point_from(const std::string& line);

/// A header and a row for each point.
std::string to_csv(const std::vector<ValidationPoint>& points);

}  // namespace pipemoe::program
