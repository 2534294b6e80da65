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
  if (both < busy / 4 || worked_together <= Seconds{}) return std::nullopt;
  return both / worked_together;
}

Slowdown slowdown_by_bytes(std::vector<SlowdownPoint> points, std::size_t together) {
  std::sort(points.begin(), points.end(),
            [](const auto& a, const auto& b) { return a.in_flight < b.in_flight; });
  Slowdown::Points medians;
  for (std::size_t begin = 0, end = 0; begin < points.size(); begin = end) {
    end = begin + together;
    if (end + together > points.size()) end = points.size();
    while (end < points.size() && points[end].in_flight == points[end - 1].in_flight) ++end;
    std::vector<double> bytes, factors;
    for (std::size_t i = begin; i < end; ++i) {
      bytes.push_back(points[i].in_flight.amount());
      factors.push_back(points[i].factor);
    }
    const double at = std::max(1.0, summarize(bytes).median);
    medians.emplace_back(at, std::max(1.0, summarize(factors).median));
  }
  if (medians.size() == 1) return medians.front().second;
  return Slowdown(std::move(medians));
}

}  // namespace pipemoe::exec
