#include "models/task_graph.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "models/error.hpp"

using namespace pipemoe;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using Catch::Matchers::StartsWith;

namespace {

Task expert(int chunk, Stream stream = Stream::Compute) {
  return {0, chunk, Phase::Forward, stream, ExpertFfn{}};
}
Task dispatch(int chunk) { return {0, chunk, Phase::Forward, Stream::InterNode, AllToAll{}}; }

TaskGraph built(TaskGraphBuilder& builder) { return std::move(builder).build(); }

// Experts 0.. on random streams, enqueued and depending on each other along a random order; with
// `cyclic` one dependency against it.
TaskGraphBuilder random_builder(std::mt19937_64& random, bool cyclic) {
  const auto draw = [&](std::size_t to) {
    return std::uniform_int_distribution<std::size_t>(0, to)(random);
  };
  TaskGraphBuilder builder("random", 1);
  std::vector<TaskId> order(2 + draw(38));
  std::iota(order.begin(), order.end(), TaskId{0});
  for (const TaskId id : order) builder.add(expert(static_cast<int>(id), kStreams[draw(2)]));
  std::shuffle(order.begin(), order.end(), random);
  for (const TaskId id : order) builder.enqueue(id);
  for (std::size_t edges = draw(3 * order.size()); edges > 0; --edges) {
    const std::size_t i = draw(order.size() - 1), j = draw(order.size() - 1);
    if (i != j) builder.depend(order[std::min(i, j)], order[std::max(i, j)]);
  }
  if (cyclic) {
    const std::size_t first = draw(order.size() - 2);
    builder.depend(order[first], order.back());
    builder.depend(order.back(), order[first]);
  }
  return builder;
}

void check_respects_every_precedence(const TaskGraph& graph) {
  const auto& order = graph.topological_order();
  std::map<TaskId, std::size_t> place;
  for (std::size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
  REQUIRE(order.size() == graph.size());
  REQUIRE(place.size() == graph.size());
  for (const auto& [before, after] : graph.dependencies()) REQUIRE(place[before] < place[after]);
  for (const Stream stream : kStreams) {
    const auto& queue = graph.stream_order(stream);
    for (std::size_t i = 1; i < queue.size(); ++i) REQUIRE(place[queue[i - 1]] < place[queue[i]]);
  }
}

std::string failure(TaskGraphBuilder builder) {
  try {
    std::move(builder).build();
  } catch (const InputError& error) {
    return error.what();
  }
  return "no failure";
}

}  // namespace

TEST_CASE("a task is named by layer, phase, operation and chunk", "[models][graph]") {
  CHECK(Task{3, 2, Phase::Backward, Stream::InterNode, AllToAll{Purpose::Combine, {}}}.name() ==
        "layer3.backward.combine.2");
  CHECK(dispatch(0).name() == "layer0.forward.dispatch.0");
}

TEST_CASE("phases and streams have names that read back", "[models][graph]") {
  for (const Stream stream : kStreams) CHECK(stream_from(to_string(stream)) == stream);
  for (const Phase phase : {Phase::Forward, Phase::Backward}) {
    CHECK(phase_from(to_string(phase)) == phase);
  }
  CHECK(to_string(Stream::InterNode) == "inter_node");
  CHECK_THROWS_WITH(stream_from("gpu"),
                    Equals("is gpu, must be one of compute, inter_node, intra_node"));
  CHECK_THROWS_AS(phase_from("sideways"), InputError);
}

TEST_CASE("a graph keeps tasks, dependencies and stream orders", "[models][graph]") {
  TaskGraphBuilder builder("mine", 4);
  const TaskId d0 = builder.append(dispatch(0)), d1 = builder.append(dispatch(1));
  const TaskId e0 = builder.add(expert(0)), e1 = builder.add(expert(1));
  builder.enqueue(e1);
  builder.enqueue(e0, Stream::Compute);
  builder.depend(d1, e1);
  builder.depend(d0, e0);
  const TaskGraph graph = built(builder);
  CHECK(graph.schedule() == "mine");
  CHECK(graph.num_ranks() == 4);
  CHECK(graph.size() == 4);
  CHECK(graph.task(e1) == expert(1));
  CHECK(graph.dependencies() == std::vector<TaskGraph::Edge>{{d0, e0}, {d1, e1}});
  CHECK(graph.stream_order(Stream::InterNode) == std::vector<TaskId>{d0, d1});
  CHECK(graph.stream_order(Stream::Compute) == std::vector<TaskId>{e1, e0});
  CHECK(graph.stream_order(Stream::IntraNode).empty());
}

TEST_CASE("successors tell data from stream order", "[models][graph]") {
  TaskGraphBuilder builder("mine", 1);
  const TaskId d0 = builder.append(dispatch(0)), d1 = builder.append(dispatch(1));
  const TaskId e0 = builder.append(expert(0));
  builder.depend(d0, e0);
  const TaskGraph graph = built(builder);
  std::set<std::pair<TaskId, Precedence>> successors;
  graph.for_each_successor(d0, [&](TaskId id, Precedence why) { successors.emplace(id, why); });
  CHECK(successors == std::set<std::pair<TaskId, Precedence>>{{d1, Precedence::StreamOrder},
                                                              {e0, Precedence::Data}});
}

TEST_CASE("a graph without tasks is a graph", "[models][graph]") {
  CHECK(TaskGraphBuilder("empty", 1).build().size() == 0);
}

TEST_CASE("graphs differ by any part", "[models][graph]") {
  const auto graph = [](const char* name, std::int64_t ranks, bool depends, bool swapped) {
    TaskGraphBuilder builder(name, ranks);
    const TaskId a = builder.add(dispatch(0)), b = builder.add(dispatch(1));
    const TaskId e = builder.append(expert(0));
    builder.enqueue(swapped ? b : a);
    builder.enqueue(swapped ? a : b);
    if (depends) builder.depend(a, e);
    return built(builder);
  };
  const TaskGraph base = graph("g", 2, true, false);
  CHECK(base == graph("g", 2, true, false));
  CHECK_FALSE(base == graph("h", 2, true, false));
  CHECK_FALSE(base == graph("g", 3, true, false));
  CHECK_FALSE(base == graph("g", 2, false, false));
  CHECK_FALSE(base == graph("g", 2, true, true));
}

TEST_CASE("a task stands once in a graph", "[models][graph]") {
  TaskGraphBuilder builder("mine", 1);
  builder.append(expert(0));
  builder.append(expert(1));
  builder.append(expert(0));
  CHECK(failure(builder) == "task graph: layer0.forward.expert.0 stands twice");
}

TEST_CASE("a step's chunks have no gap", "[models][graph]") {
  TaskGraphBuilder gap("mine", 1);
  for (const int chunk : {3, 0, 1}) gap.append(expert(chunk));
  CHECK(failure(gap) == "task graph: layer0.forward.expert.3 is there without chunk 2");
  TaskGraphBuilder late("mine", 1);
  late.append(expert(0));
  late.append(dispatch(1));
  CHECK(failure(late) == "task graph: layer0.forward.dispatch.1 is there without chunk 0");
}

TEST_CASE("a task stands in its stream's order exactly once", "[models][graph]") {
  TaskGraphBuilder builder("mine", 1);
  const TaskId id = builder.add(expert(0));
  CHECK(failure(builder) ==
        "task graph: layer0.forward.expert.0 stands 0 times in its stream's order, must once");
  builder.enqueue(id);
  CHECK(failure(builder) == "no failure");
  builder.enqueue(id);
  CHECK(failure(builder) ==
        "task graph: layer0.forward.expert.0 stands 2 times in its stream's order, must once");
}

TEST_CASE("a task enqueued for another stream is refused", "[models][graph]") {
  TaskGraphBuilder builder("mine", 1);
  const TaskId id = builder.add(expert(0));
  CHECK_THROWS_AS(builder.enqueue(id, Stream::InterNode), InputError);
  CHECK_THROWS_WITH(builder.enqueue(id, Stream::InterNode),
                    Equals("task graph: layer0.forward.expert.0 is for stream compute, stands in "
                           "the order of inter_node"));
}

TEST_CASE("a cycle of dependencies names its tasks", "[models][graph]") {
  TaskGraphBuilder builder("mine", 1);
  const TaskId d = builder.append(dispatch(0)), e = builder.append(expert(0));
  builder.append(expert(1));
  builder.depend(d, e);
  builder.depend(e, d);
  CHECK(failure(builder) ==
        "task graph has a cycle: layer0.forward.dispatch.0 -> layer0.forward.expert.0 -> "
        "layer0.forward.dispatch.0");
}

TEST_CASE("a task that needs itself is a cycle", "[models][graph]") {
  TaskGraphBuilder builder("mine", 1);
  const TaskId id = builder.append(expert(0));
  builder.depend(id, id);
  CHECK(failure(builder) ==
        "task graph has a cycle: layer0.forward.expert.0 -> layer0.forward.expert.0");
}

TEST_CASE("a dependency against a stream's order is a cycle", "[models][graph]") {
  TaskGraphBuilder builder("mine", 1);
  const TaskId first = builder.append(expert(0)), second = builder.append(expert(1));
  builder.depend(second, first);
  CHECK_THAT(failure(builder), StartsWith("task graph has a cycle: ") && Contains("expert.0 -> ") &&
                                   Contains("expert.1 -> "));
}

TEST_CASE("the topological order respects every precedence", "[models][graph]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 300; ++i) {
    CAPTURE(i);
    TaskGraphBuilder builder = random_builder(random, false);
    check_respects_every_precedence(built(builder));
  }
}

TEST_CASE("one dependency against all others is a cycle", "[models][graph]") {
  std::mt19937_64 random(2);
  for (int i = 0; i < 100; ++i) {
    CAPTURE(i);
    CHECK_THAT(failure(random_builder(random, true)), StartsWith("task graph has a cycle: "));
  }
}

TEST_CASE("a long chain does not exhaust the stack", "[models][graph]") {
  TaskGraphBuilder builder("mine", 1);
  for (int chunk = 0; chunk < 100'000; ++chunk) builder.append(expert(chunk));
  CHECK(built(builder).topological_order().back() == 99'999);
}

TEST_CASE("work is added by phase and direction", "[models][graph]") {
  TaskGraphBuilder builder("mine", 1);
  const auto exchange = [](Purpose purpose, Phase phase, int chunk, std::int64_t bytes) {
    return Task{0, chunk, phase, Stream::InterNode,
                AllToAll{purpose, TrafficMatrix::uniform({bytes})}};
  };
  builder.append(exchange(Purpose::Dispatch, Phase::Forward, 0, 1));
  builder.append(exchange(Purpose::Dispatch, Phase::Forward, 1, 2));
  builder.append(exchange(Purpose::Combine, Phase::Forward, 0, 4));
  builder.append(exchange(Purpose::Combine, Phase::Backward, 0, 8));
  builder.append({0, 0, Phase::Forward, Stream::Compute, ExpertFfn{.gemms = {{1, 2, 3, 4}}}});
  const TaskGraph graph = built(builder);
  CHECK(total_work(graph, Phase::Forward) == WorkTotals{{3}, {4}, {48}});
  CHECK(total_work(graph, Phase::Backward) == WorkTotals{{0}, {8}, {0}});
}

TEST_CASE("degrees have a short name that reads back", "[models][graph]") {
  CHECK(to_string(Degrees{4, 4}) == "4");
  CHECK(to_string(Degrees{4, 2}) == "4/2");
  for (const Degrees degrees : {Degrees{1, 1}, {12, 3}, {1, 1000000}}) {
    CHECK(degrees_from(to_string(degrees)) == degrees);
  }
  for (const char* bad : {"", "0", "4/", "/4", "4/2/1", "-1", "4 ", "x", "99999999999999999999"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH(degrees_from(bad), Catch::Contains("must be a degree"));
  }
}
