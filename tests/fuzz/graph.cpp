// Task graphs as JSON.
#include <nlohmann/json.hpp>

#include "models/schedule.hpp"
#include "models/task_graph_io.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::graph_target {

bool run(std::string_view text) {
  constexpr std::int64_t kMostRanks = 64;
  constexpr std::size_t kMostTasks = 64;
  TaskGraph graph;
  if (!accepts([&] { graph = task_graph_from_json(text, "graph.json"); })) return false;
  require_printable(graph.schedule(), "the schedule's name");
  require_round_trip(graph);
  if (graph.num_ranks() > kMostRanks || graph.size() > kMostTasks) return true;
  require(!to_dot(graph).empty() && !to_graphml(graph).empty(), "no text");
  for (const Task& task : graph.tasks()) {
    require_within(product_flops(task.work).count, 0, 1e300, "flops");
    require_within(collective_bytes(task.work).amount(), 0, 0x1p63, "bytes of a collective");
  }
  require_evaluates(graph, cluster_of(graph.num_ranks()));
  return true;
}

std::string compact(const TaskGraph& graph) {
  return nlohmann::ordered_json::parse(to_json(graph)).dump();
}

// Each shape of work, also with a value for each rank.
TaskGraph few_tasks() {
  TaskGraphBuilder builder("by hand", 2, compute_and_communication());
  const TaskId gate = builder.append(
      {TaskKey{}, kComputeQueue,
       MemoryTraffic{MemoryKernel::Gate, PerRank<Bytes>(std::vector<Bytes>{{100}, {200}})}});
  const TaskId dispatch = builder.append(
      {TaskKey{.step = Step::Dispatch}, kCommunicationQueue,
       Collective{CollectiveKind::AllToAll, Group{2, 1},
                  TrafficMatrix::of_pairs(2, {Bytes{1000}, Bytes{0}, Bytes{500}, Bytes{7}})}});
  const TaskId expert = builder.append(
      {TaskKey{.step = Step::Permute}, kComputeQueue, Timed{PerRank<Seconds>(Seconds{1e-3})}});
  builder.depend(gate, dispatch);
  builder.depend(dispatch, expert);
  return std::move(builder).build();
}

std::vector<std::string> seeds() {
  const MoeLayer layer{
      .tokens_per_rank = 64, .model_dim = 8, .hidden_dim = 8, .num_experts = 8, .top_k = 1};
  const Cluster cluster = cluster_of(4);
  std::vector<std::string> texts{compact(few_tasks())};
  for (const char* schedule : {"pipemoe", "pipemoe-deferred", "sequential", "fastermoe"}) {
    texts.push_back(compact(build_graph(schedule, layer, cluster, Degrees{1, 1})));
  }
  texts.push_back(compact(build_graph("pipemoe", layer, cluster, Degrees{2, 1})));
  return texts;
}

const Registration registration({"graph", Syntax::Json, run, seeds});

}  // namespace pipemoe::fuzz::graph_target
