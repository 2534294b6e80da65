// Speed of the simulation levels and of building platforms. Run from the project's root.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <vector>

#include "models/bench/statistics.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/schedule.hpp"
#include "sim/platform.hpp"
#include "sim/simulate.hpp"

namespace {

using namespace pipemoe;
using sim::Network;

constexpr std::array<std::int64_t, 5> kMixedDegrees{1, 2, 4, 8, 16};

/// The 64-GPU cluster, or one of that kind of node with `ranks` GPUs and the 64-GPU fit.
Cluster cluster_of(std::int64_t ranks) {
  Cluster cluster =
      read_cluster(ConfigFile::load("experiments/clusters/rtx2080ti-100gib-64.toml", "cluster"));
  cluster.nodes = ranks / cluster.gpus_per_node;
  cluster.all_to_all[ranks] = cluster.all_to_all.begin()->second;
  return cluster;
}

MoeLayer layer_for(std::int64_t ranks) {
  ConfigFile file = ConfigFile::load("experiments/layers/pipemoe-example.toml", "layer");
  MoeLayer layer = read_layer(file);
  layer.num_experts = ranks;
  layer.tokens_per_rank = std::max(layer.tokens_per_rank, 8 * ranks);  // capacity for 16 chunks
  return layer;
}

void simulate_layers(benchmark::State& state, Network network, std::int64_t ranks,
                     const std::vector<std::int64_t>& degrees) {
  const Cluster cluster = cluster_of(ranks);
  const MoeLayer layer = layer_for(ranks);
  std::vector<TaskGraph> graphs;
  for (const std::int64_t degree : degrees) {
    graphs.push_back(schedule("pipemoe", layer, cluster, {degree, degree}));
  }
  // All degrees in one iteration, so that each repeat does the same work.
  for (auto _ : state) {
    for (const TaskGraph& graph : graphs) {
      benchmark::DoNotOptimize(sim::simulated_times(graph, cluster, network));
    }
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(graphs.size()));
}

void Fitted_mixed_degrees(benchmark::State& state) {
  simulate_layers(state, Network::Fitted, state.range(0),
                  {kMixedDegrees.begin(), kMixedDegrees.end()});
}
BENCHMARK(Fitted_mixed_degrees)
    ->ArgName("gpus")
    ->Arg(64)
    ->Arg(1024)
    ->Arg(4096)
    ->Apply(bench::repeat);

void Fitted_64_gpus(benchmark::State& state) {
  simulate_layers(state, Network::Fitted, 64, {state.range(0)});
}
BENCHMARK(Fitted_64_gpus)->ArgName("degree")->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Apply(bench::repeat);

void Node_64_gpus(benchmark::State& state) {
  simulate_layers(state, Network::Node, 64, {state.range(0)});
}
BENCHMARK(Node_64_gpus)->ArgName("degree")->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Apply(bench::repeat);

void Node_degree_4(benchmark::State& state) {
  simulate_layers(state, Network::Node, state.range(0), {4});
}
BENCHMARK(Node_degree_4)->ArgName("gpus")->Arg(1024)->Arg(4096)->Apply(bench::repeat);

/// The same exchange given as a matrix: a flow for every pair of nodes.
void Node_pairs_degree_4(benchmark::State& state) {
  const Cluster cluster = cluster_of(64);
  const MoeLayer layer = layer_for(64);
  const TaskGraph uniform = schedule("pipemoe", layer, cluster, {4, 4});
  TaskGraphBuilder builder("pipemoe", 64);
  for (Task task : uniform.tasks()) {
    if (auto* exchange = std::get_if<AllToAll>(&task.operation)) {
      const Bytes pair{exchange->traffic.per_rank().count / 64};
      exchange->traffic = TrafficMatrix::of_pairs(64, std::vector<Bytes>(64 * 64, pair));
    }
    builder.add(std::move(task));
  }
  for (const auto& [before, after] : uniform.dependencies()) builder.depend(before, after);
  for (const Stream stream : kStreams) {
    for (const TaskId id : uniform.stream_order(stream)) builder.enqueue(id);
  }
  const TaskGraph graph = std::move(builder).build();
  for (auto _ : state) {
    benchmark::DoNotOptimize(sim::simulated_times(graph, cluster, Network::Node));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(Node_pairs_degree_4)->Apply(bench::repeat);

void Gpu_degree_1(benchmark::State& state) { simulate_layers(state, Network::Gpu, 64, {1}); }
BENCHMARK(Gpu_degree_1)->Unit(benchmark::kMillisecond)->Apply(bench::repeat);

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
