#include "models/analytic.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>

#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;
using Catch::Matchers::Contains;

namespace {

template <class Work>
Fit<Work> line(double alpha, double beta) {
  Fit<Work> fit;
  fit.model = AlphaBeta<Work>{Seconds{alpha}, {beta}};
  return fit;
}

// Two ranks; gate and permutations take `pass` seconds each.
Cluster two_ranks(Fit<Bytes> all_to_all, Fit<Flops> gemm, double pass = 0) {
  Cluster cluster;
  cluster.name = "two";
  cluster.nodes = 2;
  cluster.gpus_per_node = 1;
  cluster.all_to_all[2] = std::move(all_to_all);
  cluster.gemm[Dtype::Fp32] = std::move(gemm);
  cluster.passes[MemoryPass::Gate] = cluster.passes[MemoryPass::Permutation] = line<Bytes>(pass, 0);
  cluster.passes[MemoryPass::Activation] = NotModelled{};
  return cluster;
}

// One column, one expert a rank: 8 rows, so that an unpipelined all-to-all moves 8 * 4 bytes and an
// expert's forward pass computes 2 products * 2 flops * 8 rows.
const MoeLayer kEightRows{
    .tokens_per_rank = 8, .model_dim = 1, .hidden_dim = 1, .num_experts = 2, .top_k = 1};

// Unpipelined, an all-to-all and a forward expert of kEightRows take 2 s, a backward one 4 s.
Cluster two_seconds_a_step() {
  return two_ranks(line<Bytes>(0, 1.0 / 16), line<Flops>(0, 1.0 / 16));
}

PhaseTimes times(const Cluster& cluster, Degrees degrees) {
  return analytic_times(schedule("pipemoe", kEightRows, cluster, degrees), CostModel(cluster));
}

std::int64_t random_degree(std::mt19937_64& random, const MoeLayer& layer) {
  return std::uniform_int_distribution<std::int64_t>(
      1, std::min<std::int64_t>(layer.slots(), 12))(random);
}

// fp32, since that is what the authors' clusters fit.
TaskGraph random_graph(std::mt19937_64& random, const Cluster& cluster) {
  MoeLayer layer = random_layer(random, static_cast<int>(cluster.num_ranks()));
  layer.dtype = Dtype::Fp32;
  return schedule("pipemoe", layer, cluster,
                  {random_degree(random, layer), random_degree(random, layer)});
}

}  // namespace

TEST_CASE("without pipelining every step waits for the one before", "[models][analytic]") {
  // Forward D E C: 2 + 2 + 2 s. Backward C E D: 2 + 4 + 2 s.
  const PhaseTimes serial = times(two_seconds_a_step(), {1, 1});
  CHECK(serial.forward == Seconds{6});
  CHECK(serial.backward == Seconds{8});
  CHECK(serial.makespan() == Seconds{14});
}

TEST_CASE("at degree 2 exchanges overlap with experts", "[models][analytic]") {
  // Forward, 1 s each: D0 | D1+E0 | C0+E1 | C1 -> 4 s.
  // Backward: C0 0-1, C1 1-2, E0 1-3, E1 3-5, D0 3-4, D1 5-6 -> 6 s.
  const PhaseTimes pipelined = times(two_seconds_a_step(), {2, 2});
  CHECK(pipelined.forward == Seconds{4});
  CHECK(pipelined.backward == Seconds{6});
}

TEST_CASE("the phases have degrees of their own", "[models][analytic]") {
  CHECK(times(two_seconds_a_step(), {2, 1}).forward == Seconds{4});
  CHECK(times(two_seconds_a_step(), {2, 1}).backward == Seconds{8});
  CHECK(times(two_seconds_a_step(), {1, 2}).forward == Seconds{6});
  CHECK(times(two_seconds_a_step(), {1, 2}).backward == Seconds{6});
}

TEST_CASE("start-ups are paid for every chunk", "[models][analytic]") {
  // Nothing but start-ups: 1 s an exchange, 2 products a forward expert, 4 a backward one.
  const Cluster cluster = two_ranks(line<Bytes>(1, 0), line<Flops>(1, 0));
  // D0-D2 end at 1 2 3, E0-E2 at 3 5 7, C2 at 8.  Backward: C0 at 1, experts at 5 9 13, D2 at 14.
  const PhaseTimes three = times(cluster, {3, 3});
  CHECK(three.forward == Seconds{8});
  CHECK(three.backward == Seconds{14});
}

TEST_CASE("exchanges bind when experts are short", "[models][analytic]") {
  // 2 * 3 exchanges of 1 s, back to back; the experts cost nothing.
  const PhaseTimes three = times(two_ranks(line<Bytes>(1, 0), line<Flops>(0, 0)), {3, 3});
  CHECK(three.forward == Seconds{6});
  CHECK(three.backward == Seconds{6});
}

TEST_CASE("gate and permutations do not pipeline", "[models][analytic]") {
  // Gate, permutation and un-permutation, 0.5 s each, around the 4 and 6 s of degree 2.
  Cluster cluster = two_ranks(line<Bytes>(0, 1.0 / 16), line<Flops>(0, 1.0 / 16), 0.5);
  CHECK(times(cluster, {2, 2}).forward == Seconds{5.5});
  CHECK(times(cluster, {2, 2}).backward == Seconds{7.5});
}

TEST_CASE("a timeline's spans start as early as they can", "[models][analytic]") {
  const Cluster cluster = two_seconds_a_step();
  const Timeline line =
      analytic_timeline(schedule("pipemoe", kEightRows, cluster, {2, 2}), cluster);
  const std::map<std::string, std::pair<double, double>> expected{
      {"layer0.forward.dispatch.0", {0, 1}},  {"layer0.forward.dispatch.1", {1, 2}},
      {"layer0.forward.expert.0", {1, 2}},    {"layer0.forward.expert.1", {2, 3}},
      {"layer0.forward.combine.0", {2, 3}},   {"layer0.forward.combine.1", {3, 4}},
      {"layer0.backward.combine.0", {4, 5}},  {"layer0.backward.combine.1", {5, 6}},
      {"layer0.backward.expert.0", {5, 7}},   {"layer0.backward.expert.1", {7, 9}},
      {"layer0.backward.dispatch.0", {7, 8}}, {"layer0.backward.dispatch.1", {9, 10}}};
  std::size_t found = 0;
  for (const Span& span : line.spans) {
    const auto at = expected.find(span.task.name());
    if (at == expected.end()) continue;
    CAPTURE(at->first);
    CHECK(span.start == Seconds{at->second.first});
    CHECK(span.end == Seconds{at->second.second});
    CHECK(span.rank == 0);
    ++found;
  }
  CHECK(found == expected.size());
  // Exchanges 4 + 4 s; hidden: D1 C0 forward; C1, D0 backward, 1 s each.
  CHECK(line.communication() == Seconds{8});
  CHECK(line.overlap_ratio() == 0.5);
}

TEST_CASE("a timeline says how it was made and what was not modelled", "[models][analytic]") {
  const Cluster cluster = two_seconds_a_step();
  const Timeline line = analytic_timeline(schedule("sequential", kEightRows, cluster, {}), cluster);
  CHECK(line.provenance.made_by == "analytic schedule");
  CHECK(line.provenance.notes ==
        std::vector<std::string>{"not modelled on this cluster, cost nothing here: activation"});
  CHECK_THAT(line.provenance.program, Catch::Matchers::StartsWith("pipemoe "));
}

TEST_CASE("the bounds are the longest chain of data and the sum", "[models][analytic]") {
  // Degree 2: forward D E C 1 + 1 + 1, backward 1 + 2 + 1; the sum is that of degree 1.
  const Cluster cluster = two_seconds_a_step();
  const MakespanBounds bounds =
      makespan_bounds(schedule("pipemoe", kEightRows, cluster, {2, 2}), CostModel(cluster));
  CHECK(bounds.critical_path == Seconds{7});
  CHECK(bounds.serial_sum == Seconds{14});
}

TEST_CASE("a makespan lies between critical path and serial sum", "[models][analytic]") {
  std::mt19937_64 random(1);
  for (const int ranks : {16, 32, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    const CostModel cost(cluster);
    for (int i = 0; i < 60; ++i) {
      CAPTURE(ranks, i);
      const TaskGraph graph = random_graph(random, cluster);
      const double makespan = analytic_times(graph, cost).makespan().count();
      const MakespanBounds bounds = makespan_bounds(graph, cost);
      // The sums add the same costs in another order.
      REQUIRE(makespan >= bounds.critical_path.count() * (1 - 1e-12));
      REQUIRE(makespan <= bounds.serial_sum.count() * (1 + 1e-12));
      REQUIRE(bounds.critical_path.count() > 0);
    }
  }
}

TEST_CASE("more bandwidth is never slower", "[models][analytic]") {
  std::mt19937_64 random(2);
  for (const int ranks : {16, 32, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    for (int i = 0; i < 30; ++i) {
      const TaskGraph graph = random_graph(random, cluster);
      const double factor = std::uniform_real_distribution<double>(0, 1)(random);
      CAPTURE(ranks, i, factor);
      Cluster faster = cluster;
      std::get<AlphaBeta<Bytes>>(faster.all_to_all[ranks].model).beta.value *= factor;
      const PhaseTimes before = analytic_times(graph, CostModel(cluster));
      const PhaseTimes after = analytic_times(graph, CostModel(faster));
      REQUIRE(after.forward <= before.forward);
      REQUIRE(after.makespan() < before.makespan());
    }
  }
}

TEST_CASE("times equal the phases of the timeline", "[models][analytic]") {
  std::mt19937_64 random(3);
  const Cluster cluster = authors_cluster(32);
  for (int i = 0; i < 50; ++i) {
    CAPTURE(i);
    const TaskGraph graph = random_graph(random, cluster);
    const PhaseTimes times = analytic_times(graph, CostModel(cluster));
    const Timeline line = analytic_timeline(graph, cluster);
    REQUIRE(line.spans.size() == graph.size());
    REQUIRE(times.forward == line.forward());
    REQUIRE(times.backward == line.backward());
  }
}

TEST_CASE("a timeline keeps every precedence and leaves no stream idle without cause",
          "[models][analytic]") {
  std::mt19937_64 random(4);
  const Cluster cluster = authors_cluster(16);
  for (int i = 0; i < 30; ++i) {
    const TaskGraph graph = random_graph(random, cluster);
    const Timeline line = analytic_timeline(graph, cluster);
    std::vector<Seconds> latest(graph.size(), Seconds{0});
    for (TaskId id = 0; id < graph.size(); ++id) {
      graph.for_each_successor(id, [&](TaskId after, Precedence) {
        latest[after] = std::max(latest[after], line.spans[id].end);
      });
    }
    for (TaskId id = 0; id < graph.size(); ++id) {
      CAPTURE(i, graph.task(id).name());
      REQUIRE(line.spans[id].task == graph.task(id).key());
      REQUIRE(line.spans[id].stream == graph.task(id).stream);
      REQUIRE(line.spans[id].start == latest[id]);
    }
  }
}

TEST_CASE("a timeline needs the graph's own cluster size and its fits", "[models][analytic]") {
  const Cluster cluster = two_seconds_a_step();
  const TaskGraph graph = schedule("sequential", kEightRows, cluster, {});
  CHECK_THROWS_WITH(analytic_timeline(graph, authors_cluster(16)),
                    Contains("task graph is for 2 ranks"));
  Cluster without = cluster;
  without.gemm.clear();
  CHECK_THROWS_AS(analytic_timeline(graph, without), InputError);
}
