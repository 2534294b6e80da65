// What tasks cost on a cluster: every task of a graph is looked up once, and what is missing is one
// error that lists all of it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "models/cluster.hpp"
#include "models/task_graph.hpp"

namespace pipemoe {

/// What a cost rests on, from the best to the worst.
enum class Basis : std::uint8_t {
  Measured,      ///< this exact shape was calibrated
  Interpolated,  ///< from fits over other shapes or sizes, inside their range
  Estimated,     ///< from links, or outside the range of a fit
  NotModelled,   ///< costs nothing because the profile says so
};
inline constexpr std::array<Basis, 4> kBases{Basis::Measured, Basis::Interpolated, Basis::Estimated,
                                             Basis::NotModelled};
std::string to_string(Basis basis);

/// Time of one task that has its queue and its links to itself, and what an evaluation needs to
/// know of the task.
struct TaskCost {
  Seconds startup{};  ///< paid whatever the amount of work; a collective's before any byte moves
  Seconds work{};     ///< transfer or computation
  Seconds queued_saving{};  ///< the most of the start-up that being queued hides
  Basis basis = Basis::Measured;
  bool is_collective = false;
  bool extrapolates = false;  ///< the amount is outside the range of its fit
  bool is_line = true;        ///< alpha-beta: no table in it
  QueueId queue = 0;
  Pass pass = Pass::Forward;

  Seconds total() const { return startup + work; }
};

/// Looks up the cost of single tasks. An expert whose exact shape the profile fits costs that fit;
/// any other the gemm fit of each of its products, its activation and its layout copies. A
/// collective costs by its group: the fit of exactly that group, or where there is none, the
/// start-up of all ranks and what the links on its way take. Uneven traffic is charged as its
/// busiest rank's. Keeps a reference to the cluster.
class CostModel {
 public:
  explicit CostModel(const Cluster& cluster) : cluster_(cluster) {}

  /// Throws InputError naming what the profile lacks.
  TaskCost operator()(const Work& work, std::size_t rank = 0) const;

  /// The same, but adds what is missing to `missing` instead of throwing.
  TaskCost look_up(const Work& work, std::size_t rank, std::set<std::string>& missing) const;
  /// Null where the profile has no fit of this exact shape.
  const ExpertFit* expert_fit(const Products& products) const;
  /// Null where the profile says not modelled; adds to `missing` where it says nothing.
  const Fit<Bytes>* kernel_fit(MemoryKernel kernel, std::set<std::string>& missing) const;
  /// `kernel` itself where the profile has it, else the general kernel.
  MemoryKernel resolve(MemoryKernel kernel) const;
  /// Null where there is no fit of exactly this kind and group.
  const CollectiveFit* collective_fit(CollectiveKind kind, Group group) const;

 private:
  TaskCost products_cost(const Products& products, std::size_t rank,
                         std::set<std::string>& missing) const;
  TaskCost collective_cost(const Collective& collective, std::set<std::string>& missing) const;
  TaskCost kernel_cost(MemoryKernel kernel, Bytes bytes, std::set<std::string>& missing) const;

  const Cluster& cluster_;
};

/// The costs of a graph's tasks on every rank. Ranks of equal work are one class; there is one
/// class unless work differs between ranks. Keeps references to the graph and the cluster.
class Costs {
 public:
  /// Throws InputError when the graph is for another number of ranks, or one line that lists every
  /// task, or kind of task, without a cost.
  Costs(const TaskGraph& graph, const Cluster& cluster);
  Costs(TaskGraph&& graph, const Cluster& cluster) = delete;  // it would dangle

  const TaskGraph& graph() const { return graph_; }
  const Cluster& cluster() const { return cluster_; }
  std::size_t num_classes() const { return representatives_.size(); }
  /// The lowest rank of a class.
  std::int64_t representative(std::size_t rank_class) const { return representatives_[rank_class]; }
  std::size_t class_of(std::int64_t rank) const {
    return class_of_.empty() ? 0 : class_of_[static_cast<std::size_t>(rank)];
  }
  const TaskCost& at(TaskId id, std::size_t rank_class = 0) const {
    return costs_[rank_class * graph_.size() + id];
  }

  bool contends() const { return !slowed_by_.empty(); }
  /// While the task computes beside collectives. Requires contends().
  const Slowdowns& slowdowns(TaskId compute) const { return *slowed_by_[compute]; }

  /// How many tasks' amounts are outside the range of their fits.
  std::size_t num_extrapolated() const;
  /// What a reader of any result must know: tasks that cost nothing because the profile does not
  /// model them, experts of a shape without a fit of its own, collectives that are estimated from
  /// links, fits used outside their range, and a fit that the profile's own links contradict.
  std::vector<std::string> notes() const;

 private:
  void find_classes();

  const TaskGraph& graph_;
  const Cluster& cluster_;
  std::vector<std::int64_t> representatives_;
  std::vector<std::uint32_t> class_of_;      // by rank; empty with one class
  std::vector<TaskCost> costs_;              // [class][task]
  std::vector<const Slowdowns*> slowed_by_;  // by task; empty without contention
};

}  // namespace pipemoe
