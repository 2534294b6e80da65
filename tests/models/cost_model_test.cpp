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
  return {.dtype = dtype, .gemms = gemms};
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
  cluster.passes[MemoryPass::Gate] = line(1, 0.5);
  cluster.passes[MemoryPass::Permutation] = line(2, 0.25);
  cluster.passes[MemoryPass::Activation] = line(4, 0.125);
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

TEST_CASE("each pass costs its own fit where the profile has one", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  const auto backward = [](Operation operation) {
    return Task{0, 0, Phase::Backward, Stream::Compute, std::move(operation)};
  };
  const ExpertFfn gradient{.pass = Pass::Backward, .activation_traffic = {8}};
  // General passes alone: backward costs what forward does.
  cluster.passes[MemoryPass::Gate] = line(1, 0);
  cluster.passes[MemoryPass::Permutation] = line(2, 0);
  cluster.passes[MemoryPass::Activation] = line(3, 0);
  check_cost(CostModel(cluster)(backward(Gate{{8}})), 1, 0);
  check_cost(CostModel(cluster)(task(Permute{{8}})), 2, 0);
  check_cost(CostModel(cluster)(backward(Permute{{8}})), 2, 0);
  check_cost(CostModel(cluster)(task(Unpermute{{8}})), 2, 0);
  check_cost(CostModel(cluster)(backward(Unpermute{{8}})), 2, 0);
  check_cost(CostModel(cluster)(backward(gradient)), 3, 0);
  cluster.passes[MemoryPass::GateBackward] = line(10, 0);
  cluster.passes[MemoryPass::Permute] = line(20, 0);
  cluster.passes[MemoryPass::PermuteBackward] = line(30, 0);
  cluster.passes[MemoryPass::Unpermute] = line(40, 0);
  cluster.passes[MemoryPass::UnpermuteBackward] = line(50, 0);
  cluster.passes[MemoryPass::ActivationBackward] = line(60, 0);
  const CostModel cost(cluster);
  check_cost(cost(task(Gate{{8}})), 1, 0);
  check_cost(cost(backward(Gate{{8}})), 10, 0);
  check_cost(cost(task(Permute{{8}})), 20, 0);
  check_cost(cost(backward(Permute{{8}})), 30, 0);
  check_cost(cost(task(Unpermute{{8}})), 40, 0);
  check_cost(cost(backward(Unpermute{{8}})), 50, 0);
  check_cost(cost(task(ExpertFfn{.activation_traffic = {8}})), 3, 0);
  check_cost(cost(backward(gradient)), 60, 0);
  // Layout copies are forward permutations in both phases.
  check_cost(cost(backward(ExpertFfn{.pass = Pass::Backward, .layout_traffic = {8}})), 20, 0);
}

TEST_CASE("a pass may be modelled while its general one is not", "[models][cost]") {
  Cluster cluster = authors_cluster(64);  // declares all three general passes not modelled
  Fit<Bytes> permute = line(2, 0.25);
  permute.range = WorkRange{10, 20};
  cluster.passes[MemoryPass::Permute] = permute;
  const CostModel cost(cluster);
  check_cost(cost(task(Permute{{40}})), 2, 10);
  check_cost(cost(task(Unpermute{{40}})), 0, 0);
  CHECK(cost.check(graph_of({task(Permute{{40}}), task(Unpermute{{40}})}, 64)) ==
        std::vector<std::string>{"not modelled on this cluster, cost nothing here: permutation",
                                 "permute extrapolates: 40 is outside the fitted 10..20"});
}

TEST_CASE("an expert's layout copies cost a permutation", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.passes[MemoryPass::Permutation] = line(2, 0.25);
  const CostModel cost(cluster);
  // One product of 1.2e10 flops at 7.46e-14 s, its start-up 1.5e-4 s, and 16 bytes moved: 2 + 4 s.
  const GemmShape gemm{1, 1000, 2000, 3000};
  const ExpertFfn copied{.gemms = {gemm}, .layout_traffic = {16}};
  check_cost(cost(task(copied)), 1.5e-4 + 2, 8.952e-4 + 4);
  // Without copies neither start-up nor a note.
  check_cost(cost(task(expert({gemm}))), 1.5e-4, 8.952e-4);
  std::get<Fit<Bytes>>(cluster.passes[MemoryPass::Permutation]).range = WorkRange{20, 30};
  CHECK_THAT(cost.check(graph_of({task(copied)}, 64)),
             Catch::Matchers::VectorContains(
                 std::string("permutation extrapolates: 16 is outside the fitted 20..30")));
  CHECK(cost.check(graph_of({task(expert({gemm}))}, 64)).size() == 1);
}

TEST_CASE("a pass without traffic does not happen", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.passes[MemoryPass::Activation] = line(4, 1);
  // A weight gradient applies no activation function: one product's start-up, nothing else.
  const ExpertFfn gradient{.pass = Pass::WeightGradient, .gemms = {{1, 0, 1, 1}}};
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
  cluster.passes.erase(MemoryPass::Gate);
  cluster.passes.erase(MemoryPass::Activation);
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
  for (const MemoryPass pass :
       {MemoryPass::Gate, MemoryPass::Permutation, MemoryPass::Activation}) {
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
  cluster.passes[MemoryPass::Activation] = activation;
  const ExpertFfn gradient{.pass = Pass::WeightGradient, .gemms = {{1, 1, 1, 1}}};
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

namespace {

ExpertFit whole_expert(Pass pass, GemmShapes gemms, double alpha, double beta) {
  ExpertFit fit{Dtype::Fp32, Activation::Relu, pass, gemms, {}};
  fit.fit.model = AlphaBeta<Flops>{Seconds{alpha}, {beta}};
  return fit;
}

}  // namespace

TEST_CASE("an expert of a fitted shape costs that fit alone", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.passes[MemoryPass::Activation] = line(100, 0);
  cluster.passes[MemoryPass::Permutation] = line(100, 0);
  cluster.experts = {whole_expert(Pass::Forward, {{2, 0, 5, 3}, {2, 0, 3, 5}}, 7, 0.5)};
  const CostModel cost(cluster);
  // Two products of 2 * 4 rows * 15 flops.
  const ExpertFfn fitted{
      .gemms = {{2, 4, 5, 3}, {2, 4, 3, 5}}, .activation_traffic = {8}, .layout_traffic = {8}};
  check_cost(cost(task(fitted)), 7, 120);
  const Seconds parts = 2 * Seconds{1.5e-4} + Seconds{240 * 7.46e-14} + Seconds{200};
  const auto check_parts = [&](auto change) {
    ExpertFfn other = fitted;
    change(other);
    CHECK(cost(task(other)).total().count() == Approx(parts.count()).epsilon(1e-12));
  };
  check_parts([](ExpertFfn& other) { other.pass = Pass::InputGradient; });
  check_parts([](ExpertFfn& other) { other.activation = Activation::Gelu; });
  check_parts([](ExpertFfn& other) { other.gemms[0].groups = 1; });
  check_parts([](ExpertFfn& other) { std::swap(other.gemms[0], other.gemms[1]); });
}

TEST_CASE("a fitted shape needs no fits of its parts", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.passes.clear();
  cluster.gemm.clear();
  cluster.experts = {whole_expert(Pass::Forward, {{2, 0, 5, 3}}, 7, 0.5)};
  const TaskGraph graph = graph_of({task(expert({{2, 4, 5, 3}}))}, 64);
  CHECK(CostModel(cluster).check(graph).empty());
}

TEST_CASE("a check flags shapes without a fit and fits of shapes out of range", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.experts = {whole_expert(Pass::Forward, {{2, 0, 5, 3}}, 7, 0.5)};
  cluster.experts[0].fit.range = WorkRange{100, 110};
  Task second = task(expert({{2, 4, 5, 3}})), third = task(expert({{1, 4, 5, 3}}));
  second.chunk = 1;
  third.chunk = 2;
  Task fourth = third;
  fourth.chunk = 3;
  // 2 * 4 * 15 = 120 flops.
  const TaskGraph graph =
      graph_of({task(expert({{2, 4, 5, 3}})), std::move(second), std::move(third), fourth}, 64);
  CHECK(CostModel(cluster).check(graph) ==
        std::vector<std::string>{
            "not modelled on this cluster, cost nothing here: activation",
            "no expert fit of these shapes, so the fits of their parts are summed: fp32 relu "
            "forward of 1 x [3, 5]",
            "expert forward extrapolates: 120 is outside the fitted 100..110"});
}

TEST_CASE("a cost is a line when no table takes part in it", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  Fit<Bytes> table;
  table.model = TimeTable{{{0, Seconds{1}}, {1, Seconds{2}}}};
  cluster.passes[MemoryPass::Permute] = table;
  cluster.experts = {whole_expert(Pass::Forward, {{2, 0, 5, 3}}, 7, 0.5)};
  const auto is_line = [&](Operation operation) {
    return CostModel(cluster).is_line(task(std::move(operation)));
  };
  CHECK(is_line(AllToAll{}));
  CHECK(is_line(Unpermute{}));
  CHECK_FALSE(is_line(Permute{}));
  CHECK(is_line(ExpertFfn{}));
  CHECK_FALSE(is_line(ExpertFfn{.layout_traffic = {1}}));
  cluster.gemm[Dtype::Fp32].model = TimeTable{{{0, Seconds{1}}, {1, Seconds{2}}}};
  cluster.all_to_all[64] = table;
  CHECK_FALSE(is_line(ExpertFfn{}));
  CHECK_FALSE(is_line(AllToAll{}));
  CHECK(is_line(expert({{2, 4, 5, 3}})));
}

TEST_CASE("an exchange costs as much more as it takes in its layer", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.all_to_all[64] = line(1, 0.5);
  cluster.all_to_all_queued[64] = line(0.25, 0.5);
  const Slowdown by_bytes(Slowdown::Points{{100, 1.5}, {10000, 2.5}});
  cluster.all_to_all_in_layers = {{{2, 8, 16}, by_bytes}};
  const CostModel cost(cluster);
  const auto in_layer = [](std::int64_t bytes, ExpertSizes experts) {
    return task(AllToAll{Purpose::Dispatch, TrafficMatrix::uniform({bytes}), experts});
  };
  check_cost(cost(in_layer(100, {2, 8, 16})), 1.5, 75);
  check_cost(cost(in_layer(1000, {2, 8, 16})), 2, 1000);  // half way in the logarithm
  check_cost(cost(in_layer(1000, {2, 8, 17})), 1, 500);
  check_cost(cost(in_layer(1000, {})), 1, 500);
  CHECK(cost.queued_saving(in_layer(1000, {2, 8, 16}), Seconds{9}).count() == Approx(2 * 0.75));
  CHECK_FALSE(cost.is_line(in_layer(1000, {2, 8, 16})));
  CHECK(cost.is_line(in_layer(1000, {})));
}
