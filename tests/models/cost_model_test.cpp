#include "models/cost_model.hpp"

#include <catch2/catch.hpp>

#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;

namespace {

Task task(Operation operation) {
  return {0, 0, Phase::Forward, Stream::Compute, std::move(operation)};
}

ExpertFfn expert(GemmShapes gemms, Dtype dtype = Dtype::Fp32) {
  return {Pass::Forward, dtype, gemms, {}};
}

Task exchange(TrafficMatrix traffic) { return task(AllToAll{Purpose::Dispatch, traffic}); }

Fit<Bytes> line(double alpha, double beta) {
  Fit<Bytes> fit;
  fit.model = AlphaBeta<Bytes>{Seconds{alpha}, {beta}};
  return fit;
}

TaskGraph graph_of(std::vector<Task> tasks, std::int64_t ranks) {
  TaskGraphBuilder builder("by hand", ranks);
  for (Task& one : tasks) builder.append(std::move(one));
  return std::move(builder).build();
}

void check_cost(const TaskCost& cost, double startup, double work) {
  CHECK(cost.startup.count() == Approx(startup).epsilon(1e-12).margin(1e-300));
  CHECK(cost.work.count() == Approx(work).epsilon(1e-12).margin(1e-300));
  CHECK(cost.total().count() == Approx(startup + work).epsilon(1e-12).margin(1e-300));
}

}  // namespace

TEST_CASE("an all-to-all costs its start-up and its bytes", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const CostModel cost(cluster);
  // 3.84e-10 s/byte * 1e8 bytes.
  check_cost(cost(exchange(TrafficMatrix::uniform({100'000'000}))), 7.83e-4, 3.84e-2);
  check_cost(cost(exchange(TrafficMatrix::uniform({0}))), 7.83e-4, 0);
}

TEST_CASE("uneven traffic costs what the busiest sender's bytes would", "[models][cost]") {
  Cluster cluster = authors_cluster(16);
  cluster.nodes = 1;
  cluster.gpus_per_node = 2;
  cluster.all_to_all[2] = line(1, 0.5);
  // Rank 1 sends 3 + 4 = 7 bytes.
  check_cost(CostModel(cluster)(exchange(TrafficMatrix::of_pairs(2, {{1}, {5}, {3}, {4}}))), 1,
             3.5);
}

TEST_CASE("an expert costs one start-up for each matrix product", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const CostModel cost(cluster);
  // 2 * 1000 * 2000 * 3000 = 1.2e10 flops at 7.46e-14 s: 8.952e-4 s a product.
  const GemmShape gemm{1, 1000, 2000, 3000};
  check_cost(cost(task(expert({gemm, gemm}))), 3e-4, 2 * 8.952e-4);
  check_cost(cost(task(expert({gemm, gemm, gemm, gemm}))), 6e-4, 4 * 8.952e-4);
}

TEST_CASE("passes that are not modelled cost nothing", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const CostModel cost(cluster);
  check_cost(cost(task(Gate{{1'000'000}})), 0, 0);
  check_cost(cost(task(Permute{{1'000'000}})), 0, 0);
  check_cost(cost(task(Unpermute{{1'000'000}})), 0, 0);
  const GemmShape gemm{1, 1, 1, 1};
  const ExpertFfn with_activation{.gemms = {gemm}, .activation_traffic = {1'000'000}};
  CHECK(cost(task(with_activation)).total() == cost(task(expert({gemm}))).total());
}

TEST_CASE("passes that are modelled cost their fit", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.passes["gate"] = line(1, 0.5);
  cluster.passes["permutation"] = line(2, 0.25);
  cluster.passes["activation"] = line(4, 0.125);
  cluster.gemm[Dtype::Bf16].model = AlphaBeta<Flops>{Seconds{8}, {0.5}};
  const CostModel cost(cluster);
  check_cost(cost(task(Gate{{16}})), 1, 8);
  check_cost(cost(task(Permute{{16}})), 2, 4);
  check_cost(cost(task(Unpermute{{16}})), 2, 4);
  // Two products of 2*1*2*3 = 12 flops and the activation between them.
  const GemmShape gemm{1, 1, 2, 3};
  check_cost(cost(task(ExpertFfn{
                 .dtype = Dtype::Bf16, .gemms = {gemm, gemm}, .activation_traffic = {16}})),
             8 + 8 + 4, 6 + 6 + 2);
}

TEST_CASE("a pass without traffic does not happen", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.passes["activation"] = line(4, 1);
  // A weight gradient applies no activation function: one product's start-up, nothing else.
  const ExpertFfn gradient{Pass::WeightGradient, Dtype::Fp32, {{1, 0, 1, 1}}, {}};
  check_cost(CostModel(cluster)(task(gradient)), 1.5e-4, 0);
}

TEST_CASE("a tabulated task's start-up is its table's first time", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.gemm[Dtype::Fp32].model = TimeTable{{{10, Seconds{2}}, {20, Seconds{3}}}};
  const CostModel cost(cluster);
  check_cost(cost(task(expert({{1, 1, 1, 1}}))), 2, 0);  // 2 flops
  check_cost(cost(task(expert({{1, 1, 3, 5}}))), 2, 2);  // 30 flops
}

TEST_CASE("a task whose fit is missing has no cost", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.passes.erase("gate");
  cluster.passes.erase("activation");
  cluster.all_to_all.clear();
  const CostModel cost(cluster);
  CHECK_THROWS_WITH(cost(task(Gate{{1}})), Contains("no gate fit"));
  CHECK_THROWS_AS(cost(task(Gate{{1}})), InputError);
  CHECK_THROWS_WITH(cost(task(expert({}))), Contains("no activation fit"));
  CHECK_THROWS_WITH(cost(task(expert({}, Dtype::Bf16))), Contains("no gemm fit for bf16"));
  CHECK_THROWS_WITH(cost(exchange({})), Contains("no all_to_all fit for 64 ranks"));
}

TEST_CASE("a check names passes that cost nothing", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const TaskGraph graph = schedule("pipemoe", shipped_layer("pipemoe-example"), cluster, {4, 4});
  CHECK(CostModel(cluster).check(graph) ==
        std::vector<std::string>{
            "not modelled on this cluster, cost nothing here: activation, gate, permutation"});
  CHECK(CostModel(cluster).check(graph_of({task(Gate{})}, 64)) ==
        std::vector<std::string>{"not modelled on this cluster, cost nothing here: gate"});
}

TEST_CASE("a check has nothing to say of fits used in their range", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  for (const char* pass : {"gate", "permutation", "activation"}) {
    Fit<Bytes> fit = line(1, 1);
    fit.range = WorkRange{10, 20};
    cluster.passes[pass] = fit;
  }
  cluster.gemm[Dtype::Fp32].range = cluster.all_to_all[64].range = WorkRange{10, 20};
  // 2*1*1*5 and 2*1*2*5: both ends of the range.
  const std::vector<Task> tasks{
      task(Gate{{10}}), task(Permute{{20}}), task(Unpermute{{15}}),
      exchange(TrafficMatrix::uniform({20})),
      task(ExpertFfn{.gemms = {{1, 1, 1, 5}, {1, 1, 2, 5}}, .activation_traffic = {10}})};
  CHECK(CostModel(cluster).check(graph_of(tasks, 64)).empty());
}

TEST_CASE("a check flags each fit used outside its range", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.gemm[Dtype::Fp32].range = WorkRange{100, 200};
  cluster.all_to_all[64].range = WorkRange{10, 20};
  const TaskGraph graph = graph_of(
      {exchange(TrafficMatrix::uniform({21})), task(expert({{1, 1, 1, 5}, {1, 1, 6, 10}}))}, 64);
  CHECK_THAT(CostModel(cluster).check(graph),
             Catch::Matchers::UnorderedEquals(std::vector<std::string>{
                 "not modelled on this cluster, cost nothing here: activation",
                 "all_to_all extrapolates: 21 is outside the fitted 10..20",
                 "gemm extrapolates: 10 is outside the fitted 100..200"}));
}

TEST_CASE("a pass without traffic extrapolates nothing", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  Fit<Bytes> activation = line(1, 1);
  activation.range = WorkRange{10, 20};
  cluster.passes["activation"] = activation;
  const ExpertFfn gradient{Pass::WeightGradient, Dtype::Fp32, {{1, 1, 1, 1}}, {}};
  CHECK(CostModel(cluster).check(graph_of({task(gradient)}, 64)).empty());
}

TEST_CASE("a graph for another number of ranks is refused", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const TaskGraph graph = graph_of({task(Gate{})}, 16);
  CHECK_THROWS_AS(CostModel(cluster).check(graph), InputError);
  CHECK_THROWS_WITH(CostModel(cluster).check(graph),
                    Equals("task graph is for 16 ranks, cluster rtx2080ti-100gib-64 has 64"));
}

TEST_CASE("a check refuses a graph with a task that has no cost", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const auto check = [&](Operation operation) {
    CostModel(cluster).check(graph_of({task(std::move(operation))}, 64));
  };
  CHECK_NOTHROW(check(expert({}, Dtype::Fp32)));
  CHECK_THROWS_WITH(check(expert({}, Dtype::Bf16)), Contains("no gemm fit for bf16"));
}
