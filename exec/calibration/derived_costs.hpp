// Costs that no task shows by itself: what a time stamp adds, what handing an exchange over to a
// computation adds, and how much computation and communication slow each other.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "exec/calibration/measure.hpp"
#include "models/fit.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

/// Time that `count` things of one kind add to a whole, beyond the sum of its other parts.
struct ExtraTime {
  double count = 0;
  double seconds = 0;
  double whole = 0;  ///< seconds
};
/// The time of one such thing: a least-squares fit of the extra times, each relative to its whole.
/// 0 without any. Requires counts and wholes > 0.
double cost_of_each(const std::vector<ExtraTime>& measured);

/// Seconds that a time stamp adds to a computation, for each layer; 0 if that was not measured. In
/// a long layer a stamp is smaller than the differences between iterations, so no layer gets more
/// than twice the cost that explains all layers.
std::vector<double> time_stamps(const std::vector<LayerMeasurements>& layers);

/// Seconds that a time stamp adds to an exchange behind another one. `stamps`: those of the layers'
/// computations.
double exchange_stamp(const std::vector<LayerMeasurements>& layers,
                      const std::vector<double>& stamps);

/// What is known of a chain, in which no two tasks overlap; in seconds.
struct ChainParts {
  double computing = 0;      ///< all its computations by themselves
  double join = 0;           ///< what waiting for an exchange adds to a computation
  Fit<Bytes> alone, queued;  ///< exchanges by themselves, and one behind another
  double handoff_alone = 0;  ///< what an exchange behind a computation takes longer
  double in_layer = 1;       ///< how many times as long exchanges take in the layer
};
/// Alone: an exchange behind a computation. Queued: an exchange behind another exchange.
enum class ExchangePlace { Alone, Queued };
/// What exchanges in one place add to a chain, beyond exchanges by themselves, if the chain has
/// this makespan in seconds. Requires at least one such exchange.
ExtraTime handoff_time(const TaskGraph& chain, double makespan, const ChainParts& parts,
                       ExchangePlace counted);

/// All products of a layer's iteration.
struct IterationProducts {
  double seconds = 0;
  double flops = 0;
};
/// Whether each layer's products run for so long, and so fast, that they hold a GPU at its power
/// limit. Exchanges in such a layer take longer because its clocks are lower.
std::vector<bool> at_power_limit(const std::vector<IterationProducts>& layers);

/// How long all tasks of one queue took together.
struct QueueTimes {
  Seconds alone{};   ///< while the other queue had nothing to do
  Seconds beside{};  ///< while the other queue had work; measured in turns with `alone`
  Seconds both{};    ///< the part of `beside` in which both queues ran a task
};

/// The slowdown s for which a queue that advances at 1/s while the other is busy takes as long as
/// it did: alone = (beside - both) + both / s. Null if the queues met for less than a 64th of the
/// queue's time, or if s is above 16 or does not exist: then it is a quotient of measurement noise.
std::optional<double> slowdown(const QueueTimes& queue);

/// The time in which a task of `a` and a task of `b` ran at once. Tasks of one queue do not
/// overlap.
Seconds both_busy(const std::vector<TaskTimes>& a, const std::vector<TaskTimes>& b);

/// How much the experts of a pass (backward: both gradients) and the exchanges beside them slowed
/// each other on this rank, by medians over the iterations. Null if they did not meet.
struct MeasuredContention {
  std::optional<double> compute, communication;
};
MeasuredContention contention_of(const ContentionGraphs& graphs, Pass pass);

}  // namespace pipemoe::exec
