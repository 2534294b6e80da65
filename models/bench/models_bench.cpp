// Speed of what a search does many times: the closed form, building graphs, looking costs up,
// evaluating. Goals are in the names' comments. Run it in the project's root.
#include <benchmark/benchmark.h>

#include <array>
#include <cmath>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "models/bench/statistics.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/evaluate.hpp"
#include "models/links.hpp"
#include "models/schedule.hpp"
#include "models/search.hpp"

namespace {

using namespace pipemoe;

constexpr std::array<std::int64_t, 5> kDegrees{1, 2, 4, 8, 16};

/// A layer on a cluster, both from files.
struct Case {
  Cluster cluster;
  MoeLayer layer;

  TaskGraph graph(std::int64_t degree) const {
    return build_graph("pipemoe", layer, cluster, {degree, degree});
  }
};

Case read_case(const std::string& cluster, const std::string& layer) {
  ConfigFile file = ConfigFile::load("experiments/layers/" + layer + ".toml", "layer");
  return {read_cluster(ConfigFile::load("experiments/clusters/" + cluster + ".toml", "cluster")),
          read_layer(file)};
}
Case authors() { return read_case("rtx2080ti-100gib-64", "pipemoe-example"); }  // 64 GPUs, lines
Case h200() { return read_case("h200-x2-nccl", "mixtral"); }  // 2 GPUs, tables, fitted experts

/// Graphs of all degrees with their costs.
struct Looked {
  explicit Looked(const Case& one) {
    graphs.reserve(kDegrees.size());  // costs refer to them
    for (const std::int64_t degree : kDegrees) {
      graphs.push_back(one.graph(degree));
      costs.emplace_back(graphs.back(), one.cluster);
    }
  }
  std::vector<TaskGraph> graphs;
  std::vector<Costs> costs;
};

// Goal: 100 ns.
void ClosedForm_512_degrees(benchmark::State& state) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-6, 0);
  const auto draw = [&] { return Seconds{std::pow(10.0, exponent(random))}; };
  std::vector<PipelineCost> costs(1024);
  for (PipelineCost& cost : costs) cost = {{}, draw(), draw(), draw(), draw()};
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(choose_degree(costs[i++ % costs.size()], 512));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(ClosedForm_512_degrees)->Apply(bench::repeat);

// Degrees 1, 2, 4, 8, 16 in turn. Goal: 3 us.
void GraphBuilding(benchmark::State& state) {
  const Case one = authors();
  std::size_t i = 0;
  for (auto _ : state) benchmark::DoNotOptimize(one.graph(kDegrees[i++ % kDegrees.size()]));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(GraphBuilding)->Apply(bench::repeat);

void CostsLookUp(benchmark::State& state, const Case& one) {
  const Looked looked(one);
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(Costs(looked.graphs[i++ % kDegrees.size()], one.cluster));
  }
  state.SetItemsProcessed(state.iterations());
}
void CostsLookUp_authors(benchmark::State& state) { CostsLookUp(state, authors()); }
void CostsLookUp_h200(benchmark::State& state) { CostsLookUp(state, h200()); }
BENCHMARK(CostsLookUp_authors)->Apply(bench::repeat);
BENCHMARK(CostsLookUp_h200)->Apply(bench::repeat);

// Costs are looked up before. Goals: 500,000 a second, and with contention 300,000.
void Evaluation(benchmark::State& state, const Case& one) {
  const Looked looked(one);
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(evaluate(looked.costs[i++ % kDegrees.size()]));
  }
  state.SetItemsProcessed(state.iterations());
}
Case with(Case one, std::optional<Contention> contention) {
  one.cluster.contention = std::move(contention);
  return one;
}
const Contention kConstant{{{1.4, 1.2}}, "a benchmark"};
void Evaluation_authors(benchmark::State& state) { Evaluation(state, authors()); }
void Evaluation_authors_contention(benchmark::State& state) {
  Evaluation(state, with(authors(), kConstant));
}
void Evaluation_h200(benchmark::State& state) { Evaluation(state, with(h200(), std::nullopt)); }
void Evaluation_h200_contention(benchmark::State& state) {
  Evaluation(state, with(h200(), kConstant));
}
void Evaluation_h200_own_contention(benchmark::State& state) { Evaluation(state, h200()); }
BENCHMARK(Evaluation_authors)->Apply(bench::repeat);
BENCHMARK(Evaluation_authors_contention)->Apply(bench::repeat);
BENCHMARK(Evaluation_h200)->Apply(bench::repeat);
BENCHMARK(Evaluation_h200_contention)->Apply(bench::repeat);
BENCHMARK(Evaluation_h200_own_contention)->Apply(bench::repeat);

// 64 GPUs, degree 4, the network made each time. Goal: 10 us.
void Links_new_network(benchmark::State& state) {
  const Case one = authors();
  const TaskGraph graph = one.graph(4);
  const Costs costs(graph, one.cluster);
  for (auto _ : state) benchmark::DoNotOptimize(evaluate_at(NetworkLevel::Links, costs));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(Links_new_network)->Apply(bench::repeat);

void Links_same_network(benchmark::State& state) {
  const Case one = authors();
  const TaskGraph graph = one.graph(4);
  const Costs costs(graph, one.cluster);
  LinkNetwork network(costs);
  for (auto _ : state) benchmark::DoNotOptimize(evaluate(costs, &network));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(Links_same_network)->Apply(bench::repeat);

// Degrees up to 32, with why.
void Search(benchmark::State& state, const Case& one) {
  const Schedule& schedule = find_schedule("pipemoe");
  for (auto _ : state) benchmark::DoNotOptimize(search(schedule, one.layer, one.cluster));
  state.SetItemsProcessed(state.iterations());
}
// The choice alone.
void SearchChoice(benchmark::State& state, const Case& one) {
  const Schedule& schedule = find_schedule("pipemoe");
  for (auto _ : state) benchmark::DoNotOptimize(search_choice(schedule, one.layer, one.cluster));
  state.SetItemsProcessed(state.iterations());
}
void Search_authors(benchmark::State& state) { Search(state, authors()); }
void Search_h200(benchmark::State& state) { Search(state, h200()); }
void SearchChoice_authors(benchmark::State& state) { SearchChoice(state, authors()); }
void SearchChoice_h200(benchmark::State& state) { SearchChoice(state, h200()); }
BENCHMARK(Search_authors)->Apply(bench::repeat);
BENCHMARK(Search_h200)->Apply(bench::repeat);
BENCHMARK(SearchChoice_authors)->Apply(bench::repeat);
BENCHMARK(SearchChoice_h200)->Apply(bench::repeat);

}  // namespace
