#include "exec/overlap_estimate.hpp"

#include <algorithm>

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

}  // namespace pipemoe::exec
