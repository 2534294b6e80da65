// How much two streams slow each other, from what they did together and what they do alone.
#pragma once

#include <optional>
#include <vector>

#include "exec/execute.hpp"
#include "exec/layer_measurements.hpp"
#include "models/slowdown.hpp"

namespace pipemoe::exec {

/// One stream's tasks in one iteration and the time each takes alone.
struct StreamTimes {
  std::vector<TaskTimes> tasks;  ///< in order, not overlapping each other
  Seconds alone{};               ///< sum of what they take alone
};

/// Time in which both streams ran a task.
Seconds both_busy(const StreamTimes& a, const StreamTimes& b);

/// The slowdown s under which `stream`, advancing at 1/s while the other is busy, takes as long as
/// it did: alone = (busy - both) + both / s. Null where the streams met for less than an eighth of
/// the stream's time, or where no s says so.
std::optional<double> slowdown(const StreamTimes& stream, const StreamTimes& other);

/// A rank's bytes.
Bytes largest_exchange(const TaskGraph& graph);

/// How much experts and the exchanges beside them slowed each other on this rank.
struct Contention {
  std::vector<double> compute, communication;  ///< one for each iteration in which they met
};
Contention contention(const LayerMeasurements::Overlap& overlap);

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
