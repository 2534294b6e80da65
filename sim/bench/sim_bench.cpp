// Speed of the network levels and of building platforms. Run from the project's root.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "models/bench/statistics.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/schedule.hpp"
#include "sim/platform.hpp"
#include "sim/simulate.hpp"

namespace {

using namespace pipemoe;

constexpr std::array<std::int64_t, 5> kMixedDegrees{1, 2, 4, 8, 16};

/// The 64-GPU cluster, or one of that kind of node with `ranks` GPUs and the 64-GPU fit.
Cluster cluster_of(std::int64_t ranks) {
  Cluster cluster =
      read_cluster(ConfigFile::load("experiments/clusters/rtx2080ti-100gib-64.toml", "cluster"));
  const Fit<Bytes> fit = cluster.collectives.begin()->second;
  cluster.nodes = ranks / cluster.gpus_per_node;
  cluster.collectives[{CollectiveKind::AllToAll, cluster.all_ranks()}] = fit;
  return cluster;
}

MoeLayer layer_for(std::int64_t ranks) {
  ConfigFile file = ConfigFile::load("experiments/layers/pipemoe-example.toml", "layer");
  MoeLayer layer = read_layer(file);
  layer.num_experts = ranks;
  layer.tokens_per_rank = std::max(layer.tokens_per_rank, 8 * ranks);  // capacity for 16 chunks
  return layer;
}

/// Costs are ready: they are looked up once for many levels and choices.
void time_graphs(benchmark::State& state, NetworkLevel level, const Cluster& cluster,
                 const std::vector<TaskGraph>& graphs) {
  std::vector<Costs> costs;
  costs.reserve(graphs.size());
  for (const TaskGraph& graph : graphs) costs.emplace_back(graph, cluster);
  // All graphs in one iteration, so that each repeat does the same work.
  for (auto _ : state) {
    for (const Costs& of : costs) benchmark::DoNotOptimize(sim::simulated_times(of, level));
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(graphs.size()));
}

void time_layers(benchmark::State& state, NetworkLevel level, std::int64_t ranks,
                 const std::vector<std::int64_t>& degrees, bool contends = false) {
  Cluster cluster = cluster_of(ranks);
  if (contends) cluster.contention = Contention{{{1.3, 1.5}}, "benchmark"};
  std::vector<TaskGraph> graphs;
  for (const std::int64_t degree : degrees) {
    graphs.push_back(build_graph("pipemoe", layer_for(ranks), cluster, {degree, degree}));
  }
  time_graphs(state, level, cluster, graphs);
}

void Fitted_mixed_degrees(benchmark::State& state) {
  time_layers(state, NetworkLevel::Fitted, state.range(0),
              {kMixedDegrees.begin(), kMixedDegrees.end()});
}
BENCHMARK(Fitted_mixed_degrees)
    ->ArgName("gpus")
    ->Arg(64)
    ->Arg(1024)
    ->Arg(4096)
    ->Apply(bench::repeat);

void with_degrees(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("degree")->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Arg(16)->Apply(bench::repeat);
}
void Fitted_64_gpus(benchmark::State& state) {
  time_layers(state, NetworkLevel::Fitted, 64, {state.range(0)});
}
BENCHMARK(Fitted_64_gpus)->Apply(with_degrees);
void Links_64_gpus(benchmark::State& state) {
  time_layers(state, NetworkLevel::Links, 64, {state.range(0)});
}
BENCHMARK(Links_64_gpus)->Apply(with_degrees);
void Node_64_gpus(benchmark::State& state) {
  time_layers(state, NetworkLevel::Node, 64, {state.range(0)});
}
BENCHMARK(Node_64_gpus)->Apply(with_degrees);
void Node_64_gpus_contention(benchmark::State& state) {
  time_layers(state, NetworkLevel::Node, 64, {state.range(0)}, true);
}
BENCHMARK(Node_64_gpus_contention)->Apply(with_degrees);

void Links_degree_4(benchmark::State& state) {
  time_layers(state, NetworkLevel::Links, state.range(0), {4});
}
BENCHMARK(Links_degree_4)->ArgName("gpus")->Arg(1024)->Arg(4096)->Apply(bench::repeat);
void Node_degree_4(benchmark::State& state) {
  time_layers(state, NetworkLevel::Node, state.range(0), {4});
}
BENCHMARK(Node_degree_4)->ArgName("gpus")->Arg(1024)->Arg(4096)->Apply(bench::repeat);

/// The same exchange given as a matrix: a flow for every pair of nodes.
void pairs_degree_4(benchmark::State& state, NetworkLevel level) {
  const TaskGraph uniform = build_graph("pipemoe", layer_for(64), cluster_of(64), {4, 4});
  TaskGraphBuilder builder("pipemoe", 64, uniform.queues());
  for (Task task : uniform.tasks()) {
    std::visit(Overloaded{[](Collective& collective) {
                            const Bytes pair{collective.bytes().count / 64};
                            collective.traffic =
                                TrafficMatrix::of_pairs(64, std::vector<Bytes>(64 * 64, pair));
                          },
                          [](const Products&) {}, [](const MemoryTraffic&) {}, [](const Timed&) {}},
               task.work);
    builder.add(std::move(task));
  }
  for (const auto& [before, after] : uniform.dependencies()) builder.depend(before, after);
  for (QueueId queue = 0; queue < uniform.queues().size(); ++queue) {
    for (const TaskId id : uniform.queue_order(queue)) builder.enqueue(id);
  }
  std::vector<TaskGraph> graphs;
  graphs.push_back(std::move(builder).build());
  time_graphs(state, level, cluster_of(64), graphs);
}
void Links_pairs_degree_4(benchmark::State& state) { pairs_degree_4(state, NetworkLevel::Links); }
BENCHMARK(Links_pairs_degree_4)->Apply(bench::repeat);
void Node_pairs_degree_4(benchmark::State& state) { pairs_degree_4(state, NetworkLevel::Node); }
BENCHMARK(Node_pairs_degree_4)->Apply(bench::repeat);

void Gpu_degree_1(benchmark::State& state) { time_layers(state, NetworkLevel::Gpu, 64, {1}); }
BENCHMARK(Gpu_degree_1)->Unit(benchmark::kMillisecond)->Apply(bench::repeat);

/// One uniform exchange between 8,192 GPUs, 8 a node, on a fat tree with 32 nodes a leaf.
void fat_tree_1024_nodes(benchmark::State& state, NetworkLevel level) {
  Cluster cluster = cluster_of(64);
  cluster.nodes = 1024;
  cluster.gpus_per_node = 8;
  cluster.fat_tree = FatTree{32, 2};
  const Fit<Bytes> fit = cluster.collectives.begin()->second;
  cluster.collectives[{CollectiveKind::AllToAll, cluster.all_ranks()}] = fit;
  TaskGraphBuilder builder("exchange", cluster.num_ranks(), compute_and_communication());
  builder.append({{.step = Step::Dispatch},
                  kCommunicationQueue,
                  Collective{CollectiveKind::AllToAll, cluster.all_ranks(),
                             TrafficMatrix::uniform({512'000'000})}});
  std::vector<TaskGraph> graphs;
  graphs.push_back(std::move(builder).build());
  time_graphs(state, level, cluster, graphs);
}
void Links_fat_tree_1024_nodes(benchmark::State& state) {
  fat_tree_1024_nodes(state, NetworkLevel::Links);
}
BENCHMARK(Links_fat_tree_1024_nodes)->Apply(bench::repeat);
void Node_fat_tree_1024_nodes(benchmark::State& state) {
  fat_tree_1024_nodes(state, NetworkLevel::Node);
}
BENCHMARK(Node_fat_tree_1024_nodes)->Unit(benchmark::kMillisecond)->Apply(bench::repeat);

void PlatformBuilding(benchmark::State& state) {
  const Cluster cluster = cluster_of(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(sim::World::instance().build(cluster));
}
BENCHMARK(PlatformBuilding)
    ->ArgName("gpus")
    ->Arg(64)
    ->Arg(1024)
    ->Arg(4096)
    ->Iterations(3)
    ->Unit(benchmark::kMillisecond)
    ->Apply(bench::repeat);

}  // namespace
