// The event loop where all ranks do the same (models/evaluate.hpp), at level fitted; ranks_test.cpp
// has ranks that differ, links_test.cpp the level links.
#include "models/evaluate.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/models/by_hand.hpp"
#include "tests/support/random_layers.hpp"

namespace pipemoe::evaluate_test {

using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

// One column, one expert a rank: 8 rows, so that an unpipelined all-to-all moves 8 * 4 bytes and an
// expert's forward pass computes 2 products * 2 flops * 8 rows.
const MoeLayer kEightRows{
    .tokens_per_rank = 8, .model_dim = 1, .hidden_dim = 1, .num_experts = 2, .top_k = 1};

// Two nodes of one GPU; gate and permutations take `kernel` seconds each. On its links, which carry
// 8 bytes/s, half of a byte leaves in 1/16 s, as most fits here say.
Cluster two_ranks(Fit<Bytes> all_to_all, Fit<Flops> gemm, double kernel = 0) {
  Cluster cluster = second_a_unit(2, 1);
  cluster.nic = cluster.gpu_link = {{8}, 1};
  cluster.collectives[{CollectiveKind::AllToAll, {2, 1}}] = std::move(all_to_all);
  cluster.gemm[Dtype::Fp32] = std::move(gemm);
  cluster.kernels[MemoryKernel::Gate] = line<Bytes>(kernel, 0);
  cluster.kernels[MemoryKernel::Permutation] = line<Bytes>(kernel, 0);
  return cluster;
}

// Unpipelined, an all-to-all and a forward expert of kEightRows take 2 s, a backward one 4 s.
Cluster two_seconds_a_step() {
  return two_ranks(line<Bytes>(0, 1.0 / 16), line<Flops>(0, 1.0 / 16));
}

PassTimes times_of(const TaskGraph& graph, const Cluster& cluster) {
  return evaluate(Costs(graph, cluster));
}
Timeline timeline_of(const TaskGraph& graph, const Cluster& cluster) {
  return evaluation_at(NetworkLevel::Fitted, Costs(graph, cluster)).timeline;
}
PassTimes times(const Cluster& cluster, Degrees degrees) {
  return times_of(build_graph("pipemoe", kEightRows, cluster, degrees), cluster);
}

TaskGraph random_graph(std::mt19937_64& random, const Cluster& cluster, std::int64_t most = 12) {
  const MoeLayer layer = random_fp32_layer(random, static_cast<int>(cluster.num_ranks()));
  return build_graph("pipemoe", layer, cluster, random_degrees(random, layer, most));
}

std::vector<Queue> compute_network_and_node_links() {
  return queues_of({Resource::Compute, Resource::Network, Resource::NodeLinks});
}

// Ends of tasks that nothing but their queues orders.
std::vector<double> ends(std::vector<Task> tasks, const Cluster& cluster,
                         std::vector<Queue> queues = compute_network_and_node_links()) {
  const TaskGraph graph = graph_of(std::move(tasks), cluster.num_ranks(), std::move(queues));
  std::vector<double> all;
  for (const Span& span : timeline_of(graph, cluster).spans) all.push_back(span.end.count());
  return all;
}

Cluster contended(Cluster cluster, double products, double collectives) {
  cluster.contention = Contention{{{products, collectives}}, "by hand"};
  return cluster;
}
Cluster second_a_unit_contended(double products, double collectives) {
  return contended(second_a_unit(), products, collectives);
}

}  // namespace

TEST_CASE("without pipelining every step waits for the one before", "[models][evaluate]") {
  // Forward D E C: 2 + 2 + 2 s. Backward C E D: 2 + 4 + 2 s.
  const PassTimes serial = times(two_seconds_a_step(), {1, 1});
  CHECK(serial.forward == Seconds{6});
  CHECK(serial.backward == Seconds{8});
  CHECK(serial.makespan() == Seconds{14});
}

TEST_CASE("at degree 2 all-to-alls overlap with experts", "[models][evaluate]") {
  // Forward, 1 s each: D0 | D1+E0 | C0+E1 | C1 -> 4 s.
  // Backward: C0 0-1, C1 1-2, E0 1-3, E1 3-5, D0 3-4, D1 5-6 -> 6 s.
  const PassTimes pipelined = times(two_seconds_a_step(), {2, 2});
  CHECK(pipelined.forward == Seconds{4});
  CHECK(pipelined.backward == Seconds{6});
}

TEST_CASE("the passes have degrees of their own", "[models][evaluate]") {
  CHECK(times(two_seconds_a_step(), {2, 1}).forward == Seconds{4});
  CHECK(times(two_seconds_a_step(), {2, 1}).backward == Seconds{8});
  CHECK(times(two_seconds_a_step(), {1, 2}).forward == Seconds{6});
  CHECK(times(two_seconds_a_step(), {1, 2}).backward == Seconds{6});
}

TEST_CASE("start-ups are paid for every chunk", "[models][evaluate]") {
  // Nothing but start-ups: 1 s an all-to-all, 2 products a forward expert, 4 a backward one.
  const Cluster cluster = two_ranks(line<Bytes>(1, 0), line<Flops>(1, 0));
  // D0-D2 end at 1 2 3, E0-E2 at 3 5 7, C2 at 8.  Backward: C0 at 1, experts at 5 9 13, D2 at 14.
  const PassTimes three = times(cluster, {3, 3});
  CHECK(three.forward == Seconds{8});
  CHECK(three.backward == Seconds{14});
}

TEST_CASE("all-to-alls bind when experts are short", "[models][evaluate]") {
  // 2 * 3 all-to-alls of 1 s, back to back; the experts cost nothing.
  const PassTimes three = times(two_ranks(line<Bytes>(1, 0), line<Flops>(0, 0)), {3, 3});
  CHECK(three.forward == Seconds{6});
  CHECK(three.backward == Seconds{6});
}

TEST_CASE("gate and permutations do not pipeline", "[models][evaluate]") {
  // Gate, permutation and un-permutation, 0.5 s each, around the 4 and 6 s of degree 2.
  const Cluster cluster = two_ranks(line<Bytes>(0, 1.0 / 16), line<Flops>(0, 1.0 / 16), 0.5);
  CHECK(times(cluster, {2, 2}).forward == Seconds{5.5});
  CHECK(times(cluster, {2, 2}).backward == Seconds{7.5});
}

TEST_CASE("a timeline's spans start as early as they can", "[models][evaluate]") {
  const Cluster cluster = two_seconds_a_step();
  const Timeline line = timeline_of(build_graph("pipemoe", kEightRows, cluster, {2, 2}), cluster);
  const std::map<std::string, std::pair<double, double>> expected{
      {"block0.forward.dispatch.0", {0, 1}},  {"block0.forward.dispatch.1", {1, 2}},
      {"block0.forward.expert.0", {1, 2}},    {"block0.forward.expert.1", {2, 3}},
      {"block0.forward.combine.0", {2, 3}},   {"block0.forward.combine.1", {3, 4}},
      {"block0.backward.combine.0", {4, 5}},  {"block0.backward.combine.1", {5, 6}},
      {"block0.backward.expert.0", {5, 7}},   {"block0.backward.expert.1", {7, 9}},
      {"block0.backward.dispatch.0", {7, 8}}, {"block0.backward.dispatch.1", {9, 10}}};
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
  // All-to-alls 4 + 4 s; hidden: D1 C0 forward; C1, D0 backward, 1 s each.
  CHECK(line.communication() == Seconds{8});
  CHECK(line.overlap_ratio() == 0.5);
}

TEST_CASE("a timeline says how it was made and what was not modelled", "[models][evaluate]") {
  const Cluster cluster = two_seconds_a_step();
  const TaskGraph graph = build_graph("sequential", kEightRows, cluster, {});
  const Timeline line = timeline_of(graph, cluster);
  CHECK(line.provenance.made_by == "evaluation, network level fitted");
  CHECK(line.provenance.notes ==
        std::vector<std::string>{"not modelled on this cluster, cost nothing here: activation"});
  CHECK_THAT(line.provenance.program, StartsWith("pipemoe "));
  CHECK(line.queues == graph.queues());
  CHECK(line.repeats.empty());
}

TEST_CASE("network levels have names that read back", "[models][evaluate]") {
  for (const NetworkLevel level :
       {NetworkLevel::Fitted, NetworkLevel::Links, NetworkLevel::Node, NetworkLevel::Gpu}) {
    CHECK(network_level_from(to_string(level)) == level);
  }
  CHECK_THROWS_WITH(network_level_from("rack"),
                    "network is rack, must be one of fitted, links, node, gpu");
}

TEST_CASE("a graph without tasks takes no time", "[models][evaluate]") {
  const Cluster cluster = second_a_unit();
  const TaskGraph graph = graph_of({});
  CHECK(times_of(graph, cluster).makespan() == Seconds{0});
  const Evaluation made = evaluation_at(NetworkLevel::Fitted, Costs(graph, cluster));
  CHECK(made.timeline.spans.empty());
  CHECK(made.critical_path.empty());
  CHECK(made.timeline.basis == BasisShares{});
}

TEST_CASE("progress counts each finished task", "[models][evaluate]") {
  const Cluster cluster = two_seconds_a_step();
  const TaskGraph graph = build_graph("pipemoe", kEightRows, cluster, {2, 2});
  std::vector<std::size_t> done;
  evaluation_at(NetworkLevel::Fitted, Costs(graph, cluster),
                [&](std::size_t now, std::size_t total) {
                  CHECK(total == graph.size());
                  done.push_back(now);
                });
  std::vector<std::size_t> expected(graph.size());
  std::iota(expected.begin(), expected.end(), std::size_t{1});
  CHECK(done == expected);
}

TEST_CASE("the critical path is the chain of tasks that each waited for the one before",
          "[models][evaluate]") {
  const Cluster cluster = two_seconds_a_step();
  const TaskGraph graph = build_graph("pipemoe", kEightRows, cluster, {2, 2});
  const Evaluation made = evaluation_at(NetworkLevel::Fitted, Costs(graph, cluster));
  std::vector<std::string> names;
  Seconds sum{};
  for (const PathTask& one : made.critical_path) {
    sum += one.time;
    if (one.time > Seconds{}) names.push_back(graph.task(one.task).name());
  }
  // Backward the experts of 2 s bind; forward all take 1 s, and what is ready last counts.
  REQUIRE(names.size() == 8);
  CHECK(names.front() == "block0.forward.dispatch.0");
  CHECK(names[4] == "block0.backward.combine.0");
  CHECK(names[5] == "block0.backward.expert.0");
  CHECK(names[6] == "block0.backward.expert.1");
  CHECK(names[7] == "block0.backward.dispatch.1");
  CHECK(sum == made.timeline.makespan());
}

TEST_CASE("shares of each basis follow the critical path", "[models][evaluate]") {
  // D 3 s from a fit, E 4 s measured elsewhere beside H 1 s estimated, C 5 s beyond its fit's
  // range. H is not on the path.
  Cluster cluster = second_a_unit();
  Fit<Bytes>& fit = cluster.collectives.begin()->second;
  fit.range = WorkRange{1, 4};
  TaskGraphBuilder builder("by hand", 1,
                           queues_of({Resource::Compute, Resource::Network, Resource::Host}));
  const TaskId d = builder.append(exchange(3)), e = builder.append(compute(4));
  Task beside{{.step = Step::Gate}, 2, MemoryTraffic{MemoryKernel::Gate, Bytes{1}}};
  Fit<Bytes> gate = line<Bytes>(1, 0);
  gate.range = WorkRange{2, 3};
  cluster.kernels[MemoryKernel::Gate] = gate;
  const TaskId h = builder.append(beside);
  const TaskId c = builder.append(at_step(exchange(5), Step::Combine));
  for (const auto& [before, after] : {std::pair{d, e}, {d, h}, {e, c}, {h, c}}) {
    builder.depend(before, after);
  }
  const TaskGraph graph = std::move(builder).build();
  const Evaluation made = evaluation_at(NetworkLevel::Fitted, Costs(graph, cluster));
  REQUIRE(made.timeline.makespan() == Seconds{12});
  REQUIRE(made.timeline.basis.has_value());
  const BasisShares& shares = *made.timeline.basis;
  CHECK(shares[static_cast<std::size_t>(Basis::Measured)] == Approx(4.0 / 12));
  CHECK(shares[static_cast<std::size_t>(Basis::Interpolated)] == Approx(3.0 / 12));
  CHECK(shares[static_cast<std::size_t>(Basis::Estimated)] == Approx(5.0 / 12));
  CHECK(shares[static_cast<std::size_t>(Basis::NotModelled)] == 0);
}

TEST_CASE("tasks may take longer than 64 bits of nanoseconds", "[models][evaluate]") {
  // 1e8 s each, one behind another: two exchanges and two products, backward two and four.
  const Cluster slow = two_ranks(line<Bytes>(1e8, 0), line<Flops>(1e8, 0));
  const PassTimes whole = times(slow, {1, 1});
  CHECK(whole.forward.count() == Approx(4e8).epsilon(1e-12));
  CHECK(whole.backward.count() == Approx(6e8).epsilon(1e-12));
  // Longer than the limit of one task.
  const Cluster slower = two_ranks(line<Bytes>(1.1e9, 0), line<Flops>(1, 0));
  CHECK_THROWS_WITH(times(slower, {1, 1}), Contains("must be at most 1e+09 s"));
}

TEST_CASE("the bounds are the longest chain of data and the sum", "[models][evaluate]") {
  // Degree 2: forward D E C 1 + 1 + 1, backward 1 + 2 + 1; the sum is that of degree 1.
  const Cluster cluster = two_seconds_a_step();
  const TaskGraph graph = build_graph("pipemoe", kEightRows, cluster, {2, 2});
  const MakespanBounds bounds = makespan_bounds(Costs(graph, cluster));
  CHECK(bounds.critical_path == Seconds{7});
  CHECK(bounds.serial_sum == Seconds{14});
}

TEST_CASE("a makespan lies between critical path and serial sum, whose path and shares add up",
          "[models][evaluate]") {
  std::mt19937_64 random(1);
  for (const int ranks : {16, 32, 64}) {
    const Cluster plain = authors_cluster(ranks), with_one = contended(plain, 1, 1);
    for (int i = 0; i < 60; ++i) {
      CAPTURE(ranks, i);
      const Cluster& cluster = i % 2 == 0 ? plain : with_one;
      const TaskGraph graph = random_graph(random, cluster);
      const Costs costs(graph, cluster);
      const Evaluation made = evaluation_at(NetworkLevel::Fitted, costs);
      const double makespan = made.timeline.makespan().count();
      const MakespanBounds bounds = makespan_bounds(costs);
      // The sums add the same costs in another order.
      REQUIRE(makespan >= bounds.critical_path.count() * (1 - 1e-12));
      REQUIRE(makespan <= bounds.serial_sum.count() * (1 + 1e-12));
      REQUIRE(bounds.critical_path.count() > 0);
      Seconds path{};
      for (const PathTask& one : made.critical_path) path += one.time;
      REQUIRE(path.count() == Approx(makespan).epsilon(1e-12));
      const BasisShares shares = made.timeline.basis.value();
      REQUIRE(std::accumulate(shares.begin(), shares.end(), 0.0) == Approx(1).epsilon(1e-12));
    }
  }
}

TEST_CASE("more bandwidth is never slower", "[models][evaluate]") {
  std::mt19937_64 random(2);
  for (const int ranks : {16, 32, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    for (int i = 0; i < 30; ++i) {
      const TaskGraph graph = random_graph(random, cluster);
      const double factor = std::uniform_real_distribution<double>(0, 1)(random);
      CAPTURE(ranks, i, factor);
      Cluster faster = cluster;
      auto& fit = faster.collectives.at({CollectiveKind::AllToAll, cluster.all_ranks()});
      std::get<AlphaBeta<Bytes>>(fit.model).beta.value *= factor;
      const PassTimes before = times_of(graph, cluster), after = times_of(graph, faster);
      REQUIRE(after.forward <= before.forward);
      REQUIRE(after.makespan() < before.makespan());
    }
  }
}

TEST_CASE("times equal the passes of the timeline", "[models][evaluate]") {
  std::mt19937_64 random(3);
  const Cluster cluster = authors_cluster(32);
  for (int i = 0; i < 50; ++i) {
    CAPTURE(i);
    const TaskGraph graph = random_graph(random, cluster);
    const PassTimes times = times_of(graph, cluster);
    const Timeline line = timeline_of(graph, cluster);
    REQUIRE(line.spans.size() == graph.size());
    REQUIRE(times.forward == line.forward());
    REQUIRE(times.backward == line.backward());
  }
}

TEST_CASE("degree 1 of pipemoe takes what sequential takes, under any contention",
          "[models][evaluate]") {
  std::mt19937_64 random(4);
  for (int i = 0; i < 30; ++i) {
    CAPTURE(i);
    const Cluster cluster = contended(authors_cluster(16), 1 + i / 10.0, 2);
    const MoeLayer layer = random_fp32_layer(random, 16);
    const PassTimes piped = times_of(build_graph("pipemoe", layer, cluster, {1, 1}), cluster);
    const PassTimes serial = times_of(build_graph("sequential", layer, cluster, {}), cluster);
    REQUIRE(piped.forward == serial.forward);
    REQUIRE(piped.backward == serial.backward);
  }
}

TEST_CASE("a timeline keeps every precedence and leaves no queue idle without cause",
          "[models][evaluate]") {
  std::mt19937_64 random(5);
  const Cluster cluster = authors_cluster(16);
  for (int i = 0; i < 30; ++i) {
    const TaskGraph graph = random_graph(random, cluster);
    const Timeline line = timeline_of(graph, cluster);
    std::vector<Seconds> latest(graph.size(), Seconds{0});
    for (TaskId id = 0; id < graph.size(); ++id) {
      for (const auto& after : graph.successors(id)) {
        latest[after.task] = std::max(latest[after.task], line.spans[id].end);
      }
    }
    for (TaskId id = 0; id < graph.size(); ++id) {
      CAPTURE(i, graph.task(id).name());
      REQUIRE(line.spans[id].task == graph.task(id).key);
      REQUIRE(line.spans[id].queue == graph.task(id).queue);
      REQUIRE(line.spans[id].start == latest[id]);
    }
  }
}

// ---- queues that share a resource ----

TEST_CASE("two queues of different resources do not share, with contention of 1 neither",
          "[models][evaluate]") {
  // 1 s each, at once.
  for (const Cluster& cluster : {second_a_unit(), second_a_unit_contended(1, 1)}) {
    CHECK(ends({compute(1), exchange(1)}, cluster) == std::vector<double>{1, 1});
    CHECK(ends({compute(1, 0, 0), compute(1, 1, 1)}, cluster,
               queues_of({Resource::Compute, Resource::Host})) == std::vector<double>{1, 1});
    CHECK(ends({exchange(1, 0, 1), exchange(1, 1, 2)}, cluster) == std::vector<double>{1, 1});
  }
}

TEST_CASE("queues of one resource share it", "[models][evaluate]") {
  const auto two_compute = queues_of({Resource::Compute, Resource::Compute});
  CHECK(ends({compute(1, 0, 0), compute(1, 1, 1)}, second_a_unit(), two_compute) ==
        std::vector<double>{2, 2});
  // 1 s at half speed ends at 2; the other has 2 of 3 s left then.
  CHECK(ends({compute(1, 0, 0), compute(3, 1, 1)}, second_a_unit(), two_compute) ==
        std::vector<double>{2, 4});
}

TEST_CASE("collectives of one resource share their work, not their start-ups",
          "[models][evaluate]") {
  Cluster cluster = second_a_unit();
  cluster.collectives.begin()->second = line<Bytes>(1, 1);
  const auto one_network = queues_of({Resource::Compute, Resource::Network, Resource::Network});
  // 1 s of start-up, then 2 s of work at half speed. On different resources at full speed.
  CHECK(ends({exchange(2, 0, 1), exchange(2, 1, 2)}, cluster, one_network) ==
        std::vector<double>{5, 5});
  CHECK(ends({exchange(2, 0, 1), exchange(2, 1, 2)}, cluster) == std::vector<double>{3, 3});
  // 1 s of work ends at 1 + 2; the other has 1 of 2 s left then, alone.
  CHECK(ends({exchange(1, 0, 1), exchange(2, 1, 2)}, cluster, one_network) ==
        std::vector<double>{3, 4});

  // The second starts at 2, beside the first one's work: its start-up, 2-3, takes nothing of it.
  // From 3 on they share: the first has 1 of 3 s left and ends at 5, the second, of 3 s, has 2 left
  // then.
  TaskGraphBuilder builder("by hand", 1, one_network);
  const TaskId first = builder.append(exchange(3, 0, 1)), work = builder.append(compute(2));
  const TaskId second = builder.append(exchange(3, 1, 2));
  builder.depend(work, second);
  const auto spans = timeline_of(std::move(builder).build(), cluster).spans;
  CHECK(spans[first].end == Seconds{5});
  CHECK(spans[second].start == Seconds{2});
  CHECK(spans[second].end == Seconds{7});
}

TEST_CASE("sharing and contention multiply", "[models][evaluate]") {
  // Two collectives of 1 s share the network, and an expert slows them by 1.5: each at 1/3, until
  // 3. The expert, slowed by 2, has 4 - 1.5 s left then.
  const auto one_network = queues_of({Resource::Compute, Resource::Network, Resource::Network});
  CHECK(ends({compute(4), exchange(1, 0, 1), exchange(1, 1, 2)}, second_a_unit_contended(2, 1.5),
             one_network) == std::vector<double>{5.5, 3, 3});
}

// ---- contention ----

TEST_CASE("computation and communication slow each other while both run",
          "[models][evaluate][contention]") {
  // The exchange, 3 s alone, ends at 3 * 1.5; the expert has by then done 4.5 / 2 of its 4 s.
  CHECK(ends({compute(4), exchange(3)}, second_a_unit_contended(2, 1.5)) ==
        std::vector<double>{4.5 + (4 - 2.25), 4.5});
}

TEST_CASE("the longer task runs on at its own speed", "[models][evaluate][contention]") {
  // The expert, 2 s alone, ends at 2 * 1.5; the exchange has by then done 3 / 2 of its 4 s.
  CHECK(ends({compute(2), exchange(4)}, second_a_unit_contended(1.5, 2)) ==
        std::vector<double>{3, 3 + (4 - 1.5)});
}

TEST_CASE("a collective's start-up is slowed too", "[models][evaluate][contention]") {
  Cluster cluster = second_a_unit_contended(1, 2);
  cluster.collectives.begin()->second = line<Bytes>(2, 1);
  // 2 s of start-up and 1 s of work, at half speed.
  CHECK(ends({compute(9), exchange(1)}, cluster) == std::vector<double>{9, 6});
}

TEST_CASE("two communication queues slow computation as one does",
          "[models][evaluate][contention]") {
  // Exchanges of 1 and 2 s at half speed end at 2 and 4; the expert has by then done 2 of 4 s.
  CHECK(ends({compute(4), exchange(1, 0, 1), exchange(2, 1, 2)}, second_a_unit_contended(2, 2)) ==
        std::vector<double>{6, 2, 4});
}

namespace {

// 4 s of computation: two products for one row, of so many experts on a rank.
Task experts(ProductKind kind, std::int64_t on_a_rank) {
  const Pass pass = kind == ProductKind::Forward ? Pass::Forward : Pass::Backward;
  const GemmShape one{on_a_rank, 0, 1, 1};
  return at_step({{}, kComputeQueue, Products{.kind = kind, .shapes = {one, one}, .rows = 1}},
                 Step::Expert, pass);
}

}  // namespace

TEST_CASE("the kind of product decides by how much", "[models][evaluate][contention]") {
  Cluster cluster = second_a_unit();
  cluster.contention = Contention{{.forward = {2, 1}, .gradients = {4, 2}}, "by hand"};
  // The exchange, 1 s alone, leaves half a speed; or takes 2 s and leaves a quarter.
  CHECK(ends({experts(ProductKind::Forward, 1), exchange(1)}, cluster) ==
        std::vector<double>{1 + (4 - 0.5), 1});
  for (const ProductKind kind : {ProductKind::InputGradient, ProductKind::WeightGradient}) {
    CHECK(ends({experts(kind, 1), exchange(1)}, cluster) ==
          std::vector<double>{2 + (4 - 2 * 0.25), 2});
  }
  // What is no product is slowed as products of its pass.
  CHECK(ends({compute(4), exchange(1)}, cluster)[0] == 1 + (4 - 0.5));
  CHECK(ends({at_step(compute(4), Step::Gate, Pass::Backward), exchange(1)}, cluster)[0] ==
        2 + (4 - 2 * 0.25));
}

TEST_CASE("experts with slowdowns of their own take those", "[models][evaluate][contention]") {
  Cluster cluster = second_a_unit_contended(2, 2);
  cluster.contention->experts.push_back({{2, 1, 1}, {.forward = {4, 1}, .gradients = {2, 4}}});
  // The exchange, 1 s alone, takes 2 and leaves half a speed; or takes 1 and leaves a quarter; or
  // takes 4 and leaves half.
  CHECK(ends({experts(ProductKind::Forward, 1), exchange(1)}, cluster)[0] == 2 + (4 - 1));
  CHECK(ends({experts(ProductKind::Forward, 2), exchange(1)}, cluster)[0] == 1 + (4 - 0.25));
  CHECK(ends({experts(ProductKind::InputGradient, 2), exchange(1)}, cluster)[0] == 4 + (4 - 2));
  // A product by itself is no expert.
  const Products one{.shapes = {{2, 0, 1, 1}}, .rows = 2};
  CHECK(ends({{{.step = Step::Expert}, kComputeQueue, one}, exchange(1)}, cluster)[0] ==
        2 + (4 - 1));
}

TEST_CASE("communication queues do not slow each other", "[models][evaluate][contention]") {
  CHECK(ends({exchange(1, 0, 1), exchange(2, 1, 2)}, second_a_unit_contended(3, 3)) ==
        std::vector<double>{1, 2});
}

TEST_CASE("what runs on the host is not slowed", "[models][evaluate][contention]") {
  CHECK(ends({compute(4, 0, 0), exchange(3)}, second_a_unit_contended(2, 2),
             queues_of({Resource::Host, Resource::Network})) == std::vector<double>{4, 3});
}

TEST_CASE("a task that takes no time slows nothing", "[models][evaluate][contention]") {
  CHECK(ends({compute(0, 0), exchange(0, 0), compute(2, 1), exchange(0, 1)},
             second_a_unit_contended(3, 3)) == std::vector<double>{0, 0, 2, 0});
}

TEST_CASE("a pipelined pass runs as derived by hand", "[models][evaluate][contention]") {
  // D0 E0 C0 of 2 s and D1 E1 C1 of 2 s; experts at half, exchanges at two thirds of their speed.
  //   D0 0-2. D1 and E0 from 2: D1 ends at 5, E0 has 2 - 3/2 left and ends at 5.5.
  //   C0 and E1 from 5.5: C0 ends at 8.5, E1 at 9. C1 9-11, alone.
  TaskGraphBuilder builder("by hand", 1, compute_and_communication());
  const TaskId d0 = builder.append(exchange(2, 0)), d1 = builder.append(exchange(2, 1));
  const TaskId e0 = builder.append(compute(2, 0)), e1 = builder.append(compute(2, 1));
  const TaskId c0 = builder.append(at_step(exchange(2, 0), Step::Combine));
  const TaskId c1 = builder.append(at_step(exchange(2, 1), Step::Combine));
  for (const auto& [before, after] : {std::pair{d0, e0}, {d1, e1}, {e0, c0}, {e1, c1}}) {
    builder.depend(before, after);
  }
  const auto spans = timeline_of(std::move(builder).build(), second_a_unit_contended(2, 1.5)).spans;
  const auto check_span = [&](TaskId id, double start, double end) {
    CAPTURE(spans[id].task.name());
    CHECK(spans[id].start == Seconds{start});
    CHECK(spans[id].end == Seconds{end});
  };
  check_span(d0, 0, 2);
  check_span(d1, 2, 5);
  check_span(e0, 2, 5.5);
  check_span(c0, 5.5, 8.5);
  check_span(e1, 5.5, 9);
  check_span(c1, 9, 11);
}

TEST_CASE("a queued collective starts up beside the one before it", "[models][evaluate]") {
  // Alone 2 s + 1 s a byte; queued 1 s less, as far as it waited for its queue alone.
  for (const bool contends : {false, true}) {
    Cluster cluster = contends ? second_a_unit_contended(1, 1) : second_a_unit();
    const std::pair key{CollectiveKind::AllToAll, Group{1, 1}};
    cluster.collectives[key] = {line<Bytes>(2, 1), Seconds{1}};
    TaskGraphBuilder builder("by hand", 1, compute_and_communication());
    builder.append(exchange(1));                         // 0 to 3
    builder.append(exchange(1, 1));                      // to 3 + 3 - 1
    const TaskId work = builder.append(compute(4.5));    // 0 to 4.5
    const TaskId late = builder.append(exchange(1, 2));  // waits 0.5 of 5 s
    builder.depend(work, late);
    const TaskId longer = builder.append(compute(4, 1));  // 4.5 to 8.5
    const TaskId last = builder.append(exchange(1, 3));
    builder.depend(longer, last);
    const auto spans = timeline_of(std::move(builder).build(), cluster).spans;
    CAPTURE(contends);
    CHECK(spans[1].end == Seconds{5});
    CHECK(spans[late].end == Seconds{5 + 3 - 0.5});
    CHECK(spans[last].end == Seconds{8.5 + 3});  // it waited for the expert: no saving
  }
}

TEST_CASE("a saving is at most the start-up", "[models][evaluate]") {
  Cluster cluster = second_a_unit();
  cluster.collectives[{CollectiveKind::AllToAll, Group{1, 1}}] = {line<Bytes>(1, 1), Seconds{4}};
  CHECK(ends({exchange(6, 0), exchange(6, 1)}, cluster) == std::vector<double>{7, 13});
}

TEST_CASE("slowdowns of 1 change no bit of any time", "[models][evaluate][contention]") {
  std::mt19937_64 random(41);
  const Cluster plain = authors_cluster(16), with_one = contended(plain, 1, 1);
  for (int i = 0; i < 60; ++i) {
    const TaskGraph graph = random_graph(random, plain, 20);
    CAPTURE(i);
    REQUIRE(timeline_of(graph, plain).spans == timeline_of(graph, with_one).spans);
  }
}

TEST_CASE("one chunk has nothing to slow it", "[models][evaluate][contention]") {
  std::mt19937_64 random(42);
  const Cluster plain = authors_cluster(16), slowed = contended(plain, 2.5, 3);
  for (int i = 0; i < 40; ++i) {
    const TaskGraph graph = random_graph(random, plain, 1);
    REQUIRE(timeline_of(graph, plain).spans == timeline_of(graph, slowed).spans);
  }
}

TEST_CASE("a larger slowdown is never faster, and no worse than serial times it",
          "[models][evaluate][contention]") {
  std::mt19937_64 random(43);
  const Cluster plain = authors_cluster(16);
  for (int i = 0; i < 60; ++i) {
    const TaskGraph graph = random_graph(random, plain);
    Seconds last = times_of(graph, plain).makespan();
    const Seconds serial = makespan_bounds(Costs(graph, plain)).serial_sum;
    for (const double slowdown : {1.05, 1.3, 2.0, 4.0}) {
      const bool computes = i % 2 == 0;
      const Cluster slowed = contended(plain, computes ? slowdown : 1.2, computes ? 1.2 : slowdown);
      const Seconds now = times_of(graph, slowed).makespan();
      CAPTURE(i, slowdown);
      REQUIRE(now >= last * (1 - 1e-12));
      REQUIRE(now <= std::max(slowdown, 1.2) * serial);
      last = now;
    }
  }
}

}  // namespace pipemoe::evaluate_test
