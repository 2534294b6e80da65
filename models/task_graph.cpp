#include "models/task_graph.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <boost/graph/depth_first_search.hpp>
#include <cmath>
#include <map>
#include <tuple>

#include "models/boost_graph.hpp"
#include "models/error.hpp"
#include "models/names.hpp"

namespace pipemoe {
namespace {

constexpr Names<Pass, 2> kPasses{{{Pass::Forward, "forward"}, {Pass::Backward, "backward"}}};
constexpr Names<Step, 8> kSteps{{
    {Step::Gate, "gate"},
    {Step::Permute, "permute"},
    {Step::Dispatch, "dispatch"},
    {Step::Expert, "expert"},
    {Step::ExpertInputGradient, "expert_input_gradient"},
    {Step::ExpertWeightGradient, "expert_weight_gradient"},
    {Step::Combine, "combine"},
    {Step::Unpermute, "unpermute"},
}};
constexpr Names<Resource, 5> kResources{{{Resource::Compute, "compute"},
                                         {Resource::Network, "network"},
                                         {Resource::NodeLinks, "node_links"},
                                         {Resource::CopyEngine, "copy_engine"},
                                         {Resource::Host, "host"}}};

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

std::vector<TaskId> topological_order(const TaskGraph& graph) {
  const BoostGraph structure = boost_graph(graph);
  std::vector<TaskId> finished, path;
  finished.reserve(graph.size());
  std::vector<boost::default_color_type> colors(graph.size());
  boost::depth_first_search(structure, OrderVisitor(graph.tasks(), finished, path),
                            boost::make_iterator_property_map(
                                colors.begin(), boost::get(boost::vertex_index, structure)));
  std::reverse(finished.begin(), finished.end());
  return finished;
}

// A key as one number that sorts as the key does, for keys as small as real ones are.
std::uint64_t packed(const TaskKey& key) {
  const auto field = [](auto value) { return static_cast<std::uint64_t>(value); };
  return field(key.microbatch) << 52 | field(key.block) << 36 | field(key.pass) << 35 |
         field(key.step) << 31 | field(key.chunk) << 8 | field(key.stage);
}
bool packs(const TaskKey& key) {
  return key.microbatch >= 0 && key.microbatch < 1 << 12 && key.block >= 0 && key.block < 1 << 16 &&
         key.chunk >= 0 && key.chunk < 1 << 23 && key.stage >= 0 && key.stage < 1 << 8;
}

void check_key_follows(const TaskKey& key, const TaskKey* before) {
  if (before != nullptr && key == *before) {
    throw InputError(fmt::format("task graph: two tasks are {}", key.name()));
  }
  const auto step = [](const TaskKey& of) {
    return std::tuple(of.microbatch, of.block, of.pass, of.step);
  };
  const bool same_step = before != nullptr && step(*before) == step(key);
  const bool same_chunk = same_step && before->chunk == key.chunk;
  const int stage = same_chunk ? before->stage + 1 : 0;
  const int chunk = same_chunk ? key.chunk : same_step ? before->chunk + 1 : 0;
  if (key.chunk != chunk) {
    throw InputError(fmt::format("task graph: {} has no chunk {} before it", key.name(), chunk));
  }
  if (key.stage != stage) {
    throw InputError(fmt::format("task graph: {} has no stage {} before it", key.name(), stage));
  }
}

// Whether all tasks are of one block and each step's chunks come in order, without stages: what
// most graphs of a layer do.
bool has_plain_keys(const std::vector<Task>& tasks) {
  std::array<std::array<int, kSteps.size()>, kPasses.size()> chunks{};
  for (const Task& task : tasks) {
    const TaskKey& key = task.key;
    if (key.microbatch != 0 || key.block != 0 || key.stage != 0) return false;
    int& next = chunks[static_cast<std::size_t>(key.pass)][static_cast<std::size_t>(key.step)];
    if (key.chunk != next++) return false;
  }
  return tasks.size() < 1 << 23;
}

void check_keys(const std::vector<Task>& tasks) {
  if (has_plain_keys(tasks)) return;
  std::vector<std::pair<std::uint64_t, TaskId>> sorted;
  sorted.reserve(tasks.size());
  for (TaskId id = 0; id < tasks.size(); ++id) {
    if (!packs(tasks[id].key)) {
      throw InputError(fmt::format(
          "task graph: {} is out of range: 4096 micro-batches, 65536 blocks, 8388608 chunks and "
          "256 stages are the most",
          tasks[id].name()));
    }
    sorted.emplace_back(packed(tasks[id].key), id);
  }
  std::sort(sorted.begin(), sorted.end());
  const TaskKey* before = nullptr;
  for (const auto& [number, id] : sorted) {
    check_key_follows(tasks[id].key, before);
    before = &tasks[id].key;
  }
}

void check_group(const Task& task, const Collective& collective, std::int64_t num_ranks) {
  const auto [count, stride] = collective.group;
  const bool divides = count >= 1 && stride >= 1 && count <= num_ranks &&
                       stride <= num_ranks / count && num_ranks % (count * stride) == 0;
  if (!divides) {
    throw InputError(fmt::format("task graph: {} has groups of {}, which do not divide {} ranks",
                                 task.name(), to_string(collective.group), num_ranks));
  }
  const TrafficMatrix& traffic = collective.traffic;
  const bool all = count == num_ranks;
  if (!traffic.is_uniform() && (!all || collective.kind != CollectiveKind::AllToAll)) {
    throw InputError(
        fmt::format("task graph: {} has uneven traffic, which only an all-to-all of "
                    "all ranks can have",
                    task.name()));
  }
  if (traffic.block_size() > 0 && num_ranks % traffic.block_size() != 0) {
    throw InputError(
        fmt::format("task graph: {} has blocks of {} ranks, which do not divide {} ranks",
                    task.name(), traffic.block_size(), num_ranks));
  }
  const auto ranks = static_cast<std::size_t>(num_ranks);
  if (!traffic.is_balanced() && traffic.pairs().size() != ranks * ranks) {
    throw InputError(fmt::format("task graph: {} has traffic of another number of ranks than {}",
                                 task.name(), num_ranks));
  }
}

void check_per_rank(const Task& task, std::size_t values, std::int64_t num_ranks) {
  if (values == 0 || values == static_cast<std::size_t>(num_ranks)) return;
  throw InputError(fmt::format("task graph: {} has values for {} ranks, must have {}", task.name(),
                               values, num_ranks));
}

void check_ranks(const Task& task, std::int64_t num_ranks) {
  std::visit(
      Overloaded{[&](const Products& products) {
                   check_per_rank(task, products.rows.each().size(), num_ranks);
                 },
                 [&](const MemoryTraffic& memory) {
                   check_per_rank(task, memory.bytes.each().size(), num_ranks);
                 },
                 [&](const Collective& collective) { check_group(task, collective, num_ranks); },
                 [&](const Timed& timed) {
                   check_per_rank(task, timed.duration.each().size(), num_ranks);
                 }},
      task.work);
}

// The work of one block in one micro-batch.
struct BlockTotals {
  WorkTotals forward, backward;
  bool dispatches = false, combines = false;
  Flops input_gradient, weight_gradient;
};

void add_to(BlockTotals& block, const Task& task) {
  WorkTotals& pass = task.key.pass == Pass::Forward ? block.forward : block.backward;
  switch (task.key.step) {
    case Step::Dispatch:
      if (task.key.stage == 0) pass.dispatched += collective_bytes(task.work);
      break;
    case Step::Combine:
      if (task.key.stage == 0) pass.combined += collective_bytes(task.work);
      break;
    case Step::Expert:
    case Step::ExpertInputGradient:
    case Step::ExpertWeightGradient:
      pass.flops += product_flops(task.work);
      break;
    case Step::Gate:
    case Step::Permute:
    case Step::Unpermute:
      break;
  }
}

// The experts of a chunk compute on each rank the rows that their all-to-all brought there.
void check_received_rows(const Task& arrival, const Task& expert, std::int64_t num_ranks) {
  const Collective* collective = collective_of(arrival.work);
  const Products* products = products_of(expert.work);
  if (collective == nullptr || products == nullptr) return;
  if (collective->kind != CollectiveKind::AllToAll || arrival.key.stage != 0) return;
  if (products->shapes.size() != 2 && products->shapes.size() != 4) return;  // no MoeLayer's
  const double row =
      static_cast<double>(products->expert_sizes().model_dim * size_of(products->dtype));
  const bool uniform = collective->traffic.is_balanced() && products->rows.is_uniform();
  for (std::int64_t rank = 0; rank < (uniform ? 1 : num_ranks); ++rank) {
    const double received = collective->traffic.received_by(rank, num_ranks) / row;
    const auto computed = static_cast<double>(products->rows[static_cast<std::size_t>(rank)]);
    if (std::abs(received - computed) <= 0.5) continue;
    throw InputError(
        fmt::format("task graph: {} computes {:.0f} rows on rank {}, {} brings {:.1f} there",
                    expert.name(), computed, rank, arrival.name(), received));
  }
}

bool brings_rows(const TaskKey& key) {
  return key.step == (key.pass == Pass::Forward ? Step::Dispatch : Step::Combine);
}

}  // namespace

std::string to_string(Pass pass) { return name_of(kPasses, pass); }
std::string to_string(Step step) { return name_of(kSteps, step); }
std::string to_string(Resource resource) { return name_of(kResources, resource); }
Pass pass_from(const std::string& name) { return value_of(kPasses, name); }
Step step_from(const std::string& name) { return value_of(kSteps, name); }
Resource resource_from(const std::string& name) { return value_of(kResources, name); }

bool is_communication(Resource resource) {
  switch (resource) {
    case Resource::Compute:
    case Resource::Host:
      return false;
    case Resource::Network:
    case Resource::NodeLinks:
    case Resource::CopyEngine:
      return true;
  }
  throw std::logic_error("pipemoe bug: unknown resource");
}

std::string TaskKey::name() const {
  return fmt::format(
      "{}block{}.{}.{}.{}{}", microbatch == 0 ? "" : fmt::format("microbatch{}.", microbatch),
      block, to_string(pass), to_string(step), chunk, stage == 0 ? "" : fmt::format(".{}", stage));
}

std::vector<TaskGraph::Edge> TaskGraph::dependencies() const {
  std::vector<Edge> edges;
  for (TaskId id = 0; id < size(); ++id) {
    for (const Successor after : successors(id)) {
      if (after.is_data) edges.emplace_back(id, after.task);
    }
  }
  std::sort(edges.begin(), edges.end());
  return edges;
}

bool TaskGraph::operator==(const TaskGraph& other) const {
  return schedule_ == other.schedule_ && num_ranks_ == other.num_ranks_ &&
         queues_ == other.queues_ && tasks_ == other.tasks_ &&
         first_of_queue_ == other.first_of_queue_ && queue_order_ == other.queue_order_ &&
         dependencies() == other.dependencies();
}

TaskGraphBuilder::TaskGraphBuilder(std::string schedule, std::int64_t num_ranks,
                                   std::vector<Queue> queues) {
  if (queues.empty() || queues.size() > kMaxQueues) {
    throw InputError(
        fmt::format("task graph has {} queues, must have 1..{}", queues.size(), kMaxQueues));
  }
  for (std::size_t i = 0; i < queues.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (queues[i].name == queues[j].name) {
        throw InputError(fmt::format("task graph: two queues are named {}", queues[i].name));
      }
    }
  }
  graph_.schedule_ = std::move(schedule);
  graph_.num_ranks_ = num_ranks;
  graph_.queues_ = std::move(queues);
  constexpr std::size_t kFewTasks = 64;
  graph_.tasks_.reserve(kFewTasks);
  enqueued_.reserve(kFewTasks);
  edges_.reserve(4 * kFewTasks);
}

TaskId TaskGraphBuilder::add(Task task) {
  ensure(task.queue < graph_.queues_.size(), "a task of a queue that its graph lacks");
  graph_.tasks_.push_back(std::move(task));
  return static_cast<TaskId>(graph_.tasks_.size() - 1);
}

void TaskGraphBuilder::depend(TaskId before, TaskId after) {
  edges_.push_back({before, {after, true}});
}

void TaskGraphBuilder::enqueue(TaskId id) { enqueued_.push_back(id); }

void TaskGraphBuilder::enqueue(TaskId id, QueueId queue) {
  const Task& task = graph_.tasks_[id];
  if (task.queue != queue) {
    throw InputError(fmt::format("task graph: {} is for queue {} and is listed in queue {}",
                                 task.name(), graph_.queues_[task.queue].name,
                                 graph_.queues_[queue].name));
  }
  enqueue(id);
}

TaskId TaskGraphBuilder::append(Task task) {
  ensure(task.queue < graph_.queues_.size(), "a task of a queue that its graph lacks");
  const auto id = static_cast<TaskId>(graph_.tasks_.size());
  graph_.tasks_.push_back(std::move(task));
  enqueue(id);
  return id;
}

TaskGraph TaskGraphBuilder::build() && {
  TaskGraph& graph = graph_;
  const std::size_t size = graph.size(), queues = graph.queues_.size();
  check_keys(graph.tasks_);
  for (const Task& task : graph.tasks_) check_ranks(task, graph.num_ranks_);

  // Queue orders, by counting.
  std::vector<std::uint32_t>& first = graph.first_of_queue_;
  first.assign(queues + 1, 0);
  graph.num_predecessors_.assign(size, 0);
  std::vector<std::uint32_t>& places =
      graph.num_predecessors_;  // first as how often a task is there
  for (const TaskId id : enqueued_) {
    ++first[graph.tasks_[id].queue + 1u];
    ++places[id];
  }
  for (TaskId id = 0; id < size; ++id) {
    if (places[id] == 1) continue;
    throw InputError(fmt::format("task graph: {} appears {} times in its queue; expected once",
                                 graph.tasks_[id].name(), places[id]));
  }
  for (std::size_t queue = 0; queue < queues; ++queue) first[queue + 1] += first[queue];
  graph.queue_order_.resize(size);
  std::array<std::uint32_t, kMaxQueues> next{};
  std::copy(first.begin(), first.end() - 1, next.begin());
  for (const TaskId id : enqueued_) {
    std::uint32_t& place = next[graph.tasks_[id].queue];
    if (place > first[graph.tasks_[id].queue]) {
      edges_.push_back({graph.queue_order_[place - 1], {id, false}});
    }
    graph.queue_order_[place++] = id;
  }

  // Successors, by counting.
  bool ascending = true;
  graph.first_successor_.assign(size + 1, 0);
  std::fill(graph.num_predecessors_.begin(), graph.num_predecessors_.end(), 0);
  for (const auto& [before, after] : edges_) {
    ++graph.first_successor_[before + 1];
    ++graph.num_predecessors_[after.task];
    ascending &= before < after.task;
  }
  for (std::size_t id = 0; id < size; ++id) {
    graph.first_successor_[id + 1] += graph.first_successor_[id];
  }
  graph.successors_.resize(edges_.size());
  std::vector<std::uint32_t> place(graph.first_successor_.begin(),
                                   graph.first_successor_.end() - 1);
  for (const auto& [before, after] : edges_) graph.successors_[place[before]++] = after;

  // Most schedules add their tasks in an order that respects every precedence.
  if (ascending) {
    graph.topological_order_.resize(size);
    for (TaskId id = 0; id < size; ++id) graph.topological_order_[id] = id;
  } else {
    graph.topological_order_ = topological_order(graph);
  }
  return std::move(graph_);
}

std::vector<Queue> compute_and_communication() {
  return {{"compute", Resource::Compute, 0}, {"communication", Resource::Network, 1}};
}

WorkTotals total_work(const TaskGraph& graph, Pass pass) {
  BlockTotals all;
  for (const Task& task : graph.tasks()) {
    if (task.key.pass == pass) add_to(all, task);
  }
  return pass == Pass::Forward ? all.forward : all.backward;
}

bool equal_work(const WorkTotals& a, const WorkTotals& b) {
  return a.dispatched == b.dispatched && a.combined == b.combined &&
         std::abs(a.flops.count - b.flops.count) <= 1e-12 * b.flops.count;
}

void check_conservation(const TaskGraph& graph) {
  using BlockKey = std::pair<int, int>;
  std::vector<std::pair<BlockKey, BlockTotals>> blocks;
  std::map<BlockKey, std::size_t> place;  // of blocks but the last one that a task was of
  std::size_t block = 0;
  for (TaskId id = 0; id < graph.size(); ++id) {
    const Task& task = graph.task(id);
    const BlockKey of{task.key.microbatch, task.key.block};
    if (blocks.empty() || blocks[block].first != of) {
      if (!blocks.empty()) place.emplace(blocks[block].first, block);
      const auto known = place.find(of);
      block = known == place.end() ? blocks.size() : known->second;
      if (known == place.end()) blocks.push_back({of, {}});
    }
    add_to(blocks[block].second, task);
    if (!brings_rows(task.key)) continue;
    for (const TaskGraph::Successor after : graph.successors(id)) {
      const Task& expert = graph.task(after.task);
      const bool its_own = after.is_data && expert.key.chunk == task.key.chunk &&
                           expert.key.block == task.key.block && expert.key.pass == task.key.pass;
      if (its_own) check_received_rows(task, expert, graph.num_ranks());
    }
  }
  for (const auto& [key, totals] : blocks) {
    const std::string name =
        fmt::format("task graph: block {} of micro-batch {}", key.second, key.first);
    for (const WorkTotals* pass : {&totals.forward, &totals.backward}) {
      const bool both = pass->dispatched.count > 0 && pass->combined.count > 0;
      if (both && pass->dispatched != pass->combined) {
        throw InputError(
            fmt::format("{} dispatches {} bytes {} and combines {}", name, pass->dispatched.count,
                        pass == &totals.forward ? "forward" : "backward", pass->combined.count));
      }
    }
    const double forward = totals.forward.flops.count, backward = totals.backward.flops.count;
    if (forward > 0 && backward > 0 && std::abs(backward - 2 * forward) > 1e-12 * backward) {
      throw InputError(
          fmt::format("{} computes {:.6g} flops forward and {:.6g} backward, which "
                      "must be twice as many",
                      name, forward, backward));
    }
  }
}

}  // namespace pipemoe
