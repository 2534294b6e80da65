// Task graph in, measured timeline out.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "exec/executor.hpp"
#include "exec/process_group.hpp"
#include "models/timeline.hpp"

namespace pipemoe::exec {

struct ExecuteOptions {
  int warm_up = 5;   ///< iterations before the measured ones
  int repeats = 20;  ///< measured iterations, >= 1
  /// Several graphs take turns: each round runs repeats / rounds iterations of every graph, after
  /// one that does not count. A machine whose speed drifts then drifts for all of them alike. With
  /// one round, graphs run one after another and only one is ready at a time.
  int rounds = 1;
  /// Whether makespans are measured undisturbed where taking spans disturbs: a second iteration.
  bool makespans = true;
  /// Where they are measured apart, spans are only in every so many iterations of a round.
  int spans_every = 1;
  /// Called on every rank after each measured iteration with how many are done, of how many.
  std::function<void(std::size_t, std::size_t)> progress = {};
};

/// Runs the graph on every rank of `group`, iterations aligned by a barrier and a common start. The
/// timeline, the same on all ranks, has the spans of every rank in the iteration of median
/// makespan, on one clock, and the makespans of all measured iterations (latest rank of each).
/// Collective. Throws InputError when the executor cannot run the graph, RunError when it fails.
Timeline execute(const TaskGraph& graph, Executor& executor, ProcessGroup& group,
                 const ExecuteOptions& options = {});

/// The same for several graphs, in turns.
std::vector<Timeline> execute(const std::vector<TaskGraph>& graphs, Executor& executor,
                              ProcessGroup& group, const ExecuteOptions& options);

/// When a task ran on this rank, since the iteration's start.
struct TaskTimes {
  Seconds start{};
  Seconds end{};

  Seconds duration() const { return end - start; }
};

/// For a calibration: the measured iterations on this rank.
struct TaskMeasurements {
  std::vector<std::vector<TaskTimes>> iterations;  ///< [iteration][TaskId]
  std::vector<Seconds> makespans;                  ///< of an iteration each, undisturbed
  /// Of each iteration by how much taking the spans lengthened it; not below 0.
  std::vector<Seconds> disturbance;
};
std::vector<TaskMeasurements> measure_tasks(const std::vector<TaskGraph>& graphs,
                                            Executor& executor, ProcessGroup& group,
                                            const ExecuteOptions& options);

}  // namespace pipemoe::exec
