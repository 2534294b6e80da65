#include "exec/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

double median(std::vector<double> values) {
  const std::size_t middle = values.size() / 2;
  std::sort(values.begin(), values.end());
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace

std::vector<double> in_seconds(const std::vector<Seconds>& times) {
  std::vector<double> seconds;
  for (const Seconds time : times) seconds.push_back(time.count());
  return seconds;
}

Summary summarize(const std::vector<double>& values) {
  ensure(!values.empty(), "summarize: no values");
  const auto [minimum, maximum] = std::minmax_element(values.begin(), values.end());
  Summary summary{*minimum, median(values), *maximum, {}};
  std::vector<double> deviations;
  for (const double value : values) deviations.push_back(std::abs(value - summary.median));
  const double limit = std::max(5 * median(deviations), 0.05 * std::abs(summary.median));
  for (std::size_t i = 0; i < deviations.size(); ++i) {
    if (deviations[i] > limit) summary.outliers.push_back(i);
  }
  return summary;
}

Seconds median(const std::vector<Seconds>& times) {
  return Seconds{summarize(in_seconds(times)).median};
}

std::size_t median_index(const std::vector<double>& values) {
  ensure(!values.empty(), "median_index: no values");
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  return order[(order.size() - 1) / 2];
}

}  // namespace pipemoe::exec
