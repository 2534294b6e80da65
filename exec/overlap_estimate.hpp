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

/// Seconds that spans have beyond what their tasks take.
struct SpanCosts {
  struct Stamps {
    double computation = 0, exchange = 0;
  };
  Stamps alone, beside;
  double handoff = 0;  ///< of an exchange that waited for a computation, not for its stream
};
/// Stamps of the graph of experts beside exchanges: what they cost in it falls to the busier
/// stream, on which its end waits; to the other one, as much as `alone`. Where iterations differ by
/// more than stamps cost that tells nothing: none is taken to cost over 8 us more.
SpanCosts::Stamps stamps_beside(const MeasuredChunks& beside, const SpanCosts::Stamps& alone);

/// A rank's bytes.
Bytes largest_exchange(const TaskGraph& graph);

/// How much experts and the exchanges beside them slowed each other on this rank.
struct Contention {
  std::vector<double> compute, communication;  ///< one for each iteration in which they met
};
Contention contention(const LayerMeasurements::Overlap& overlap, const SpanCosts& costs);

struct SlowdownPoint {
  Bytes in_flight;
  double factor = 1;
};
/// Points of similar bytes, so many or more together, become their medians; what is below 1
/// becomes 1. Requires points and together >= 1.
Slowdown slowdown_by_bytes(std::vector<SlowdownPoint> points, std::size_t together);

}  // namespace pipemoe::exec
