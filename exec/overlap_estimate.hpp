// How much two streams slow each other, from what they did together and what they do alone.
#pragma once

#include <optional>
#include <vector>

#include "exec/execute.hpp"
#include "exec/layer_measurements.hpp"
#include "models/slowdown.hpp"

namespace pipemoe::exec {

/// What one stream's tasks took, all of them together.
struct StreamTimes {
  Seconds alone{};   ///< while the other stream had nothing to do
  Seconds beside{};  ///< in turns with that, while it had
  Seconds both{};    ///< of `beside`, while both streams ran a task
};

/// The slowdown s under which a stream that advances at 1/s while the other is busy takes as long
/// as it did: alone = (beside - both) + both / s. Null where the streams met for less than a 64th
/// of the stream's time, or where no s says so.
std::optional<double> slowdown(const StreamTimes& stream);

/// Time in which both streams ran a task; a stream's do not overlap each other.
Seconds both_busy(const std::vector<TaskTimes>& a, const std::vector<TaskTimes>& b);

/// A rank's bytes.
Bytes largest_exchange(const TaskGraph& graph);

/// How much experts (forward, or Backward: both gradients) and the exchanges beside them slowed
/// each other on this rank: what medians of iterations say. Null where they did not meet.
struct Contention {
  std::optional<double> compute, communication;
};
Contention contention(const LayerMeasurements::Overlap& overlap, Pass pass);

struct SlowdownPoint {
  Bytes in_flight;
  double factor = 1;
};
/// How far points of equally many bytes are apart, over their median: the median of all numbers of
/// bytes. Requires points.
double spread(const std::vector<SlowdownPoint>& points);
/// Points of similar bytes, so many or more together, become their medians; what is below 1
/// becomes 1. Requires points and together >= 1.
Slowdown slowdown_by_bytes(std::vector<SlowdownPoint> points, std::size_t together);

}  // namespace pipemoe::exec
