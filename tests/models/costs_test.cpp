#include "models/costs.hpp"

#include <catch2/catch.hpp>

#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/models/by_hand.hpp"
#include "tests/support/random_layers.hpp"

namespace pipemoe::costs_test {

using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using Catch::Matchers::UnorderedEquals;
using Catch::Matchers::VectorContains;

namespace {

using Strings = std::vector<std::string>;

Work all_to_all(TrafficMatrix traffic, std::int64_t ranks = 64) {
  return Collective{CollectiveKind::AllToAll, {ranks, 1}, std::move(traffic)};
}
Work all_to_all(std::int64_t bytes) { return all_to_all(TrafficMatrix::uniform({bytes})); }
Work memory(MemoryKernel kernel, std::int64_t bytes) { return MemoryTraffic{kernel, Bytes{bytes}}; }

Task task(Work work, int chunk = 0) {
  return {{.step = Step::Expert, .chunk = chunk}, kComputeQueue, std::move(work)};
}

// All tasks in one queue, as chunks of one step.
TaskGraph chunks_of(std::vector<Work> works, std::int64_t ranks = 64) {
  std::vector<Task> tasks;
  for (Work& work : works) tasks.push_back(task(std::move(work), static_cast<int>(tasks.size())));
  return graph_of(std::move(tasks), ranks);
}

Strings notes_of(const Cluster& cluster, std::vector<Work> works) {
  const TaskGraph graph = chunks_of(std::move(works), cluster.num_ranks());
  return Costs(graph, cluster).notes();
}

void check_cost(const TaskCost& cost, double startup, double work) {
  CHECK(cost.startup.count() == Approx(startup).epsilon(1e-12).margin(1e-300));
  CHECK(cost.work.count() == Approx(work).epsilon(1e-12).margin(1e-300));
  CHECK(cost.total().count() == Approx(startup + work).epsilon(1e-12).margin(1e-300));
}

ExpertFit whole_expert(ProductKind kind, GemmShapes shapes, double alpha, double beta) {
  return {Dtype::Fp32, Activation::Relu, kind, std::move(shapes), line<Flops>(alpha, beta)};
}

// Two products of 2 * 4 rows * 15 flops.
const Products kTwoProducts{.shapes = {{2, 0, 5, 3}, {2, 0, 3, 5}}, .rows = 4};

}  // namespace

TEST_CASE("an all-to-all costs its start-up and its bytes", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const CostModel cost(cluster);
  // 3.84e-10 s/byte * 1e8 bytes.
  check_cost(cost(all_to_all(100'000'000)), 7.83e-4, 3.84e-2);
  check_cost(cost(all_to_all(0)), 7.83e-4, 0);
  CHECK(cost(all_to_all(8)).is_collective);
}

TEST_CASE("uneven traffic costs what the busiest rank's bytes would, sent or received",
          "[models][cost]") {
  Cluster cluster = second_a_unit(1, 2);
  cluster.collectives[{CollectiveKind::AllToAll, {2, 1}}] = line<Bytes>(1, 0.5);
  const CostModel cost(cluster);
  const auto of = [&](std::vector<Bytes> pairs) {
    return cost(all_to_all(TrafficMatrix::of_pairs(2, std::move(pairs)), 2));
  };
  // Rank 1 sends 3 + 4 = 7 bytes; rank 1 receives 5 + 4 = 9.
  check_cost(of({{1}, {5}, {3}, {4}}), 1, 4.5);
  // Rank 0 sends all, then its transpose: rank 0 receives all. 20 bytes either way.
  check_cost(of({{10}, {10}, {0}, {0}}), 1, 10);
  check_cost(of({{10}, {0}, {10}, {0}}), 1, 10);
  CHECK(of({{10}, {10}, {0}, {0}}).basis == Basis::Estimated);
}

TEST_CASE("an expert costs one start-up for each matrix product", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const CostModel cost(cluster);
  // 2 * 1000 * 2000 * 3000 = 1.2e10 flops at 7.46e-14 s: 8.952e-4 s a product.
  const GemmShape gemm{1, 0, 2000, 3000};
  check_cost(cost(Products{.shapes = {gemm, gemm}, .rows = 1000}), 3e-4, 2 * 8.952e-4);
  check_cost(cost(Products{.shapes = {gemm, gemm, gemm, gemm}, .rows = 1000}), 6e-4, 4 * 8.952e-4);
}

TEST_CASE("kernels that are not modelled cost nothing and say so", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const CostModel cost(cluster);
  for (const MemoryKernel kernel :
       {MemoryKernel::Gate, MemoryKernel::Permute, MemoryKernel::Unpermute}) {
    check_cost(cost(memory(kernel, 1'000'000)), 0, 0);
    CHECK(cost(memory(kernel, 1'000'000)).basis == Basis::NotModelled);
  }
  const Products bare{.shapes = {{1, 0, 1, 1}}, .rows = 1};
  Products with_activation = bare;
  with_activation.activation_bytes_per_row = {1'000'000};
  CHECK(cost(with_activation).total() == cost(bare).total());
}

TEST_CASE("kernels that are modelled cost their fit", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.kernels[MemoryKernel::Gate] = line<Bytes>(1, 0.5);
  cluster.kernels[MemoryKernel::Permutation] = line<Bytes>(2, 0.25);
  cluster.kernels[MemoryKernel::Activation] = line<Bytes>(4, 0.125);
  cluster.gemm[Dtype::Bf16] = line<Flops>(8, 0.5);
  const CostModel cost(cluster);
  check_cost(cost(memory(MemoryKernel::Gate, 16)), 1, 8);
  check_cost(cost(memory(MemoryKernel::Permute, 16)), 2, 4);
  check_cost(cost(memory(MemoryKernel::Unpermute, 16)), 2, 4);
  CHECK(cost(memory(MemoryKernel::Gate, 16)).basis == Basis::Interpolated);
  // Two products of 2*1*2*3 = 12 flops and the activation between them.
  const GemmShape gemm{1, 0, 2, 3};
  check_cost(cost(Products{.dtype = Dtype::Bf16,
                           .shapes = {gemm, gemm},
                           .rows = 1,
                           .activation_bytes_per_row = {16}}),
             8 + 8 + 4, 6 + 6 + 2);
}

TEST_CASE("each kernel costs its own fit where the profile has one, else the general one's",
          "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  const Products forward{.rows = 1, .activation_bytes_per_row = {8}};
  const Products gradient{
      .kind = ProductKind::BothGradients, .rows = 1, .activation_bytes_per_row = {8}};
  const auto check = [&](const Work& work, double startup) {
    check_cost(CostModel(cluster)(work), startup, 0);
  };
  cluster.kernels[MemoryKernel::Gate] = line<Bytes>(1, 0);
  cluster.kernels[MemoryKernel::Permutation] = line<Bytes>(2, 0);
  cluster.kernels[MemoryKernel::Activation] = line<Bytes>(3, 0);
  check(memory(MemoryKernel::GateBackward, 8), 1);
  check(memory(MemoryKernel::Permute, 8), 2);
  check(memory(MemoryKernel::PermuteBackward, 8), 2);
  check(memory(MemoryKernel::Unpermute, 8), 2);
  check(memory(MemoryKernel::UnpermuteBackward, 8), 2);
  check(gradient, 3);
  const std::vector<std::pair<MemoryKernel, double>> own{
      {MemoryKernel::GateBackward, 10},      {MemoryKernel::Permute, 20},
      {MemoryKernel::PermuteBackward, 30},   {MemoryKernel::Unpermute, 40},
      {MemoryKernel::UnpermuteBackward, 50}, {MemoryKernel::ActivationBackward, 60}};
  for (const auto& [kernel, startup] : own) cluster.kernels[kernel] = line<Bytes>(startup, 0);
  check(memory(MemoryKernel::Gate, 8), 1);
  for (const auto& [kernel, startup] : own) check(memory(kernel, 8), startup);
  check(forward, 3);
  check(gradient, 60);
  // Layout copies are forward permutations in both passes.
  check(Products{.kind = ProductKind::BothGradients, .rows = 1, .layout_bytes_per_row = {8}}, 20);
}

TEST_CASE("a kernel may be modelled while its general one is not", "[models][cost]") {
  Cluster cluster = authors_cluster(64);  // declares all three general kernels not modelled
  Fit<Bytes> permute = line<Bytes>(2, 0.25);
  permute.range = WorkRange{10, 20};
  cluster.kernels[MemoryKernel::Permute] = permute;
  const CostModel cost(cluster);
  check_cost(cost(memory(MemoryKernel::Permute, 40)), 2, 10);
  check_cost(cost(memory(MemoryKernel::Unpermute, 40)), 0, 0);
  CHECK(
      notes_of(cluster, {memory(MemoryKernel::Permute, 40), memory(MemoryKernel::Unpermute, 40)}) ==
      Strings{"not modelled on this cluster, cost nothing here: permutation",
              "permute extrapolates: 40 is outside the fitted 10..20"});
}

TEST_CASE("an expert's layout copies cost a permutation", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.kernels[MemoryKernel::Permutation] = line<Bytes>(2, 0.25);
  // One product of 1.2e10 flops at 7.46e-14 s, its start-up 1.5e-4 s, and 16 bytes moved: 2 + 4 s.
  const Products bare{.shapes = {{1, 0, 12'000, 500'000}}, .rows = 1};
  Products copied = bare;
  copied.layout_bytes_per_row = {16};
  check_cost(CostModel(cluster)(copied), 1.5e-4 + 2, 8.952e-4 + 4);
  // Without copies neither start-up nor a note.
  check_cost(CostModel(cluster)(bare), 1.5e-4, 8.952e-4);
  std::get<Fit<Bytes>>(cluster.kernels[MemoryKernel::Permutation]).range = WorkRange{20, 30};
  CHECK_THAT(
      notes_of(cluster, {copied}),
      VectorContains(std::string("permutation extrapolates: 16 is outside the fitted 20..30")));
  CHECK(notes_of(cluster, {bare}).size() == 1);
}

TEST_CASE("a kernel without traffic does not run", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  Fit<Bytes> activation = line<Bytes>(4, 1);
  activation.range = WorkRange{10, 20};
  cluster.kernels[MemoryKernel::Activation] = activation;
  // A weight gradient applies no activation function: one product's start-up, nothing else.
  const Products gradient{.kind = ProductKind::WeightGradient, .shapes = {{1, 0, 1, 1}}};
  check_cost(CostModel(cluster)(gradient), 1.5e-4, 0);
  CHECK(notes_of(cluster, {gradient}).empty());
}

TEST_CASE("a tabulated task's start-up is its table's first time", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.gemm[Dtype::Fp32].model = TimeTable{{{10, Seconds{2}}, {20, Seconds{3}}}};
  const CostModel cost(cluster);
  check_cost(cost(Products{.shapes = {{1, 0, 1, 1}}, .rows = 1}), 2, 0);  // 2 flops
  check_cost(cost(Products{.shapes = {{1, 0, 3, 5}}, .rows = 1}), 2, 2);  // 30 flops
}

TEST_CASE("a time that was measured elsewhere costs itself", "[models][cost]") {
  const Cluster cluster = second_a_unit();
  check_cost(CostModel(cluster)(Timed{Seconds{3}}), 0, 3);
  CHECK(CostModel(cluster)(Timed{Seconds{3}}).basis == Basis::Measured);
  CHECK(notes_of(cluster, {Timed{Seconds{3}}}).empty());
}

TEST_CASE("work whose fit is missing has no cost, and the error names the fit", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.kernels.erase(MemoryKernel::Gate);
  cluster.kernels.erase(MemoryKernel::Activation);
  cluster.collectives.clear();
  const CostModel cost(cluster);
  const std::string who = "cluster rtx2080ti-100gib-64 has no ";
  CHECK_THROWS_AS(cost(memory(MemoryKernel::Gate, 1)), InputError);
  CHECK_THROWS_WITH(cost(memory(MemoryKernel::Gate, 1)),
                    Equals(who + "gate fit, which not_modelled does not list either"));
  CHECK_THROWS_WITH(
      cost(memory(MemoryKernel::GateBackward, 1)),
      Equals(who + "gate_backward or gate fit, which not_modelled does not list either"));
  CHECK_THROWS_WITH(cost(Products{}), Contains("no activation fit"));
  CHECK_THROWS_WITH(cost(Products{.dtype = Dtype::Bf16}), Contains("no gemm fit for bf16"));
  CHECK_THROWS_WITH(cost(all_to_all(1)), Contains("no all_to_all fit for 64 ranks (fitted: )"));
}

TEST_CASE("a graph with tasks without a cost is one error that lists all that is missing",
          "[models][cost]") {
  // A profile that has nothing: the first of two dispatches, of one expert and of one permutation.
  Cluster cluster = authors_cluster(64);
  cluster.gemm.clear();
  cluster.kernels.clear();
  cluster.kernels[MemoryKernel::Activation] = NotModelled{};
  cluster.collectives.clear();
  const TaskGraph graph = graph_of({exchange(TrafficMatrix::uniform({8}), 64, 0),
                                    exchange(TrafficMatrix::uniform({8}), 64, 1),
                                    task(kTwoProducts),
                                    {{.step = Step::Permute}, 0, memory(MemoryKernel::Permute, 1)}},
                                   64);
  CHECK_THROWS_AS(Costs(graph, cluster), InputError);
  CHECK_THROWS_WITH(
      Costs(graph, cluster),
      Equals("cluster rtx2080ti-100gib-64 has "
             "no all_to_all fit for 64 ranks (fitted: ) for block0.forward.dispatch.0 and 1 more; "
             "no gemm fit for fp32 for block0.forward.expert.0; no permute or permutation "
             "fit, which not_modelled does not list either for block0.forward.permute.0"));
}

TEST_CASE("a graph for another number of ranks is refused", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const TaskGraph graph = chunks_of({memory(MemoryKernel::Gate, 1)}, 16);
  CHECK_THROWS_AS(Costs(graph, cluster), InputError);
  CHECK_THROWS_WITH(Costs(graph, cluster),
                    Equals("task graph is for 16 ranks, cluster rtx2080ti-100gib-64 has 64"));
}

TEST_CASE("notes name kernels that cost nothing", "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const TaskGraph graph = build_graph("pipemoe", shipped_layer("pipemoe-example"), cluster, {4, 4});
  CHECK(Costs(graph, cluster).notes() ==
        Strings{"not modelled on this cluster, cost nothing here: activation, gate, permutation"});
  CHECK(notes_of(cluster, {memory(MemoryKernel::Gate, 0)}) ==
        Strings{"not modelled on this cluster, cost nothing here: gate"});
}

TEST_CASE("there is nothing to note of fits used in their range", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  for (const MemoryKernel kernel :
       {MemoryKernel::Gate, MemoryKernel::Permutation, MemoryKernel::Activation}) {
    Fit<Bytes> fit = line<Bytes>(1, 1);
    fit.range = WorkRange{10, 20};
    cluster.kernels[kernel] = fit;
  }
  cluster.gemm[Dtype::Fp32].range = WorkRange{10, 20};
  cluster.collectives.begin()->second.range = WorkRange{10, 20};
  // 2*1*1*5 and 2*1*2*5: both ends of the range.
  const std::vector<Work> works{
      memory(MemoryKernel::Gate, 10), memory(MemoryKernel::Permute, 20),
      memory(MemoryKernel::Unpermute, 15), all_to_all(20),
      Products{
          .shapes = {{1, 0, 1, 5}, {1, 0, 2, 5}}, .rows = 1, .activation_bytes_per_row = {10}}};
  CHECK(notes_of(cluster, works).empty());
  const TaskGraph graph = chunks_of(works);
  CHECK(Costs(graph, cluster).num_extrapolated() == 0);
}

TEST_CASE("notes flag each fit used outside its range", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.gemm[Dtype::Fp32].range = WorkRange{100, 200};
  cluster.collectives.begin()->second.range = WorkRange{10, 20};
  // 2*1*1*5 = 10 flops and 2*1*6*10 = 120.
  const std::vector<Work> works{all_to_all(21),
                                Products{.shapes = {{1, 0, 1, 5}, {1, 0, 6, 10}}, .rows = 1}};
  CHECK_THAT(notes_of(cluster, works),
             UnorderedEquals(Strings{"not modelled on this cluster, cost nothing here: activation",
                                     "all_to_all extrapolates: 21 is outside the fitted 10..20",
                                     "gemm extrapolates: 10 is outside the fitted 100..200"}));
  const TaskGraph graph = chunks_of(works);
  const Costs costs(graph, cluster);
  CHECK(costs.num_extrapolated() == 2);
  CHECK(costs.at(0).basis == Basis::Estimated);
  CHECK(costs.at(1).basis == Basis::Estimated);
}

TEST_CASE("outside the points of a table without a range is extrapolation", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  Fit<Bytes>& fit = cluster.collectives.begin()->second;
  fit.model = TimeTable{{{1000, Seconds{1e-3}}, {1e9, Seconds{0.4}}}};
  REQUIRE_FALSE(fit.range.has_value());
  CHECK(notes_of(cluster, {all_to_all(1000), all_to_all(1'000'000'000)}).empty());
  CHECK(notes_of(cluster, {all_to_all(999)}) ==
        Strings{"all_to_all extrapolates: 999 is outside the fitted 1000..1e+09"});
  CHECK(notes_of(cluster, {all_to_all(2'000'000'000)}).size() == 1);
  // A line without a range may have been measured anywhere.
  fit.model = AlphaBeta<Bytes>{Seconds{1e-3}, {4e-10}};
  CHECK(notes_of(cluster, {all_to_all(999)}).empty());
}

TEST_CASE("a fit that its profile's own links contradict by more than a quarter is noted",
          "[models][cost]") {
  // Two nodes of one GPU: half of a byte leaves, at 1 byte/s: 0.5 s a byte on links.
  Cluster cluster = second_a_unit(2, 1);
  const auto notes_with = [&](Fit<Bytes> fit) {
    cluster.collectives[{CollectiveKind::AllToAll, {2, 1}}] = std::move(fit);
    return notes_of(cluster, {all_to_all(TrafficMatrix::uniform({2}), 2)});
  };
  CHECK(notes_with(line<Bytes>(3, 0.5)).empty());
  CHECK(notes_with(line<Bytes>(3, 0.62)).empty());
  CHECK(notes_with(line<Bytes>(3, 0.41)).empty());
  CHECK(notes_with(line<Bytes>(3, 0.63)) ==
        Strings{"the all_to_all fit of this profile takes 0.63 s/byte, its links 0.5: simulate "
                "with --network links shows what the links say"});
  CHECK(notes_with(line<Bytes>(3, 0.39)).size() == 1);
  // A table's last slope counts: (1 - 0.5) / 1 s a byte.
  Fit<Bytes> table;
  table.model = TimeTable{{{1, Seconds{0.1}}, {2, Seconds{0.5}}, {3, Seconds{1}}}};
  CHECK(notes_with(table).empty());
}

TEST_CASE("the shipped profiles' fits agree with their links", "[models][cost]") {
  for (const int ranks : {16, 32, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    CHECK(notes_of(cluster, {all_to_all(TrafficMatrix::uniform({1 << 20}), ranks)}).empty());
  }
}

TEST_CASE("an expert of a fitted shape costs that fit alone", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.kernels[MemoryKernel::Activation] = line<Bytes>(100, 0);
  cluster.kernels[MemoryKernel::Permutation] = line<Bytes>(100, 0);
  cluster.experts = {whole_expert(ProductKind::Forward, kTwoProducts.shapes, 7, 0.5)};
  const CostModel cost(cluster);
  Products fitted = kTwoProducts;
  fitted.activation_bytes_per_row = fitted.layout_bytes_per_row = {2};
  check_cost(cost(fitted), 7, 120);
  CHECK(cost(fitted).basis == Basis::Measured);
  const Seconds parts = 2 * Seconds{1.5e-4} + Seconds{240 * 7.46e-14} + Seconds{200};
  const auto check_parts = [&](auto change) {
    Products other = fitted;
    change(other);
    CHECK(cost(other).total().count() == Approx(parts.count()).epsilon(1e-12));
    CHECK(cost(other).basis == Basis::Interpolated);
  };
  check_parts([](Products& other) { other.kind = ProductKind::InputGradient; });
  check_parts([](Products& other) { other.activation = Activation::Gelu; });
  check_parts([](Products& other) { other.shapes[0].groups = 1; });
  check_parts([](Products& other) { std::swap(other.shapes[0], other.shapes[1]); });
}

TEST_CASE("a fitted shape needs no fits of its parts", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.kernels.clear();
  cluster.gemm.clear();
  cluster.experts = {whole_expert(ProductKind::Forward, {{2, 0, 5, 3}}, 7, 0.5)};
  CHECK(notes_of(cluster, {Products{.shapes = {{2, 0, 5, 3}}, .rows = 4}}).empty());
}

TEST_CASE("notes flag shapes without a fit and fits of shapes out of range", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  cluster.experts = {whole_expert(ProductKind::Forward, {{2, 0, 5, 3}}, 7, 0.5)};
  cluster.experts[0].fit.range = WorkRange{100, 110};
  // 2 * 4 * 15 = 120 flops.
  const Products fitted{.shapes = {{2, 0, 5, 3}}, .rows = 4};
  const Products other{.shapes = {{1, 0, 5, 3}}, .rows = 4};
  CHECK(notes_of(cluster, {fitted, fitted, other, other}) ==
        Strings{"not modelled on this cluster, cost nothing here: activation",
                "no expert fit of these shapes, so the fits of their parts are summed: fp32 relu "
                "forward of 1 x [3, 5]",
                "expert forward extrapolates: 120 is outside the fitted 100..110"});
}

TEST_CASE("a cost is a line when no table takes part in it", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  Fit<Bytes> table;
  table.model = TimeTable{{{0, Seconds{1}}, {1, Seconds{2}}}};
  cluster.kernels[MemoryKernel::Permute] = table;
  cluster.experts = {whole_expert(ProductKind::Forward, {{2, 0, 5, 3}}, 7, 0.5)};
  const auto is_line = [&](const Work& work) { return CostModel(cluster)(work).is_line; };
  const Products plain{.shapes = {{1, 0, 5, 3}}, .rows = 1};
  CHECK(is_line(all_to_all(1)));
  CHECK(is_line(memory(MemoryKernel::Unpermute, 1)));
  CHECK_FALSE(is_line(memory(MemoryKernel::Permute, 1)));
  CHECK(is_line(plain));
  CHECK_FALSE(is_line(Products{.rows = 1, .layout_bytes_per_row = {1}}));
  cluster.gemm[Dtype::Fp32].model = TimeTable{{{0, Seconds{1}}, {1, Seconds{2}}}};
  cluster.collectives.begin()->second = table;
  CHECK_FALSE(is_line(plain));
  CHECK_FALSE(is_line(all_to_all(1)));
  CHECK(is_line(Products{.shapes = {{2, 0, 5, 3}}, .rows = 4}));
}

TEST_CASE("a queued collective saves a constant, at most its start-up", "[models][cost]") {
  Cluster cluster = authors_cluster(64);
  CollectiveFit& fit = cluster.collectives.begin()->second;
  fit = {line<Bytes>(1, 0.5), Seconds{0.75}};
  for (const std::int64_t bytes : {100, 1000}) {
    CHECK(CostModel(cluster)(all_to_all(bytes)).queued_saving == Seconds{0.75});
  }
  fit.queued_saving = Seconds{2};
  CHECK(CostModel(cluster)(all_to_all(100)).queued_saving == Seconds{1});
  CHECK(CostModel(cluster)(all_to_all(100)).is_line);
}

TEST_CASE("equal all-to-alls of two blocks cost the same", "[models][cost]") {
  // As fitted, and estimated from links: half of 6 bytes goes to the other GPU of the node, at 1
  // byte/s.
  const auto inside = [](int block) {
    return Task{{.block = block, .step = Step::Dispatch},
                kCommunicationQueue,
                Collective{CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::uniform({6})}};
  };
  const Cluster cluster = second_a_unit(2, 2);
  const TaskGraph graph = graph_of({inside(0), inside(1)}, 4);
  const Costs costs(graph, cluster);
  CHECK(costs.at(0).work == Seconds{3});
  CHECK(costs.at(1).work == Seconds{3});
}

TEST_CASE("a collective costs the fit of exactly its kind and group, else what links take",
          "[models][cost]") {
  // 4 nodes of 2 GPUs. An all-to-all of all takes 5 s and 1 s a byte; a NIC carries 1 byte/s, a
  // GPU's own link 2.
  Cluster cluster = second_a_unit(4, 2);
  cluster.collectives[{CollectiveKind::AllToAll, {8, 1}}] = line<Bytes>(5, 1);
  cluster.gpu_link = {{2}, 1};
  const auto of = [](CollectiveKind kind, Group group) {
    return Work(Collective{kind, group, TrafficMatrix::uniform({24})});
  };
  const Work inside = of(CollectiveKind::AllToAll, {2, 1});
  // Inside a node: 12 of 24 bytes go to the other GPU at 2 bytes/s. Across the network, 4 ranks
  // that are 2 apart: each sends 18 to the 3 other nodes, 2 GPUs of a node 36 through its NIC.
  check_cost(CostModel(cluster)(inside), 5, 6);
  check_cost(CostModel(cluster)(of(CollectiveKind::AllToAll, {4, 2})), 5, 36);
  CHECK(CostModel(cluster)(inside).basis == Basis::Estimated);
  CHECK(notes_of(cluster, {inside}) ==
        Strings{"estimated from links, with the start-up of all ranks: all_to_all of 2 ranks"});
  cluster.collectives[{CollectiveKind::AllToAll, {2, 1}}] = line<Bytes>(1, 0.25);
  check_cost(CostModel(cluster)(inside), 1, 6);
  CHECK(CostModel(cluster)(inside).basis == Basis::Interpolated);
  CHECK(notes_of(cluster, {inside}).empty());
  // An all-reduce of all has no fit: the start-up of an all-to-all, 2 * 7/8 of 24 bytes through
  // each GPU's and each node's link, until its own kind has one.
  const Work reduce = of(CollectiveKind::AllReduce, {8, 1});
  check_cost(CostModel(cluster)(reduce), 5, 42);
  cluster.collectives[{CollectiveKind::AllReduce, {8, 1}}] = line<Bytes>(3, 2);
  check_cost(CostModel(cluster)(reduce), 3, 48);
}

TEST_CASE("the ranks of equal work are one class", "[models][cost]") {
  const Cluster cluster = second_a_unit(1, 4);
  const auto rows = [](std::vector<std::int64_t> each) {
    return Products{.shapes = {{1, 0, 1, 1}}, .rows = PerRank<std::int64_t>(std::move(each))};
  };
  const auto classes = [&](std::vector<Work> works) {
    const TaskGraph graph = chunks_of(std::move(works), 4);
    return Costs(graph, cluster).num_classes();
  };
  CHECK(classes({rows({3, 3, 3, 3})}) == 1);
  CHECK(classes({rows({3, 1, 3, 1})}) == 2);
  CHECK(classes({rows({3, 1, 3, 1}), rows({3, 3, 1, 1})}) == 4);
  CHECK(classes({rows({1, 2, 3, 4})}) == 4);
  // Ranks that differ, and a collective of a part of them: who is in which group matters.
  CHECK(classes({rows({3, 1, 3, 1}),
                 Collective{CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::uniform({2})}}) == 4);
  CHECK(classes({Collective{CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::uniform({2})}}) == 1);

  const TaskGraph graph = chunks_of({rows({3, 1, 3, 1})}, 4);
  const Costs costs(graph, cluster);
  CHECK(costs.representative(0) == 0);
  CHECK(costs.representative(1) == 1);
  CHECK(costs.class_of(2) == 0);
  CHECK(costs.class_of(3) == 1);
  CHECK(costs.at(0, 0).total() == Seconds{6});  // 2 * 3 flops
  CHECK(costs.at(0, 1).total() == Seconds{2});
}

TEST_CASE("a step of fastermoe inside a node costs less than one across the network",
          "[models][cost]") {
  const Cluster cluster = authors_cluster(64);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const TaskGraph graph = build_graph("fastermoe", layer, cluster, {1, 1});
  const auto cost_of_dispatch = [&](const Cluster& on, int chunk) {
    const Costs costs(graph, on);
    for (TaskId id = 0; id < graph.size(); ++id) {
      const TaskKey wanted{.step = Step::Dispatch, .chunk = chunk};
      if (graph.task(id).key == wanted) return costs.at(id);
    }
    throw std::logic_error("no such step");
  };
  // A rank's share of a step: 2^14 rows of 2^14 bytes over 16 nodes is 2^24 bytes. Inside, 3 of 4
  // parts go through a GPU's own link of 12.6e9 bytes/s; across, all of 4 GPUs go through a NIC of
  // 9.95e9 bytes/s.
  const double step = 1 << 24;
  check_cost(cost_of_dispatch(cluster, 0), 7.83e-4, 0.75 * step / 12.6e9);
  check_cost(cost_of_dispatch(cluster, 1), 7.83e-4, 4 * step / 9.95e9);
  CHECK(cost_of_dispatch(cluster, 0).total() < cost_of_dispatch(cluster, 1).total());
  Cluster with_node_fit = cluster;
  with_node_fit.collectives[{CollectiveKind::AllToAll, {4, 1}}] = line<Bytes>(1e-5, 1e-10);
  check_cost(cost_of_dispatch(with_node_fit, 0), 1e-5, 1e-10 * step);
  check_cost(cost_of_dispatch(with_node_fit, 1), 7.83e-4, 4 * step / 9.95e9);
}

TEST_CASE("a task of several parts rests on the worst basis of those that take time",
          "[models][cost]") {
  Cluster cluster = second_a_unit();
  Products products{.shapes = {{1, 0, 1, 1}}, .rows = 1, .activation_bytes_per_row = {4}};
  // The activation is not modelled and takes no time: interpolated.
  CHECK(CostModel(cluster)(products).basis == Basis::Interpolated);
  Fit<Bytes> activation = line<Bytes>(1, 0);
  activation.range = WorkRange{10, 20};
  cluster.kernels[MemoryKernel::Activation] = activation;  // 4 bytes are outside: estimated
  CHECK(CostModel(cluster)(products).basis == Basis::Estimated);
  cluster.gemm[Dtype::Fp32] = line<Flops>(0, 0);
  cluster.kernels[MemoryKernel::Activation] = NotModelled{};
  CHECK(CostModel(cluster)(products).basis == Basis::NotModelled);
}

TEST_CASE("a basis has a name", "[models][cost]") {
  CHECK(to_string(Basis::Measured) == "measured");
  CHECK(to_string(Basis::NotModelled) == "not_modelled");
}

}  // namespace pipemoe::costs_test
