// Ranks that do different amounts of work, in one evaluation (models/evaluate.hpp).
#include <catch2/catch.hpp>
#include <map>
#include <random>

#include "models/evaluate.hpp"
#include "models/schedule.hpp"
#include "tests/models/by_hand.hpp"
#include "tests/support/random_layers.hpp"

namespace pipemoe::ranks_test {

using namespace test;

namespace {

PerRank<Seconds> seconds_of(const std::vector<double>& each) {
  std::vector<Seconds> times;
  for (const double time : each) times.emplace_back(time);
  return PerRank<Seconds>(std::move(times));
}

Evaluation evaluate_on(NetworkLevel level, const TaskGraph& graph, const Cluster& cluster) {
  return evaluation_at(level, Costs(graph, cluster));
}

// By (task, rank): start and end.
std::map<std::pair<std::string, int>, std::pair<double, double>> spans_of(const Evaluation& made) {
  std::map<std::pair<std::string, int>, std::pair<double, double>> spans;
  for (const Span& span : made.timeline.spans) {
    const std::string name = to_string(span.task.step);
    spans[{name, span.rank}] = {span.start.count(), span.end.count()};
  }
  return spans;
}

// Dispatch, experts, combine, of rows of one fp32 number; two products of 1 x 1, 4 flops a row.
TaskGraph skewed_layer(const TrafficMatrix& dispatch, const TrafficMatrix& combine,
                       std::vector<std::int64_t> rows) {
  const auto ranks = static_cast<std::int64_t>(rows.size());
  TaskGraphBuilder builder("by hand", ranks, compute_and_communication());
  const TaskId d = builder.append(exchange(dispatch, ranks));
  const TaskId e = builder.append({{.step = Step::Expert},
                                   kComputeQueue,
                                   Products{.shapes = {{1, 0, 1, 1}, {1, 0, 1, 1}},
                                            .rows = PerRank<std::int64_t>(std::move(rows))}});
  const TaskId c = builder.append(at_step(exchange(combine, ranks), Step::Combine));
  builder.depend(d, e);
  builder.depend(e, c);
  TaskGraph graph = std::move(builder).build();
  check_conservation(graph);
  return graph;
}

// The same graph and beside it, on a queue of its own, a task that takes next to nothing, but on
// each rank another next to nothing: each rank is a class of its own.
TaskGraph with_distinct_ranks(const TaskGraph& graph) {
  std::vector<Queue> queues = graph.queues();
  queues.push_back({"apart", Resource::Host, 0});
  TaskGraphBuilder builder(graph.schedule(), graph.num_ranks(), queues);
  for (const Task& task : graph.tasks()) builder.add(task);
  for (const auto& [before, after] : graph.dependencies()) builder.depend(before, after);
  for (QueueId queue = 0; queue < graph.queues().size(); ++queue) {
    for (const TaskId id : graph.queue_order(queue)) builder.enqueue(id);
  }
  std::vector<double> each;
  for (std::int64_t rank = 0; rank < graph.num_ranks(); ++rank) {
    each.push_back(1e-300 * static_cast<double>(rank));
  }
  builder.append(
      {{.microbatch = 1}, static_cast<QueueId>(queues.size() - 1), Timed{seconds_of(each)}});
  return std::move(builder).build();
}

}  // namespace

TEST_CASE("a rank that receives four times as many rows computes four times as long",
          "[models][evaluate][skew]") {
  // Each of 4 ranks sends 4 rows to rank 0 and one to each other: rank 0 receives 16 rows, 64
  // bytes, the others 4 rows. At 1/64 s a byte and 1/16 s a flop:
  //   dispatch 0-1, by its busiest rank; rank 0's experts 1-5, the others' 1-2; combine 5-6.
  Cluster cluster = second_a_unit(4, 1);
  cluster.collectives[{CollectiveKind::AllToAll, {4, 1}}] = line<Bytes>(0, 1.0 / 64);
  cluster.gemm[Dtype::Fp32] = line<Flops>(0, 1.0 / 16);
  std::vector<Bytes> dispatch, combine;
  for (int sender = 0; sender < 4; ++sender) {
    for (int receiver = 0; receiver < 4; ++receiver) {
      dispatch.push_back({receiver == 0 ? 16 : 4});
      combine.push_back({sender == 0 ? 16 : 4});
    }
  }
  const TaskGraph graph = skewed_layer(TrafficMatrix::of_pairs(4, dispatch),
                                       TrafficMatrix::of_pairs(4, combine), {16, 4, 4, 4});
  const Costs costs(graph, cluster);
  REQUIRE(costs.num_classes() == 2);
  CHECK(costs.at(1, 0).total() == 4 * costs.at(1, 1).total());
  const Evaluation made = evaluate_on(NetworkLevel::Fitted, graph, cluster);
  CHECK(made.timeline.makespan() == Seconds{6});
  CHECK(evaluate(costs).makespan() == Seconds{6});
  CHECK(made.timeline.ranks() == std::vector<int>{0, 1});
  auto spans = spans_of(made);
  CHECK(spans[{"dispatch", 0}] == std::pair{0.0, 1.0});
  CHECK(spans[{"dispatch", 1}] == std::pair{0.0, 1.0});
  CHECK(spans[{"expert", 0}] == std::pair{1.0, 5.0});
  CHECK(spans[{"expert", 1}] == std::pair{1.0, 2.0});
  // The others have arrived at 2 and wait.
  CHECK(spans[{"combine", 0}] == std::pair{5.0, 6.0});
  CHECK(spans[{"combine", 1}] == std::pair{2.0, 6.0});
  // The path goes through the rank that is slowest; a wait is no time of it.
  REQUIRE(made.critical_path.size() == 3);
  CHECK(made.critical_path[1].rank_class == 0);
  CHECK(made.critical_path[1].time == Seconds{4});
  CHECK(made.critical_path[2].time == Seconds{1});
  CHECK_THAT(made.timeline.provenance.notes.back(),
             Catch::Contains("4 ranks do 2 different amounts of work"));
}

TEST_CASE("all rows for one of four ranks take four times as long as its share",
          "[models][evaluate][skew]") {
  // 4 ranks of 4 rows; at 1 s a flop a share of 4 rows computes 16 s, all 16 rows 64 s.
  const Cluster cluster = second_a_unit(4, 1);
  const TrafficMatrix even = TrafficMatrix::uniform({16});
  std::vector<Bytes> to_first(16), from_first(16);
  for (std::size_t rank = 0; rank < 4; ++rank) {
    to_first[4 * rank] = from_first[rank] = Bytes{16};
  }
  const auto makespan = [&](const TaskGraph& graph) {
    return evaluate(Costs(graph, cluster)).makespan();
  };
  // 16 s to send an even share, 64 s what rank 0 receives, or sends: a matrix and its transpose
  // cost the same.
  CHECK(makespan(skewed_layer(even, even, {4, 4, 4, 4})) == Seconds{16 + 16 + 16});
  CHECK(makespan(skewed_layer(TrafficMatrix::of_pairs(4, to_first),
                              TrafficMatrix::of_pairs(4, from_first), {16, 0, 0, 0})) ==
        Seconds{64 + 64 + 64});
}

TEST_CASE("on links a collective ends on each rank after its own part",
          "[models][evaluate][skew][links]") {
  // Ranks 0 and 1 send each other 2 rows, ranks 2 and 3 one row; links of 1 byte/s.
  //   ranks 0, 1: dispatch 0-8, experts 8-16;  ranks 2, 3: dispatch 0-4, experts 4-8;
  //   the combine begins when all have arrived, at 16, and ends at 24 and 20.
  const Cluster cluster = second_a_unit(4, 1);
  std::vector<Bytes> pairs(16);
  pairs[0 * 4 + 1] = pairs[1 * 4 + 0] = {8};
  pairs[2 * 4 + 3] = pairs[3 * 4 + 2] = {4};
  const TrafficMatrix traffic = TrafficMatrix::of_pairs(4, pairs);
  const TaskGraph graph = skewed_layer(traffic, traffic, {2, 2, 1, 1});
  const Evaluation made = evaluate_on(NetworkLevel::Links, graph, cluster);
  auto spans = spans_of(made);
  CHECK(made.timeline.ranks() == std::vector<int>{0, 2});
  CHECK(spans[{"dispatch", 0}] == std::pair{0.0, 8.0});
  CHECK(spans[{"dispatch", 2}] == std::pair{0.0, 4.0});
  CHECK(spans[{"expert", 0}] == std::pair{8.0, 16.0});
  CHECK(spans[{"expert", 2}] == std::pair{4.0, 8.0});
  CHECK(spans[{"combine", 0}] == std::pair{16.0, 24.0});
  CHECK(spans[{"combine", 2}] == std::pair{8.0, 20.0});
  CHECK(made.timeline.makespan() == Seconds{24});
  // Fitted, all of it ends with its busiest rank: 8 s, then experts until 16, then 8 s.
  CHECK(evaluate_on(NetworkLevel::Fitted, graph, cluster).timeline.makespan() == Seconds{24});
}

TEST_CASE("a collective of a part of the ranks waits for these alone", "[models][evaluate][skew]") {
  // Ranks compute for 1, 2, 3 and 4 s, then in pairs all-to-alls of 1 s, then compute for 1 s.
  Cluster cluster = second_a_unit(1, 4);
  const auto ends = [&](Group group) {
    cluster.collectives[{CollectiveKind::AllToAll, group}] = line<Bytes>(1, 0);
    TaskGraphBuilder builder("by hand", 4, compute_and_communication());
    const TaskId first = builder.append(compute(seconds_of({1, 2, 3, 4})));
    const TaskId pair =
        builder.append({{.step = Step::Combine},
                        kCommunicationQueue,
                        Collective{CollectiveKind::AllToAll, group, TrafficMatrix::uniform({8})}});
    const TaskId last = builder.append(at_step(compute(1), Step::Unpermute));
    builder.depend(first, pair);
    builder.depend(pair, last);
    const TaskGraph graph = std::move(builder).build();
    auto spans = spans_of(evaluate_on(NetworkLevel::Fitted, graph, cluster));
    std::vector<double> all;
    for (int rank = 0; rank < 4; ++rank) {
      const auto of_pair = spans[{"combine", rank}], of_last = spans[{"unpermute", rank}];
      CHECK(of_pair.first == rank + 1);
      CHECK(of_last == std::pair{of_pair.second, of_pair.second + 1});
      all.push_back(of_pair.second);
    }
    return all;
  };
  CHECK(ends({2, 1}) == std::vector<double>{3, 3, 5, 5});  // {0, 1} {2, 3}
  CHECK(ends({2, 2}) == std::vector<double>{4, 5, 4, 5});  // {0, 2} {1, 3}
  CHECK(ends({4, 1}) == std::vector<double>{5, 5, 5, 5});
  CHECK(ends({1, 1}) == std::vector<double>{2, 3, 4, 5});
}

TEST_CASE("on a network the groups of one collective begin together",
          "[models][evaluate][skew][links]") {
  // As above; a rank sends 4 of 8 bytes to its partner on links of 1 byte/s, after a start-up of
  // 1 s when the last rank has arrived at 4.
  Cluster cluster = second_a_unit(4, 1);
  cluster.collectives[{CollectiveKind::AllToAll, {4, 1}}] = line<Bytes>(1, 0.75);
  TaskGraphBuilder builder("by hand", 4, compute_and_communication());
  const TaskId first = builder.append(compute(seconds_of({1, 2, 3, 4})));
  const TaskId pair =
      builder.append({{.step = Step::Combine},
                      kCommunicationQueue,
                      Collective{CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::uniform({8})}});
  builder.depend(first, pair);
  const TaskGraph graph = std::move(builder).build();
  auto spans = spans_of(evaluate_on(NetworkLevel::Links, graph, cluster));
  for (int rank = 0; rank < 4; ++rank) {
    CHECK(spans[{"combine", rank}] == std::pair{rank + 1.0, 9.0});
  }
}

TEST_CASE("what slows a rank is in flight on this rank", "[models][evaluate][skew][contention]") {
  // Each pair of ranks moves 2 bytes in 2 s; experts beside it run at a third of their speed.
  Cluster cluster = second_a_unit(1, 4);
  cluster.collectives[{CollectiveKind::AllToAll, {2, 1}}] = line<Bytes>(0, 1);
  cluster.contention = Contention{{{3, 1}}, "by hand"};
  const TaskGraph graph =
      graph_of({compute(seconds_of({4, 4, 4, 5})),
                {{.step = Step::Combine},
                 kCommunicationQueue,
                 Collective{CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::uniform({2})}}},
               4);
  auto spans = spans_of(evaluate_on(NetworkLevel::Fitted, graph, cluster));
  CHECK(spans[{"combine", 0}].second == 2);
  CHECK(spans[{"expert", 0}].second == Approx(2 + 4 - 2.0 / 3).epsilon(1e-12));
  CHECK(spans[{"expert", 3}].second == Approx(2 + 5 - 2.0 / 3).epsilon(1e-12));
}

TEST_CASE("a collective is as slow as on the rank where it is slowest",
          "[models][evaluate][skew][contention]") {
  // Rank 0 computes for 2 s, rank 1 not at all; the exchange, 3 s alone, is slowed by 2 until then
  // (1 s done) and ends at 4 on both.
  Cluster cluster = second_a_unit(2, 1);
  cluster.contention = Contention{{{1, 2}}, "by hand"};
  const TaskGraph graph =
      graph_of({compute(seconds_of({2, 0})), exchange(TrafficMatrix::uniform({3}), 2)}, 2);
  auto spans = spans_of(evaluate_on(NetworkLevel::Fitted, graph, cluster));
  CHECK(spans[{"dispatch", 0}].second == 4);
  CHECK(spans[{"dispatch", 1}].second == 4);
}

TEST_CASE("a rank that only waits for a collective is not slowed by it",
          "[models][evaluate][skew][contention]") {
  // Rank 0 has arrived at 0 and computes 4 s beside the wait; rank 1 arrives at 2. From 2 to 4 both
  // are in the exchange of 2 s, which slows rank 0's computation by 2: 1 s of 2 is done by then.
  Cluster cluster = second_a_unit(2, 1);
  cluster.contention = Contention{{{2, 1}}, "by hand"};
  TaskGraphBuilder builder("by hand", 2, compute_and_communication());
  const TaskId before = builder.append(compute(seconds_of({0, 2}), 0));
  const TaskId moved = builder.append(exchange(TrafficMatrix::uniform({2}), 2));
  builder.append(compute(seconds_of({4, 0}), 1));
  builder.depend(before, moved);
  const TaskGraph graph = std::move(builder).build();
  const Evaluation made = evaluate_on(NetworkLevel::Fitted, graph, cluster);
  CHECK(spans_of(made)[{"dispatch", 0}] == std::pair{0.0, 4.0});
  CHECK(spans_of(made)[{"expert", 0}].second == 5);
}

TEST_CASE("bounds hold where ranks differ", "[models][evaluate][skew]") {
  // Ranks take turns: rank 0 is slow before the exchange, rank 1 behind it. 3 + 2 + 3 s.
  const Cluster cluster = second_a_unit(2, 1);
  TaskGraphBuilder builder("by hand", 2, compute_and_communication());
  const TaskId a = builder.append(compute(seconds_of({3, 1}), 0));
  const TaskId b = builder.append(exchange(TrafficMatrix::uniform({2}), 2));
  const TaskId c = builder.append(compute(seconds_of({1, 3}), 1));
  builder.depend(a, b);
  builder.depend(b, c);
  const TaskGraph graph = std::move(builder).build();
  const Costs costs(graph, cluster);
  CHECK(evaluate(costs).makespan() == Seconds{8});
  CHECK(makespan_bounds(costs).critical_path == Seconds{8});
  CHECK(makespan_bounds(costs).serial_sum == Seconds{8});
}

TEST_CASE("ranks of equal work that are evaluated one by one end together",
          "[models][evaluate][skew]") {
  std::mt19937_64 random(11);
  Cluster cluster = authors_cluster(16);
  cluster.collectives[{CollectiveKind::AllToAll, {4, 1}}] = line<Bytes>(1e-5, 1e-10);
  for (int i = 0; i < 24; ++i) {
    const MoeLayer layer{.tokens_per_rank = 1024 * (1 + i),
                         .model_dim = 256,
                         .hidden_dim = 512,
                         .num_experts = 16,
                         .top_k = 2};
    cluster.contention.reset();
    if (i % 3 > 0) {
      cluster.contention = Contention{{{1.0 + i / 50.0, 1.5}, {1.2, 1.1}}, "drawn"};
    }
    const std::string schedule = i % 2 == 0 ? "pipemoe" : "fastermoe";  // with groups of 4 ranks
    const Degrees degrees = i % 2 == 0 ? random_degrees(random, layer, 8) : Degrees{};
    const TaskGraph graph = build_graph(schedule, layer, cluster, degrees);
    const TaskGraph distinct = with_distinct_ranks(graph);
    for (const NetworkLevel level : {NetworkLevel::Fitted, NetworkLevel::Links}) {
      CAPTURE(i, schedule, to_string(level));
      const Costs one(graph, cluster), each(distinct, cluster);
      REQUIRE(one.num_classes() == 1);
      REQUIRE(each.num_classes() == 16);
      const PassTimes expected = evaluate_at(level, one), found = evaluate_at(level, each);
      REQUIRE(found.forward.count() == Approx(expected.forward.count()).epsilon(1e-12));
      REQUIRE(found.makespan().count() == Approx(expected.makespan().count()).epsilon(1e-12));
    }
  }
}

TEST_CASE("random work on every rank stays between its bounds", "[models][evaluate][skew]") {
  // Chains of computation and all-to-alls of all ranks: each link of a chain lasts as long as on
  // its slowest rank.
  std::mt19937_64 random(12);
  std::uniform_real_distribution<double> draw(0, 2);
  const Cluster cluster = second_a_unit(4, 2);
  for (int i = 0; i < 50; ++i) {
    TaskGraphBuilder builder("by hand", 8, compute_and_communication());
    Seconds expected{};
    TaskId last = 0;
    for (int chunk = 0; chunk < 6; ++chunk) {
      std::vector<double> each;
      for (int rank = 0; rank < 8; ++rank) each.push_back(draw(random));
      const TaskId before = builder.append(compute(seconds_of(each), chunk));
      if (chunk > 0) builder.depend(last, before);
      last = builder.append(exchange(TrafficMatrix::uniform({3}), 8, chunk));
      builder.depend(before, last);
      expected += Seconds{*std::max_element(each.begin(), each.end()) + 3};
    }
    const TaskGraph graph = std::move(builder).build();
    const Costs costs(graph, cluster);
    const MakespanBounds bounds = makespan_bounds(costs);
    const double makespan = evaluate(costs).makespan().count();
    CAPTURE(i);
    REQUIRE(makespan == Approx(expected.count()).epsilon(1e-12));
    REQUIRE(makespan >= bounds.critical_path.count() * (1 - 1e-12));
    REQUIRE(makespan <= bounds.serial_sum.count() * (1 + 1e-12));
    Seconds path{};
    for (const PathTask& one : evaluate_on(NetworkLevel::Fitted, graph, cluster).critical_path) {
      path += one.time;
    }
    REQUIRE(path.count() == Approx(makespan).epsilon(1e-12));
  }
}

}  // namespace pipemoe::ranks_test
