// Speed of the model side: degree choice, graph building, analytic schedule.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "models/analytic.hpp"
#include "models/bench/statistics.hpp"
#include "models/cluster.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/degree.hpp"
#include "models/schedule.hpp"

namespace {

using namespace pipemoe;

constexpr std::array<std::int64_t, 5> kDegrees{1, 2, 4, 8, 16};

Cluster cluster64() {
  return read_cluster(ConfigFile::load("experiments/clusters/rtx2080ti-100gib-64.toml", "cluster"));
}

MoeLayer example_layer() {
  ConfigFile file = ConfigFile::load("experiments/layers/pipemoe-example.toml", "layer");
  return read_layer(file);
}

std::vector<PipelineCost> random_costs() {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-6, 0);
  const auto draw = [&] { return Seconds{std::pow(10.0, exponent(random))}; };
  std::vector<PipelineCost> costs(1024);
  for (PipelineCost& cost : costs) cost = {{}, draw(), draw(), draw(), draw()};
  return costs;
}

void DegreeChoice_512(benchmark::State& state) {
  const auto costs = random_costs();
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(choose_degree(costs[i++ % costs.size()], 512));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(DegreeChoice_512)->Apply(bench::repeat);

void GraphBuilding_mixed_degrees(benchmark::State& state) {
  const Cluster cluster = cluster64();
  const MoeLayer layer = example_layer();
  std::size_t i = 0;
  for (auto _ : state) {
    const std::int64_t degree = kDegrees[i++ % kDegrees.size()];
    benchmark::DoNotOptimize(schedule("pipemoe", layer, cluster, {degree, degree}));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(GraphBuilding_mixed_degrees)->Apply(bench::repeat);

void AnalyticSchedule_mixed_degrees(benchmark::State& state) {
  const Cluster cluster = cluster64();
  const MoeLayer layer = example_layer();
  const CostModel cost(cluster);
  std::vector<TaskGraph> graphs;
  for (const std::int64_t degree : kDegrees) {
    graphs.push_back(schedule("pipemoe", layer, cluster, {degree, degree}));
  }
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(analytic_times(graphs[i++ % graphs.size()], cost));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(AnalyticSchedule_mixed_degrees)->Apply(bench::repeat);

}  // namespace
