// The one description of a pipelined computation: tasks, what each needs, and the order in which
// each stream takes them. Single program, multiple data: a task is the same on every rank, a
// collective joins the ranks, and nothing here says who will run it or how long it takes.
#pragma once

#include <array>
#include <boost/graph/compressed_sparse_row_graph.hpp>
#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "models/operation.hpp"

namespace pipemoe {

enum class Phase { Forward, Backward };

/// One in-order queue of a rank, real or simulated.
enum class Stream { Compute, InterNode, IntraNode };
inline constexpr std::array<Stream, 3> kStreams{Stream::Compute, Stream::InterNode,
                                                Stream::IntraNode};

std::string to_string(Phase phase);
std::string to_string(Stream stream);
Phase phase_from(const std::string& name);
Stream stream_from(const std::string& name);

/// Which task of an iteration this is; unique within a graph.
struct TaskKey {
  int layer = 0;
  Phase phase = Phase::Forward;
  OperationKind operation = OperationKind::Gate;
  int chunk = 0;

  /// For example "layer0.forward.dispatch.2".
  std::string name() const;
  auto operator<=>(const TaskKey&) const = default;
};

struct Task {
  int layer = 0;
  int chunk = 0;
  Phase phase = Phase::Forward;
  Stream stream = Stream::Compute;
  Operation operation;

  TaskKey key() const { return {layer, phase, kind_of(operation), chunk}; }
  std::string name() const { return key().name(); }
  bool operator==(const Task&) const = default;
};

using TaskId = std::uint32_t;

/// Why one task comes before another.
enum class Precedence { Data, StreamOrder };

struct Degrees {
  std::int64_t forward_degree = 1;
  std::int64_t backward_degree = 1;
  bool operator==(const Degrees&) const = default;
};
std::string to_string(Degrees degrees);         ///< "4", or "4/2": forward's / backward's
Degrees degrees_from(const std::string& text);  ///< throws InputError ("must be ...")

/// Immutable; made and checked by TaskGraphBuilder.
class TaskGraph {
 public:
  /// Data dependencies and, between neighbours of one stream, stream order.
  using Structure = boost::compressed_sparse_row_graph<boost::directedS, boost::no_property,
                                                       Precedence, boost::no_property, TaskId>;
  using Edge = std::pair<TaskId, TaskId>;

  const std::string& schedule() const { return schedule_; }
  std::int64_t num_ranks() const { return num_ranks_; }
  std::size_t size() const { return tasks_.size(); }
  const Task& task(TaskId id) const { return tasks_[id]; }
  const std::vector<Task>& tasks() const { return tasks_; }
  const std::vector<TaskId>& stream_order(Stream stream) const {
    return stream_order_[static_cast<std::size_t>(stream)];
  }
  /// Tasks in an order that respects every precedence.
  const std::vector<TaskId>& topological_order() const { return topological_order_; }
  const Structure& structure() const { return structure_; }
  /// Data dependencies (before, after), ascending.
  std::vector<Edge> dependencies() const;

  /// Calls visit(TaskId) for every task that waits for `id`; `precedence` tells why.
  template <class Visit>
  void for_each_successor(TaskId id, Visit visit) const {
    const auto [begin, end] = boost::out_edges(id, structure_);
    for (auto edge = begin; edge != end; ++edge) {
      visit(static_cast<TaskId>(boost::target(*edge, structure_)), structure_[*edge]);
    }
  }

  bool operator==(const TaskGraph& other) const;

 private:
  friend class TaskGraphBuilder;

  std::string schedule_;
  std::int64_t num_ranks_ = 1;
  std::vector<Task> tasks_;
  std::array<std::vector<TaskId>, kStreams.size()> stream_order_;
  Structure structure_;
  std::vector<TaskId> topological_order_;
};

class TaskGraphBuilder {
 public:
  TaskGraphBuilder(std::string schedule, std::int64_t num_ranks);

  /// Does not place the task on its stream: `enqueue` does.
  TaskId add(Task task);
  void depend(TaskId before, TaskId after);
  /// Appends the task to its stream's order.
  void enqueue(TaskId id);
  /// The same for a stream that was read: throws InputError when it is not the task's.
  void enqueue(TaskId id, Stream stream);
  /// add and enqueue: the task runs after all that its stream holds so far.
  TaskId append(Task task);

  /// Throws InputError naming the tasks when a task stands twice or in no stream's order, chunks of
  /// a step are not numbered 0.. without a gap, or precedences form a cycle.
  TaskGraph build() &&;

 private:
  void check_tasks() const;
  void check_stream_orders() const;

  TaskGraph graph_;
  std::vector<TaskGraph::Edge> dependencies_;
};

/// What a whole graph moves and computes in one phase, per rank.
struct WorkTotals {
  Bytes dispatched;
  Bytes combined;
  Flops flops;
  bool operator==(const WorkTotals&) const = default;
};
WorkTotals total_work(const TaskGraph& graph, Phase phase);

}  // namespace pipemoe
