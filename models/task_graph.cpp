#include "models/task_graph.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <boost/graph/depth_first_search.hpp>
#include <charconv>
#include <map>
#include <set>
#include <utility>

#include "models/error.hpp"
#include "models/names.hpp"

namespace pipemoe {
namespace {

constexpr Names<Phase, 2> kPhases{{{Phase::Forward, "forward"}, {Phase::Backward, "backward"}}};
constexpr Names<Stream, 3> kStreamNames{{{Stream::Compute, "compute"},
                                         {Stream::InterNode, "inter_node"},
                                         {Stream::IntraNode, "intra_node"}}};

// Collects tasks in reverse topological order; on a cycle throws, naming its tasks.
class OrderVisitor : public boost::default_dfs_visitor {
 public:
  OrderVisitor(const std::vector<Task>& tasks, std::vector<TaskId>& finished,
               std::vector<TaskId>& path)
      : tasks_(tasks), finished_(finished), path_(path) {}

  template <class Graph>
  void discover_vertex(TaskId id, const Graph&) {
    path_.push_back(id);
  }
  template <class Graph>
  void finish_vertex(TaskId id, const Graph&) {
    path_.pop_back();
    finished_.push_back(id);
  }
  template <class Edge, class Graph>
  void back_edge(Edge edge, const Graph& graph) {
    const auto first =
        std::find(path_.begin(), path_.end(), static_cast<TaskId>(boost::target(edge, graph)));
    std::string cycle;
    for (auto id = first; id != path_.end(); ++id) cycle += tasks_[*id].name() + " -> ";
    throw InputError("task graph has a cycle: " + cycle + tasks_[*first].name());
  }

 private:
  const std::vector<Task>& tasks_;
  std::vector<TaskId>& finished_;
  std::vector<TaskId>& path_;
};

std::vector<TaskId> topological_order(const TaskGraph::Structure& structure,
                                      const std::vector<Task>& tasks) {
  std::vector<TaskId> finished, path;
  finished.reserve(tasks.size());
  std::vector<boost::default_color_type> colors(tasks.size());
  boost::depth_first_search(structure, OrderVisitor(tasks, finished, path),
                            boost::make_iterator_property_map(
                                colors.begin(), boost::get(boost::vertex_index, structure)));
  std::reverse(finished.begin(), finished.end());
  return finished;
}

}  // namespace

std::string to_string(Degrees degrees) {
  if (degrees.forward_degree == degrees.backward_degree) {
    return fmt::format("{}", degrees.forward_degree);
  }
  return fmt::format("{}/{}", degrees.forward_degree, degrees.backward_degree);
}

Degrees degrees_from(const std::string& text) {
  const auto slash = text.find('/');
  const auto degree = [&](const std::string& part) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < 1) {
      throw InputError(fmt::format("is \"{}\", must be a degree, or forward's / backward's", text));
    }
    return value;
  };
  if (slash == std::string::npos) return {degree(text), degree(text)};
  return {degree(text.substr(0, slash)), degree(text.substr(slash + 1))};
}

std::string to_string(Phase phase) { return name_of(kPhases, phase); }
std::string to_string(Stream stream) { return name_of(kStreamNames, stream); }
Phase phase_from(const std::string& name) { return value_of(kPhases, name); }
Stream stream_from(const std::string& name) { return value_of(kStreamNames, name); }

std::string TaskKey::name() const {
  return fmt::format("layer{}.{}.{}.{}", layer, to_string(phase), to_string(operation), chunk);
}

std::vector<TaskGraph::Edge> TaskGraph::dependencies() const {
  std::vector<Edge> edges;
  for (TaskId id = 0; id < size(); ++id) {
    for_each_successor(id, [&](TaskId after, Precedence why) {
      if (why == Precedence::Data) edges.emplace_back(id, after);
    });
  }
  std::sort(edges.begin(), edges.end());
  return edges;
}

bool TaskGraph::operator==(const TaskGraph& other) const {
  return schedule_ == other.schedule_ && num_ranks_ == other.num_ranks_ && tasks_ == other.tasks_ &&
         stream_order_ == other.stream_order_ && dependencies() == other.dependencies();
}

TaskGraphBuilder::TaskGraphBuilder(std::string schedule, std::int64_t num_ranks) {
  graph_.schedule_ = std::move(schedule);
  graph_.num_ranks_ = num_ranks;
}

TaskId TaskGraphBuilder::add(Task task) {
  graph_.tasks_.push_back(std::move(task));
  return static_cast<TaskId>(graph_.tasks_.size() - 1);
}

void TaskGraphBuilder::depend(TaskId before, TaskId after) {
  dependencies_.emplace_back(before, after);
}

void TaskGraphBuilder::enqueue(TaskId id) {
  const auto stream = static_cast<std::size_t>(graph_.tasks_[id].stream);
  graph_.stream_order_[stream].push_back(id);
}

void TaskGraphBuilder::enqueue(TaskId id, Stream stream) {
  const Task& task = graph_.tasks_[id];
  if (task.stream != stream) {
    throw InputError(fmt::format("task graph: {} is for stream {}, stands in the order of {}",
                                 task.name(), to_string(task.stream), to_string(stream)));
  }
  enqueue(id);
}

TaskId TaskGraphBuilder::append(Task task) {
  const TaskId id = add(std::move(task));
  enqueue(id);
  return id;
}

void TaskGraphBuilder::check_tasks() const {
  std::vector<TaskKey> keys;
  keys.reserve(graph_.size());
  for (const Task& task : graph_.tasks_) keys.push_back(task.key());
  std::sort(keys.begin(), keys.end());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (i > 0 && keys[i] == keys[i - 1]) {
      throw InputError(fmt::format("task graph: {} stands twice", keys[i].name()));
    }
    TaskKey step = keys[i];
    step.chunk = 0;
    // Sorted: chunk 0 of a step first, then each next by one.
    const bool follows = i > 0 && keys[i - 1].layer == step.layer &&
                         keys[i - 1].phase == step.phase && keys[i - 1].operation == step.operation;
    const int expected = follows ? keys[i - 1].chunk + 1 : 0;
    if (keys[i].chunk != expected) {
      throw InputError(
          fmt::format("task graph: {} is there without chunk {}", keys[i].name(), expected));
    }
  }
}

void TaskGraphBuilder::check_stream_orders() const {
  std::vector<int> places(graph_.size(), 0);
  for (const auto& order : graph_.stream_order_) {
    for (const TaskId id : order) ++places[id];
  }
  for (TaskId id = 0; id < graph_.size(); ++id) {
    if (places[id] == 1) continue;
    throw InputError(fmt::format("task graph: {} stands {} times in its stream's order, must once",
                                 graph_.tasks_[id].name(), places[id]));
  }
}

TaskGraph TaskGraphBuilder::build() && {
  check_tasks();
  check_stream_orders();
  std::vector<TaskGraph::Edge> edges;
  std::vector<Precedence> reasons;
  edges.reserve(dependencies_.size() + graph_.size());
  reasons.reserve(dependencies_.size() + graph_.size());
  const auto add_edge = [&](TaskId before, TaskId after, Precedence why) {
    edges.emplace_back(before, after);
    reasons.push_back(why);
  };
  for (const auto& [before, after] : dependencies_) add_edge(before, after, Precedence::Data);
  for (const auto& order : graph_.stream_order_) {
    for (std::size_t i = 1; i < order.size(); ++i) {
      add_edge(order[i - 1], order[i], Precedence::StreamOrder);
    }
  }
  graph_.structure_ =
      TaskGraph::Structure(boost::edges_are_unsorted_multi_pass, edges.begin(), edges.end(),
                           reasons.begin(), static_cast<TaskId>(graph_.size()));
  graph_.topological_order_ = topological_order(graph_.structure_, graph_.tasks_);
  return std::move(graph_);
}

WorkTotals total_work(const TaskGraph& graph, Phase phase) {
  WorkTotals totals;
  for (const Task& task : graph.tasks()) {
    if (task.phase != phase) continue;
    totals.flops += expert_flops(task.operation);
    const auto* exchange = std::get_if<AllToAll>(&task.operation);
    if (exchange == nullptr) continue;
    Bytes& bytes = exchange->purpose == Purpose::Dispatch ? totals.dispatched : totals.combined;
    bytes += exchange->traffic.per_rank();
  }
  return totals;
}

}  // namespace pipemoe
