// What a task costs on a cluster, from the cluster's fits.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "models/cluster.hpp"
#include "models/task_graph.hpp"

namespace pipemoe {

/// Time of one task that has its stream and its links to itself.
struct TaskCost {
  Seconds startup{};  ///< paid whatever the amount of work; a collective's before any byte moves
  Seconds work{};     ///< transfer or computation

  Seconds total() const { return startup + work; }
  TaskCost& operator+=(TaskCost other) {
    startup += other.startup;
    work += other.work;
    return *this;
  }
  friend TaskCost operator*(double factor, TaskCost cost) {
    return {factor * cost.startup, factor * cost.work};
  }
};

/// Factors on the times of tasks that run at once.
struct Slowdowns {
  double compute = 1;
  double communication = 1;
  bool operator==(const Slowdowns&) const = default;
};

/// Costs of a cluster's operations. An expert whose exact shape the profile fits costs that fit;
/// any other the gemm fit of each of its products, its activation and its layout copies. An
/// all-to-all costs the fit of all ranks, as much longer as it takes in its layer. Keeps a
/// reference: the cluster must outlive it.
class CostModel {
 public:
  explicit CostModel(const Cluster& cluster);

  /// Throws InputError when the profile lacks the fit that the task needs. An all-to-all with an
  /// uneven traffic matrix costs what its busiest sender's bytes would cost all.
  TaskCost operator()(const Task& task) const;

  /// Whether tasks may take less than their costs when queued.
  bool has_queued() const { return all_to_all_queued_ != nullptr; }
  /// By how much less than its cost a task takes whose stream ran another one for so long after
  /// all that it needs was there: of a queued all-to-all the part of its start-up that runs beside
  /// the one before.
  Seconds queued_saving(const Task& task, Seconds waited) const;

  /// How tasks slow each other, which their costs leave out.
  const std::optional<Overlap>& overlap() const { return cluster_.overlap; }
  /// While the task runs on the compute stream beside exchanges of so many bytes a rank. Requires
  /// overlap().
  Slowdowns slowdowns(const Task& compute, Bytes in_flight) const;

  /// Whether the task's work is outside the range that its fit was made on.
  bool extrapolates(const Task& task) const;

  /// Whether the task's cost is alpha-beta: a line in its amount of work, no table in it.
  bool is_line(const Task& task) const;

  /// Throws InputError unless the graph is for this cluster's number of ranks and every task has a
  /// cost; then returns what a reader of any result must know: operations that cost nothing
  /// because the profile does not model them, fits used outside the range they were made on, and
  /// experts of a shape without a fit of its own where the profile has fits of shapes.
  std::vector<std::string> check(const TaskGraph& graph) const;

 private:
  const ExpertFit* expert_fit(const ExpertFfn* expert) const;
  const Fit<Bytes>* pass_fit(MemoryPass pass) const;
  const Fit<Bytes>& all_to_all_fit() const;
  const Slowdown* in_layer(const AllToAll& exchange) const;
  double in_layer_factor(const AllToAll& exchange) const;
  const Fit<Flops>& gemm_fit(Dtype dtype) const;
  TaskCost pass_cost(MemoryPass pass, Bytes traffic) const;

  const Cluster& cluster_;
  // Resolved once; null where the profile has none.
  const Fit<Bytes>* all_to_all_;
  const Fit<Bytes>* all_to_all_queued_;
  std::array<const Fit<Flops>*, 3> gemm_;
  std::array<const PassCost*, kMemoryPasses.size()> passes_;
};

}  // namespace pipemoe
