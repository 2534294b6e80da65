#include "models/task_graph.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/models/by_hand.hpp"

namespace pipemoe::task_graph_test {

using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using Catch::Matchers::StartsWith;

namespace {

Task expert(int chunk, QueueId queue = kComputeQueue) { return compute(1, chunk, queue); }
Task dispatch(int chunk) { return exchange(1, chunk); }

TaskGraphBuilder builder_of(std::int64_t ranks = 1) {
  return {"mine", ranks, compute_and_communication()};
}
TaskGraph built(TaskGraphBuilder& builder) { return std::move(builder).build(); }

std::vector<TaskId> order(const TaskGraph& graph, QueueId queue) {
  return {graph.queue_order(queue).begin(), graph.queue_order(queue).end()};
}

// Experts 0.. on random queues, enqueued and depending on each other along a random order; with
// `cyclic` one dependency against it.
TaskGraphBuilder random_builder(std::mt19937_64& random, bool cyclic) {
  const auto draw = [&](std::size_t to) {
    return std::uniform_int_distribution<std::size_t>(0, to)(random);
  };
  TaskGraphBuilder builder("random", 1,
                           queues_of({Resource::Compute, Resource::Network, Resource::NodeLinks}));
  std::vector<TaskId> order(2 + draw(38));
  std::iota(order.begin(), order.end(), TaskId{0});
  for (const TaskId id : order) {
    builder.add(expert(static_cast<int>(id), static_cast<QueueId>(draw(2))));
  }
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
  for (QueueId queue = 0; queue < graph.queues().size(); ++queue) {
    const auto tasks = graph.queue_order(queue);
    for (std::size_t i = 1; i < tasks.size(); ++i) REQUIRE(place[tasks[i - 1]] < place[tasks[i]]);
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
std::string failure_of(Task task, std::int64_t ranks) {
  TaskGraphBuilder builder = builder_of(ranks);
  builder.append(std::move(task));
  return failure(builder);
}

}  // namespace

TEST_CASE("a task is named by block, pass, step and chunk", "[models][graph]") {
  CHECK(TaskKey{0, 3, Pass::Backward, Step::Combine, 2, 0}.name() == "block3.backward.combine.2");
  CHECK(dispatch(0).name() == "block0.forward.dispatch.0");
  CHECK(TaskKey{2, 0, Pass::Forward, Step::Dispatch, 1, 3}.name() ==
        "microbatch2.block0.forward.dispatch.1.3");
}

TEST_CASE("passes, steps and resources have names that read back", "[models][graph]") {
  for (const Pass pass : {Pass::Forward, Pass::Backward}) {
    CHECK(pass_from(to_string(pass)) == pass);
  }
  for (const Step step :
       {Step::Gate, Step::Permute, Step::Dispatch, Step::Expert, Step::ExpertInputGradient,
        Step::ExpertWeightGradient, Step::Combine, Step::Unpermute}) {
    CHECK(step_from(to_string(step)) == step);
  }
  for (const Resource resource : {Resource::Compute, Resource::Network, Resource::NodeLinks,
                                  Resource::CopyEngine, Resource::Host}) {
    CHECK(resource_from(to_string(resource)) == resource);
  }
  CHECK(to_string(Resource::NodeLinks) == "node_links");
  CHECK_THROWS_WITH(resource_from("gpu"), Equals("is gpu, must be one of compute, network, "
                                                 "node_links, copy_engine, host"));
  CHECK_THROWS_WITH(step_from("shuffle"),
                    Equals("is shuffle, must be one of gate, permute, dispatch, expert, "
                           "expert_input_gradient, expert_weight_gradient, combine, unpermute"));
  CHECK_THROWS_AS(step_from("Gate"), InputError);
  CHECK_THROWS_AS(pass_from("sideways"), InputError);
}

TEST_CASE("a graph keeps tasks, dependencies and queue orders", "[models][graph]") {
  TaskGraphBuilder builder = builder_of(1);
  const TaskId d0 = builder.append(dispatch(0)), d1 = builder.append(dispatch(1));
  const TaskId e0 = builder.add(expert(0)), e1 = builder.add(expert(1));
  builder.enqueue(e1);
  builder.enqueue(e0, kComputeQueue);
  builder.depend(d1, e1);
  builder.depend(d0, e0);
  const TaskGraph graph = built(builder);
  CHECK(graph.schedule() == "mine");
  CHECK(graph.num_ranks() == 1);
  CHECK(graph.size() == 4);
  CHECK(graph.task(e1) == expert(1));
  CHECK(graph.queues() == compute_and_communication());
  CHECK(graph.queue_of(e0).resource == Resource::Compute);
  CHECK(graph.dependencies() == std::vector<TaskGraph::Edge>{{d0, e0}, {d1, e1}});
  CHECK(order(graph, kCommunicationQueue) == std::vector<TaskId>{d0, d1});
  CHECK(order(graph, kComputeQueue) == std::vector<TaskId>{e1, e0});
}

TEST_CASE("successors tell data from queue order", "[models][graph]") {
  TaskGraphBuilder builder = builder_of();
  const TaskId d0 = builder.append(dispatch(0)), d1 = builder.append(dispatch(1));
  const TaskId e0 = builder.append(expert(0));
  builder.depend(d0, e0);
  const TaskGraph graph = built(builder);
  std::set<std::pair<TaskId, bool>> successors;
  for (const auto& after : graph.successors(d0)) successors.emplace(after.task, after.is_data);
  CHECK(successors == std::set<std::pair<TaskId, bool>>{{d1, false}, {e0, true}});
  CHECK(graph.num_predecessors() == std::vector<std::uint32_t>{0, 1, 1});
}

TEST_CASE("a graph without tasks is a graph", "[models][graph]") {
  TaskGraphBuilder builder = builder_of();
  CHECK(built(builder).size() == 0);
}

TEST_CASE("graphs differ by any part", "[models][graph]") {
  const auto graph = [](const char* name, std::int64_t ranks, bool depends, bool swapped,
                        std::vector<Queue> queues = compute_and_communication()) {
    TaskGraphBuilder builder(name, ranks, std::move(queues));
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
  CHECK_FALSE(base ==
              graph("g", 2, true, false, queues_of({Resource::Compute, Resource::Network})));
}

TEST_CASE("a graph has one to sixteen queues of different names", "[models][graph]") {
  const auto make = [](std::vector<Queue> queues) {
    return TaskGraphBuilder("mine", 1, std::move(queues));
  };
  CHECK_THROWS_WITH(make({}), Equals("task graph has 0 queues, must have 1..16"));
  CHECK_THROWS_AS(make(queues_of(std::vector<Resource>(17, Resource::Host))), InputError);
  CHECK_NOTHROW(make(queues_of(std::vector<Resource>(16, Resource::Host))));
  CHECK_THROWS_WITH(make({{"a", Resource::Compute, 0}, {"a", Resource::Network, 0}}),
                    Equals("task graph: two queues are named a"));
}

TEST_CASE("a task is in a graph once", "[models][graph]") {
  TaskGraphBuilder builder = builder_of();
  builder.append(expert(0));
  builder.append(expert(1));
  builder.append(expert(0));
  CHECK(failure(builder) == "task graph: two tasks are block0.forward.expert.0");
}

TEST_CASE("a step's chunks and a chunk's stages have no gap", "[models][graph]") {
  TaskGraphBuilder gap = builder_of();
  for (const int chunk : {3, 0, 1}) gap.append(expert(chunk));
  CHECK(failure(gap) == "task graph: block0.forward.expert.3 has no chunk 2 before it");
  TaskGraphBuilder late = builder_of();
  late.append(expert(0));
  late.append(dispatch(1));
  CHECK(failure(late) == "task graph: block0.forward.dispatch.1 has no chunk 0 before it");
  const auto staged = [](std::vector<std::pair<int, int>> chunks_and_stages) {
    TaskGraphBuilder builder = builder_of();
    for (const auto& [chunk, stage] : chunks_and_stages) {
      Task task = dispatch(chunk);
      task.key.stage = stage;
      builder.append(task);
    }
    return failure(builder);
  };
  CHECK(staged({{0, 0}, {0, 1}, {1, 0}, {1, 1}, {1, 2}}) == "no failure");
  CHECK(staged({{0, 0}, {0, 2}}) ==
        "task graph: block0.forward.dispatch.0.2 has no stage 1 before it");
  CHECK(staged({{0, 0}, {0, 1}, {1, 1}}) ==
        "task graph: block0.forward.dispatch.1.1 has no stage 0 before it");
}

TEST_CASE("numbers of a key have a largest one", "[models][graph]") {
  const auto key = [](TaskKey of) { return failure_of({of, kComputeQueue, Timed{}}, 1); };
  CHECK(key({.microbatch = 4095, .block = 65535}) == "no failure");
  for (const TaskKey& of : {TaskKey{.microbatch = 4096}, TaskKey{.block = 65536},
                            TaskKey{.chunk = 1 << 23}, TaskKey{.stage = 256}}) {
    CHECK_THAT(key(of), Contains(of.name() + " is out of range"));
  }
}

TEST_CASE("a task is in its queue's order exactly once", "[models][graph]") {
  TaskGraphBuilder builder = builder_of();
  const TaskId id = builder.add(expert(0));
  CHECK(failure(builder) ==
        "task graph: block0.forward.expert.0 appears 0 times in its queue; expected once");
  builder.enqueue(id);
  CHECK(failure(builder) == "no failure");
  builder.enqueue(id);
  CHECK(failure(builder) ==
        "task graph: block0.forward.expert.0 appears 2 times in its queue; expected once");
}

TEST_CASE("a task enqueued on another queue is refused", "[models][graph]") {
  TaskGraphBuilder builder = builder_of();
  const TaskId id = builder.add(expert(0));
  CHECK_THROWS_AS(builder.enqueue(id, kCommunicationQueue), InputError);
  CHECK_THROWS_WITH(builder.enqueue(id, kCommunicationQueue),
                    Equals("task graph: block0.forward.expert.0 is for queue compute and is listed "
                           "in queue communication"));
}

TEST_CASE("groups divide the ranks, and only an all-to-all of all has uneven traffic",
          "[models][graph]") {
  const auto of = [](CollectiveKind kind, Group group, TrafficMatrix traffic) {
    return failure_of({{.step = Step::Dispatch}, 1, Collective{kind, group, traffic}}, 8);
  };
  const TrafficMatrix uniform = TrafficMatrix::uniform({8});
  for (const Group group : {Group{8, 1}, Group{2, 4}, Group{2, 2}, Group{1, 1}, Group{4, 2}}) {
    CHECK(of(CollectiveKind::AllReduce, group, uniform) == "no failure");
  }
  for (const Group group : {Group{3, 1}, Group{8, 2}, Group{16, 1}, Group{2, 3}, Group{0, 1}}) {
    CHECK(of(CollectiveKind::AllToAll, group, uniform) ==
          "task graph: block0.forward.dispatch.0 has groups of " + to_string(group) +
              ", which do not divide 8 ranks");
  }
  const TrafficMatrix pairs = TrafficMatrix::of_pairs(8, std::vector<Bytes>(64));
  CHECK(of(CollectiveKind::AllToAll, {8, 1}, pairs) == "no failure");
  CHECK_THAT(of(CollectiveKind::AllToAll, {4, 1}, pairs), Contains("has uneven traffic"));
  CHECK_THAT(of(CollectiveKind::AllGather, {8, 1}, pairs), Contains("has uneven traffic"));
  CHECK_THAT(of(CollectiveKind::AllToAll, {8, 1}, TrafficMatrix::of_pairs(2, {{}, {}, {}, {}})),
             Contains("has traffic of another number of ranks than 8"));
  CHECK(of(CollectiveKind::AllToAll, {8, 1}, TrafficMatrix::between_blocks({8}, 2, 1)) ==
        "no failure");
  CHECK_THAT(of(CollectiveKind::AllToAll, {8, 1}, TrafficMatrix::between_blocks({8}, 3, 1)),
             Contains("has blocks of 3 ranks, which do not divide 8 ranks"));
}

TEST_CASE("what differs between ranks has a value for each", "[models][graph]") {
  const PerRank<Seconds> two({Seconds{1}, Seconds{2}});
  CHECK(failure_of(compute(two), 2) == "no failure");
  CHECK(failure_of(compute(two), 3) ==
        "task graph: block0.forward.expert.0 has values for 2 ranks, must have 3");
  const Products products{.rows = PerRank<std::int64_t>({1, 2})};
  CHECK_THAT(failure_of({{.step = Step::Expert}, 0, products}, 4), Contains("values for 2 ranks"));
  const MemoryTraffic memory{MemoryKernel::Gate, PerRank<Bytes>({{1}, {2}})};
  CHECK_THAT(failure_of({{}, 0, memory}, 4), Contains("values for 2 ranks"));
}

TEST_CASE("a cycle of dependencies names its tasks", "[models][graph]") {
  TaskGraphBuilder builder = builder_of();
  const TaskId d = builder.append(dispatch(0)), e = builder.append(expert(0));
  builder.append(expert(1));
  builder.depend(d, e);
  builder.depend(e, d);
  CHECK(failure(builder) ==
        "task graph has a cycle: block0.forward.dispatch.0 -> block0.forward.expert.0 -> "
        "block0.forward.dispatch.0");
}

TEST_CASE("a task that needs itself is a cycle", "[models][graph]") {
  TaskGraphBuilder builder = builder_of();
  const TaskId id = builder.append(expert(0));
  builder.depend(id, id);
  CHECK(failure(builder) ==
        "task graph has a cycle: block0.forward.expert.0 -> block0.forward.expert.0");
}

TEST_CASE("a dependency against a queue's order is a cycle", "[models][graph]") {
  TaskGraphBuilder builder = builder_of();
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
  // Added in ascending order, then in descending order, for which a search in depth is needed.
  constexpr int kTasks = 100'000;
  for (const bool ascending : {true, false}) {
    TaskGraphBuilder builder = builder_of();
    for (int chunk = 0; chunk < kTasks; ++chunk) builder.add(expert(chunk));
    for (TaskId id = 0; id < kTasks; ++id) builder.enqueue(ascending ? id : kTasks - 1 - id);
    CHECK(built(builder).topological_order().back() == (ascending ? kTasks - 1 : 0));
  }
}

TEST_CASE("work is added by pass and direction", "[models][graph]") {
  const auto moved = [](Step step, Pass pass, int chunk, std::int64_t bytes) {
    return at_step(exchange(bytes, chunk), step, pass);
  };
  const Products products{.shapes = {{1, 0, 3, 4}}, .rows = 2};
  const TaskGraph graph = graph_of({moved(Step::Dispatch, Pass::Forward, 0, 1),
                                    moved(Step::Dispatch, Pass::Forward, 1, 2),
                                    moved(Step::Combine, Pass::Forward, 0, 4),
                                    moved(Step::Combine, Pass::Backward, 0, 8),
                                    {{.step = Step::Expert}, kComputeQueue, products}});
  CHECK(total_work(graph, Pass::Forward) == WorkTotals{{3}, {4}, {48}});
  CHECK(total_work(graph, Pass::Backward) == WorkTotals{{0}, {8}, {0}});
}

TEST_CASE("degrees have a short name that reads back", "[models][graph]") {
  CHECK(to_string(Degrees{4, 4}) == "4");
  CHECK(to_string(Degrees{4, 2}) == "4/2");
  for (const Degrees degrees : {Degrees{1, 1}, {12, 3}, {1, 1000000}}) {
    CHECK(degrees_from(to_string(degrees)) == degrees);
  }
  for (const char* bad : {"", "0", "4/", "/4", "4/2/1", "-1", "4 ", "x", "99999999999999999999"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH(degrees_from(bad), Contains("must be a degree"));
  }
}

}  // namespace pipemoe::task_graph_test
