// One layer at one degree, predicted and measured.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/units.hpp"

namespace pipemoe::program {

struct ValidationPoint {
  std::string regime;
  std::string layer;
  std::int64_t degree = 1;  ///< of both phases

  // Made before the measurement, from the regime's calibrated profile.
  Seconds predicted_forward{};
  Seconds predicted_makespan{};
  /// The same from costs of tasks alone: what PipeMoE's closed form T(r) says.
  Seconds closed_form_makespan{};
  double predicted_hidden = 0;  ///< share of the communication, 0..1
  /// What no schedule undercuts whose chunks are not more efficient than the whole: gate and
  /// permutations, and in each phase the longer of all exchanges and all experts, in one chunk.
  Seconds limit{};

  // Of the iteration of median makespan, save the extremes.
  Seconds measured_forward{};
  Seconds measured_makespan{};
  Seconds measured_least{};
  Seconds measured_most{};
  double measured_hidden = 0;

  double relative_error() const { return predicted_makespan / measured_makespan - 1; }
  bool operator==(const ValidationPoint&) const = default;
};

std::string to_json_line(const ValidationPoint& point);
/// Throws InputError.
ValidationPoint validation_point_from(const std::string& line);

/// A header and a row for each point.
std::string to_csv(const std::vector<ValidationPoint>& points);

}  // namespace pipemoe::program
