// Repeated measurements.
#pragma once

#include <cstddef>
#include <vector>

#include "models/units.hpp"

namespace pipemoe::exec {

std::vector<double> in_seconds(const std::vector<Seconds>& times);

struct Summary {
  double minimum = 0;
  double median = 0;
  double maximum = 0;
  /// Indices of values further from the median than 5 median absolute deviations (and than 5 % of
  /// it: a tight series has no outliers for that), in order.
  std::vector<std::size_t> outliers;
};
/// Requires at least one value.
Summary summarize(const std::vector<double>& values);

/// Requires at least one time.
Seconds median(const std::vector<Seconds>& times);

/// Index of the lower median. Requires at least one value.
std::size_t median_index(const std::vector<double>& values);

}  // namespace pipemoe::exec
