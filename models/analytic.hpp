// Evaluates a task graph without a simulator: every stream takes its tasks in order, each as soon
// as its dependencies are met. Tasks slow each other only as the cluster's overlap says.
#pragma once

#include "models/cost_model.hpp"
#include "models/task_graph.hpp"
#include "models/timeline.hpp"

namespace pipemoe {

/// When the phases of a graph end.
struct PhaseTimes {
  Seconds forward{};
  Seconds backward{};  ///< makespan - forward

  Seconds makespan() const { return forward + backward; }
};

/// Throws InputError when the cluster lacks a fit that the graph needs.
Timeline analytic_timeline(const TaskGraph& graph, const Cluster& cluster);

/// The same without spans or provenance: for searches over many graphs.
PhaseTimes analytic_times(const TaskGraph& graph, const CostModel& cost);

/// Bounds of any schedule of these tasks on one rank's streams. With overlap slowdowns the sum is
/// none: two tasks at once may take longer than one after the other.
struct MakespanBounds {
  Seconds critical_path{};  ///< longest chain of data dependencies
  Seconds serial_sum{};     ///< everything one after another
};
MakespanBounds makespan_bounds(const TaskGraph& graph, const CostModel& cost);

}  // namespace pipemoe
