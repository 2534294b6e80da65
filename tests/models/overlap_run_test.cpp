#include "models/overlap_run.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "models/analytic.hpp"
#include "models/plan.hpp"
#include "models/schedule.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;

namespace {

// One rank on which n bytes or flops take n seconds.
Cluster second_a_unit(double compute_slowdown, double communication_slowdown) {
  Cluster cluster;
  cluster.nodes = cluster.gpus_per_node = 1;
  cluster.all_to_all[1].model = AlphaBeta<Bytes>{Seconds{0}, {1}};
  cluster.gemm[Dtype::Fp32].model = AlphaBeta<Flops>{Seconds{0}, {1}};
  for (const MemoryPass pass :
       {MemoryPass::Gate, MemoryPass::Permutation, MemoryPass::Activation}) {
    cluster.passes[pass] = NotModelled{};
  }
  cluster.overlap = Overlap{compute_slowdown, communication_slowdown, "by hand"};
  return cluster;
}

Task exchange(int seconds, Stream stream = Stream::InterNode, int chunk = 0) {
  return {0, chunk, Phase::Forward, stream,
          AllToAll{Purpose::Dispatch, TrafficMatrix::uniform({seconds})}};
}
// One product of 2 * rows flops.
Task expert(int seconds, int chunk = 0) {
  return {0, chunk, Phase::Forward, Stream::Compute, ExpertFfn{.gemms = {{1, seconds / 2, 1, 1}}}};
}

std::vector<Span> spans_of(std::vector<Task> tasks, const Cluster& cluster) {
  TaskGraphBuilder builder("by hand", 1);
  for (Task& task : tasks) builder.append(std::move(task));
  return analytic_timeline(std::move(builder).build(), cluster).spans;
}

// 2 at one byte in flight, 4 at four, linear in the logarithm in between.
Slowdown rising() { return Slowdown(Slowdown::Points{{1, 2}, {4, 4}}); }

Cluster with_overlap(Cluster cluster, double compute_slowdown, double communication_slowdown) {
  cluster.overlap = Overlap{compute_slowdown, communication_slowdown, "test"};
  return cluster;
}

TaskGraph random_graph(std::mt19937_64& random, const Cluster& cluster, std::int64_t degree) {
  MoeLayer layer = random_layer(random, static_cast<int>(cluster.num_ranks()));
  layer.dtype = Dtype::Fp32;
  degree = std::min(degree, layer.slots());
  return schedule("pipemoe", layer, cluster, {degree, std::max<std::int64_t>(1, degree / 2)});
}

}  // namespace

TEST_CASE("two streams slow each other while both run", "[models][overlap]") {
  // The exchange, 3 s alone, ends at 3 * 1.5; the expert has by then done 4.5 / 2 of its 4 s.
  const auto spans = spans_of({expert(4), exchange(3)}, second_a_unit(2, 1.5));
  CHECK(spans[0].end == Seconds{4.5 + (4 - 2.25)});
  CHECK(spans[1].end == Seconds{4.5});
}

TEST_CASE("the longer task runs on at its own speed", "[models][overlap]") {
  // The expert, 2 s alone, ends at 2 * 1.5; the exchange has by then done 3 / 2 of its 4 s.
  const auto spans = spans_of({expert(2), exchange(4)}, second_a_unit(1.5, 2));
  CHECK(spans[0].end == Seconds{3});
  CHECK(spans[1].end == Seconds{3 + (4 - 1.5)});
}

TEST_CASE("two communication streams slow computation as one does", "[models][overlap]") {
  // Exchanges of 1 and 2 s at half speed end at 2 and 4; the expert has by then done 2 of 4 s.
  const auto spans =
      spans_of({expert(4), exchange(1, Stream::InterNode, 0), exchange(2, Stream::IntraNode, 1)},
               second_a_unit(2, 2));
  CHECK(spans[1].end == Seconds{2});
  CHECK(spans[2].end == Seconds{4});
  CHECK(spans[0].end == Seconds{6});
}

TEST_CASE("what is in flight decides by how much", "[models][overlap]") {
  Cluster cluster = second_a_unit(1, 1);
  cluster.overlap = Overlap{rising(), 1, "by hand"};
  // The exchange of 2 bytes ends at 2, the expert runs at a third of its speed until then.
  const auto one = spans_of({expert(4), exchange(2)}, cluster);
  CHECK(one[1].end == Seconds{2});
  CHECK(one[0].end.count() == Approx(2 + (4 - 2.0 / 3)));
  // 1 + 2 bytes until 1, 2 until 2.
  const double three = 2 + 2 * std::log(3.0) / std::log(4.0);
  const auto two = spans_of(
      {expert(4), exchange(1, Stream::InterNode, 0), exchange(2, Stream::IntraNode, 1)}, cluster);
  CHECK(two[0].end.count() == Approx(2 + (4 - 1 / three - 1.0 / 3)));
}

TEST_CASE("experts with slowdowns of their own take those", "[models][overlap]") {
  // Both experts are one product of 1 x 1; the second stands for a rank with two of them.
  Cluster cluster = second_a_unit(2, 2);
  cluster.overlap->experts.push_back(
      {expert_sizes(Pass::Forward, {{2, 0, 1, 1}, {2, 0, 1, 1}}), 4, 1});
  const auto experts = [](std::int64_t on_a_rank) {
    return Task{0, 0, Phase::Forward, Stream::Compute,
                ExpertFfn{.gemms = {{on_a_rank, 1, 1, 1}, {on_a_rank, 1, 1, 1}}}};
  };
  // 4 s of computation; the exchange, 1 s alone, takes 2 and leaves half a speed, or takes 1 and
  // leaves a quarter.
  CHECK(spans_of({experts(1), exchange(1)}, cluster)[0].end == Seconds{2 + (4 - 1)});
  CHECK(spans_of({experts(2), exchange(1)}, cluster)[0].end == Seconds{1 + (4 - 0.25)});
}

TEST_CASE("a slowdown is constant outside its points", "[models][overlap]") {
  CHECK(rising().at({0}) == 2);
  CHECK(rising().at({1}) == 2);
  CHECK(rising().at({2}) == Approx(3));
  CHECK(rising().at({4}) == 4);
  CHECK(rising().at({1000}) == 4);
  CHECK(Slowdown(1.5).at({7}) == 1.5);
  using Points = Slowdown::Points;
  CHECK_THROWS_WITH(Slowdown(Points{}), Catch::Contains("at least one point"));
  CHECK_THROWS_WITH(Slowdown(Points{{2, 1}, {2, 1}}), Catch::Contains("rise"));
  CHECK_THROWS_WITH(Slowdown(Points{{0, 1}}), Catch::Contains("above 0"));
  CHECK_THROWS_WITH(Slowdown(Points{{1, 0.5}}), Catch::Contains("at least 1, not 0.5"));
}

TEST_CASE("communication streams do not slow each other", "[models][overlap]") {
  const auto spans = spans_of(
      {exchange(1, Stream::InterNode, 0), exchange(2, Stream::IntraNode, 1)}, second_a_unit(3, 3));
  CHECK(spans[0].end == Seconds{1});
  CHECK(spans[1].end == Seconds{2});
}

TEST_CASE("a task that takes no time slows nothing", "[models][overlap]") {
  const auto spans = spans_of({expert(0), exchange(0, Stream::InterNode, 0), expert(2, 1),
                               exchange(0, Stream::InterNode, 1)},
                              second_a_unit(3, 3));
  CHECK(spans[2].end == Seconds{2});
  CHECK(spans[3].end == Seconds{0});
}

TEST_CASE("a pipelined phase runs as derived by hand", "[models][overlap]") {
  // D0 E0 C0 of 2 s and D1 E1 C1 of 2 s; experts at half, exchanges at two thirds of their speed.
  //   D0 0-2. D1 and E0 from 2: D1 ends at 5, E0 has 2 - 3/2 left and ends at 5.5.
  //   C0 and E1 from 5.5: C0 ends at 8.5, E1 at 9. C1 9-11, alone.
  TaskGraphBuilder builder("by hand", 1);
  const TaskId d0 = builder.append(exchange(2, Stream::InterNode, 0));
  const TaskId d1 = builder.append(exchange(2, Stream::InterNode, 1));
  const TaskId e0 = builder.append(expert(2, 0)), e1 = builder.append(expert(2, 1));
  Task back = exchange(2, Stream::InterNode, 0);
  std::get<AllToAll>(back.operation).purpose = Purpose::Combine;
  const TaskId c0 = builder.append(back);
  back.chunk = 1;
  const TaskId c1 = builder.append(back);
  for (const auto& [before, after] : {std::pair{d0, e0}, {d1, e1}, {e0, c0}, {e1, c1}}) {
    builder.depend(before, after);
  }
  const Timeline line = analytic_timeline(std::move(builder).build(), second_a_unit(2, 1.5));
  const auto check_span = [&](TaskId id, double start, double end) {
    CAPTURE(line.spans[id].task.name());
    CHECK(line.spans[id].start == Seconds{start});
    CHECK(line.spans[id].end == Seconds{end});
  };
  check_span(d0, 0, 2);
  check_span(d1, 2, 5);
  check_span(e0, 2, 5.5);
  check_span(c0, 5.5, 8.5);
  check_span(e1, 5.5, 9);
  check_span(c1, 9, 11);
}

TEST_CASE("a queued exchange starts up beside the one before it", "[models][overlap]") {
  // Alone 2 s + 1 s a byte; queued 1 s less, as far as it waited for its stream alone.
  Cluster cluster = second_a_unit(1, 1);
  cluster.all_to_all[1].model = AlphaBeta<Bytes>{Seconds{2}, {1}};
  cluster.all_to_all_queued[1].model = AlphaBeta<Bytes>{Seconds{1}, {1}};
  for (const bool slows : {false, true}) {
    if (!slows) cluster.overlap.reset();
    if (slows) cluster.overlap = Overlap{1, 1, "by hand"};
    TaskGraphBuilder builder("by hand", 1);
    builder.append(exchange(1));                                            // 0 to 3
    builder.append(exchange(1, Stream::InterNode, 1));                      // to 3 + 3 - 1
    const TaskId work = builder.append(expert(4));                          // 0 to 4
    const TaskId late = builder.append(exchange(1, Stream::InterNode, 2));  // waits 1 of 5 s
    builder.depend(work, late);
    const TaskId longer = builder.append(expert(4, 1));  // 4 to 8
    const TaskId last = builder.append(exchange(1, Stream::InterNode, 3));
    builder.depend(longer, last);
    const auto spans = analytic_timeline(std::move(builder).build(), cluster).spans;
    CAPTURE(slows);
    CHECK(spans[1].end == Seconds{5});
    CHECK(spans[late].end == Seconds{5 + 3 - 1});
    CHECK(spans[last].end == Seconds{8 + 3});  // it waited for the expert: no saving
  }
}

TEST_CASE("slowdowns of 1 change no bit of any time", "[models][overlap]") {
  std::mt19937_64 random(41);
  const Cluster plain = authors_cluster(16), slowed = with_overlap(plain, 1, 1);
  for (int i = 0; i < 60; ++i) {
    const TaskGraph graph = random_graph(random, plain, 1 + i % 20);
    const Timeline a = analytic_timeline(graph, plain), b = analytic_timeline(graph, slowed);
    CAPTURE(i);
    REQUIRE(a.spans == b.spans);
  }
}

TEST_CASE("one chunk has nothing to slow it", "[models][overlap]") {
  std::mt19937_64 random(42);
  const Cluster plain = authors_cluster(16), slowed = with_overlap(plain, 2.5, 3);
  for (int i = 0; i < 40; ++i) {
    const TaskGraph graph = random_graph(random, plain, 1);
    REQUIRE(analytic_timeline(graph, plain).spans == analytic_timeline(graph, slowed).spans);
  }
}

TEST_CASE("a larger slowdown is never faster, and no worse than serial times it",
          "[models][overlap]") {
  std::mt19937_64 random(43);
  const Cluster plain = authors_cluster(16);
  for (int i = 0; i < 60; ++i) {
    const TaskGraph graph = random_graph(random, plain, 2 + i % 12);
    Seconds last = analytic_times(graph, CostModel(plain)).makespan();
    for (const double slowdown : {1.05, 1.3, 2.0, 4.0}) {
      const bool computes = i % 2 == 0;
      const Cluster slowed =
          with_overlap(plain, computes ? slowdown : 1.2, computes ? 1.2 : slowdown);
      const Seconds now = analytic_times(graph, CostModel(slowed)).makespan();
      const Seconds serial = makespan_bounds(graph, CostModel(plain)).serial_sum;
      CAPTURE(i, slowdown);
      REQUIRE(now >= last * (1 - 1e-12));
      REQUIRE(now <= std::max(slowdown, 1.2) * serial);
      last = now;
    }
  }
}

TEST_CASE("with slowdowns a plan compares the graphs", "[models][overlap][plan]") {
  const Cluster cluster = with_overlap(authors_cluster(64), 1.4, 1.2);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const Plan plan = make_plan(layer, cluster, 12);
  CHECK_FALSE(plan.closed_form);
  CHECK(plan.degrees() == choose_degrees_by_graph(layer, cluster, 12));
  for (const std::int64_t r : {1, 2, 7}) {
    const auto at = static_cast<std::size_t>(r) - 1;
    const PhaseTimes times =
        analytic_times(schedule("pipemoe", layer, cluster, {r, r}), CostModel(cluster));
    CHECK(plan.forward.by_degree[at].time == times.forward);
    CHECK(plan.backward.by_degree[at].time == times.backward);
  }
  // The passes around the chunks cost nothing here: something of the chunks always runs.
  for (const PhasePlan* phase : {&plan.forward, &plan.backward}) {
    const PhaseBreakdown& parts = phase->chosen;
    CHECK((parts.communication + parts.compute - parts.hidden).count() ==
          Approx(parts.time.count()).epsilon(1e-9));
    CHECK(parts.hidden > Seconds{});
  }
}

TEST_CASE("communication binds where its stream never waits", "[models][overlap][plan]") {
  using Binding = PhaseBreakdown::Binding;
  const Cluster cluster = with_overlap(authors_cluster(64), 1.4, 1.2);
  MoeLayer layer = shipped_layer("pipemoe-example");
  layer.hidden_dim = 256;  // hardly any computation
  CHECK(make_plan(layer, cluster).forward.by_degree[1].degree == 2);
  CHECK(make_plan(layer, cluster, 2).forward.chosen.binding != Binding::Compute);
  layer.hidden_dim = 65536;  // hardly any communication
  CHECK(make_plan(layer, cluster).forward.chosen.binding == Binding::Compute);
  CHECK(make_plan(layer, cluster, 1).forward.chosen.binding == Binding::Serial);
}
