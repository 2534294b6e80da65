// Runs task graphs repeatedly and measures them: graph in, timeline out.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "exec/executor.hpp"
#include "exec/process_group.hpp"
#include "models/timeline.hpp"
#include "models/units.hpp"

namespace pipemoe::exec {

struct ExecuteOptions {
  int warm_up = 5;   ///< iterations before the measured ones
  int repeats = 20;  ///< measured iterations, >= 1
  /// Several graphs take turns. Each round runs repeats / rounds measured iterations of every graph
  /// after one that does not count, so that a machine whose speed drifts drifts for all of them
  /// alike. With one round, graphs run one after another, and only one is prepared at a time.
  int rounds = 1;
  /// If recording spans slows an iteration, an extra iteration without them measures the makespan.
  bool makespans = true;
  /// Where makespans are measured by extra iterations, only every so many iterations of a round
  /// record spans.
  int spans_every = 1;
  /// Called on every rank after each measured iteration, with how many are done and their total.
  std::function<void(std::size_t, std::size_t)> progress = {};
};

/// Runs the graph on every rank of `group`. A barrier and a common start align the iterations. The
/// timeline is the same on all ranks. It has the spans of every rank in the iteration of median
/// makespan, on one clock, and the makespans of all measured iterations (the latest rank's).
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

/// The measured iterations of one graph on this rank, for a calibration.
struct TaskMeasurements {
  std::vector<std::vector<TaskTimes>> iterations;  ///< [iteration][TaskId]
  std::vector<Seconds> makespans;                  ///< of each iteration, undisturbed
  std::vector<Seconds> disturbance;  ///< of each iteration, by how much spans slowed it; >= 0
};
std::vector<TaskMeasurements> measure_tasks(const std::vector<TaskGraph>& graphs,
                                            Executor& executor, ProcessGroup& group,
                                            const ExecuteOptions& options);

// Statistics of repeated measurements. Each requires at least one value.

std::vector<double> in_seconds(const std::vector<Seconds>& times);

struct Summary {
  double minimum = 0;
  double median = 0;
  double maximum = 0;
  /// Indices of the values that differ from the median by more than 5 median absolute deviations
  /// and by more than 5 %, in order. The second limit keeps a tight series free of outliers.
  std::vector<std::size_t> outliers;
};
Summary summarize(const std::vector<double>& values);

Seconds median(const std::vector<Seconds>& times);

/// The index of the lower median.
std::size_t median_index(const std::vector<double>& values);

}  // namespace pipemoe::exec
