// The one description of a pipelined computation: tasks, what each needs, and the order in which
// each queue takes them. Single program, multiple data: every rank has every task, a collective
// joins the ranks, and nothing here says who will run it or how long it takes.
#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "models/work.hpp"

namespace pipemoe {

enum class Pass { Forward, Backward };

/// What a task is for. In the backward pass a step's name means its gradient: a backward `combine`
/// is the all-to-all that runs first.
enum class Step {
  Gate,      ///< scores the tokens and picks top_k experts for each
  Permute,   ///< lays tokens out by expert
  Dispatch,  ///< brings rows to their experts
  Expert,    ///< backward: both gradients in one task
  ExpertInputGradient,
  ExpertWeightGradient,
  Combine,    ///< brings rows back from the experts
  Unpermute,  ///< brings rows back into token order, weighted by the gate
};

std::string to_string(Pass pass);
std::string to_string(Step step);
/// Throw InputError naming the allowed words.
Pass pass_from(const std::string& name);
Step step_from(const std::string& name);

/// Which task of an iteration this is; unique within a graph.
struct TaskKey {
  int microbatch = 0;
  int block = 0;  ///< of the model: its first layer is 0
  Pass pass = Pass::Forward;
  Step step = Step::Gate;
  int chunk = 0;
  int stage = 0;  ///< numbers the parts of a hierarchical collective

  /// For example "block0.forward.dispatch.2"; in a later micro-batch "microbatch1.block0...", and
  /// a later stage adds its number: "block0.forward.dispatch.2.1".
  std::string name() const;
  auto operator<=>(const TaskKey&) const = default;
};

/// What a queue occupies while it runs a task. Queues of one resource share it.
enum class Resource {
  Compute,
  Network,    ///< a rank's way out of its node
  NodeLinks,  ///< links between the GPUs of a node
  CopyEngine,
  Host,
};
std::string to_string(Resource resource);
Resource resource_from(const std::string& name);  ///< throws InputError naming the resources
/// Whether what runs there moves data between ranks.
bool is_communication(Resource resource);

using QueueId = std::uint8_t;
inline constexpr std::size_t kMaxQueues = 16;

/// One in-order queue of a rank: a CUDA stream, a thread, or a simulated one.
struct Queue {
  std::string name;
  Resource resource = Resource::Compute;
  int priority = 0;  ///< higher goes first where hardware chooses
  bool operator==(const Queue&) const = default;
};

struct Task {
  TaskKey key;
  QueueId queue = 0;
  Work work;

  std::string name() const { return key.name(); }
  bool operator==(const Task&) const = default;
};

using TaskId = std::uint32_t;

/// Immutable; made and checked by TaskGraphBuilder. models/boost_graph.hpp shows it to Boost.Graph.
class TaskGraph {
 public:
  using Edge = std::pair<TaskId, TaskId>;
  struct Successor {
    TaskId task = 0;
    bool is_data = true;  ///< else it is only the next one on its queue
  };

  const std::string& schedule() const { return schedule_; }
  std::int64_t num_ranks() const { return num_ranks_; }
  std::size_t size() const { return tasks_.size(); }
  const Task& task(TaskId id) const { return tasks_[id]; }
  const std::vector<Task>& tasks() const { return tasks_; }
  const std::vector<Queue>& queues() const { return queues_; }
  const Queue& queue_of(TaskId id) const { return queues_[tasks_[id].queue]; }
  std::span<const TaskId> queue_order(QueueId queue) const {
    return {queue_order_.data() + first_of_queue_[queue],
            queue_order_.data() + first_of_queue_[queue + 1u]};
  }
  /// Tasks in an order that respects every precedence.
  const std::vector<TaskId>& topological_order() const { return topological_order_; }
  /// What waits for a task: by data, or as the next on its queue.
  std::span<const Successor> successors(TaskId id) const {
    return {successors_.data() + first_successor_[id],
            successors_.data() + first_successor_[id + 1]};
  }
  /// How many precedences a task waits for.
  const std::vector<std::uint32_t>& num_predecessors() const { return num_predecessors_; }
  /// Data dependencies (before, after), ascending.
  std::vector<Edge> dependencies() const;

  bool operator==(const TaskGraph& other) const;

 private:
  friend class TaskGraphBuilder;

  std::string schedule_;
  std::int64_t num_ranks_ = 1;
  std::vector<Queue> queues_;
  std::vector<Task> tasks_;
  std::vector<TaskId> queue_order_;  // of all queues, one behind another
  std::vector<std::uint32_t> first_of_queue_, first_successor_, num_predecessors_;
  std::vector<Successor> successors_;
  std::vector<TaskId> topological_order_;
};

class TaskGraphBuilder {
 public:
  TaskGraphBuilder(std::string schedule, std::int64_t num_ranks, std::vector<Queue> queues);

  const std::vector<Queue>& queues() const { return graph_.queues_; }
  /// Does not place the task on its queue: `enqueue` does.
  TaskId add(Task task);
  void depend(TaskId before, TaskId after);
  /// Appends the task to its queue's order.
  void enqueue(TaskId id);
  /// The same for an order that was read: throws InputError when the task has another queue.
  void enqueue(TaskId id, QueueId queue);
  /// add and enqueue: the task runs after all that its queue holds so far.
  TaskId append(Task task);

  /// Throws InputError naming the tasks when two have one key, a task is not in its queue's order
  /// exactly once, chunks or stages of a step are not numbered 0.. without a gap, groups or
  /// per-rank values do not suit the number of ranks, or precedences form a cycle.
  TaskGraph build() &&;

 private:
  TaskGraph graph_;
  std::vector<std::pair<TaskId, TaskGraph::Successor>> edges_;
  std::vector<TaskId> enqueued_;
};

/// The queues of a layer that nothing else shares: one computes, one communicates.
std::vector<Queue> compute_and_communication();
inline constexpr QueueId kComputeQueue = 0, kCommunicationQueue = 1;

/// What a whole graph moves and computes in one pass, on a rank.
struct WorkTotals {
  Bytes dispatched;
  Bytes combined;
  Flops flops;  ///< of rank 0
  bool operator==(const WorkTotals&) const = default;
};
WorkTotals total_work(const TaskGraph& graph, Pass pass);
/// Flops are sums of integers too large for a double's exact range, hence a tolerance of 1e-12.
bool equal_work(const WorkTotals& a, const WorkTotals& b);

/// Throws InputError naming the tasks unless, in each block, every rank's experts compute the rows
/// that their all-to-all brings, as many bytes are combined as dispatched, and both gradients take
/// twice the flops of the forward pass, where the graph has these steps.
void check_conservation(const TaskGraph& graph);

}  // namespace pipemoe
