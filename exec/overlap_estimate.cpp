#include "exec/overlap_estimate.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "exec/statistics.hpp"

namespace pipemoe::exec {

Seconds both_busy(const StreamTimes& a, const StreamTimes& b) {
  Seconds both{};
  for (const TaskTimes& one : a.tasks) {
    for (const TaskTimes& other : b.tasks) {
      const Seconds overlap = std::min(one.end, other.end) - std::max(one.start, other.start);
      both += std::max(overlap, Seconds{});
    }
  }
  return both;
}

std::optional<double> slowdown(const StreamTimes& stream, const StreamTimes& other) {
  Seconds busy{};
  for (const TaskTimes& task : stream.tasks) busy += task.duration();
  const Seconds both = both_busy(stream, other);
  const Seconds worked_together = stream.alone - (busy - both);
  if (both < busy / 8 || worked_together <= Seconds{}) return std::nullopt;
  return both / worked_together;
}

Slowdown slowdown_by_bytes(std::vector<SlowdownPoint> points, std::size_t together) {
  std::sort(points.begin(), points.end(),
            [](const auto& a, const auto& b) { return a.in_flight < b.in_flight; });
  const std::size_t groups = std::max<std::size_t>(1, points.size() / together);
  Slowdown::Points medians;
  for (std::size_t i = 0; i < groups; ++i) {
    std::vector<double> bytes, factors;
    for (std::size_t j = points.size() * i / groups; j < points.size() * (i + 1) / groups; ++j) {
      bytes.push_back(points[j].in_flight.amount());
      factors.push_back(points[j].factor);
    }
    const double at = std::max(1.0, summarize(bytes).median);
    const double factor = std::max(1.0, summarize(factors).median);
    if (medians.empty() || at > medians.back().first) medians.emplace_back(at, factor);
  }
  if (medians.size() == 1) return medians.front().second;
  return Slowdown(std::move(medians));
}

}  // namespace pipemoe::exec
