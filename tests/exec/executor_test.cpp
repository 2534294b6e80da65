#include "exec/executor.hpp"

#include <catch2/catch.hpp>

#include "exec/block_state.hpp"
#include "exec/execute.hpp"
#include "exec/verify.hpp"
#include "models/error.hpp"
#include "models/schedules/layer_tasks.hpp"
#include "tests/exec/executed_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;
using Catch::Contains;

namespace {

TaskGraph graph_of(const MoeLayer& layer, int ranks, Degrees degrees = {}) {
  return build_graph("pipemoe", layer, one_node(ranks), degrees);
}

// What prepare() checks.
void check(const MoeLayer& layer, const TaskGraph& graph, int ranks) {
  check_layer(layer, {}, ranks);
  check_graph(layer, graph, ranks);
}

}  // namespace

TEST_CASE("the CPU executor accepts what it can run", "[exec][executor]") {
  const MoeLayer layer = prime_layer(2, 1.25);
  for (const int ranks : {1, 2, 4, 8}) {
    CHECK_NOTHROW(check(layer, graph_of(layer, ranks, {3, 2}), ranks));
  }
}

TEST_CASE("the CPU executor refuses other dtypes than fp32", "[exec][executor]") {
  const MoeLayer fp32 = prime_layer(2, 1.0);
  MoeLayer layer = fp32;
  layer.dtype = GENERATE(Dtype::Bf16, Dtype::Fp16);
  CHECK_THROWS_AS(check(layer, graph_of(fp32, 1), 1), InputError);
  CHECK_THROWS_WITH(check_layer(layer, {}, 1),
                    Contains("dtype is " + to_string(layer.dtype)) && Contains("fp32"));
}

TEST_CASE("the CPU executor refuses experts that do not divide over the ranks",
          "[exec][executor]") {
  CHECK_THROWS_WITH(check_layer(prime_layer(2, 1.0), {}, 3),
                    Contains("num_experts is 8, must be a multiple of the 3 ranks"));
}

TEST_CASE("the CPU executor refuses a graph for other ranks", "[exec][executor]") {
  const MoeLayer layer = prime_layer(2, 1.0);
  CHECK_THROWS_AS(check(layer, graph_of(layer, 4), 2), InputError);
  CHECK_THROWS_WITH(check(layer, graph_of(layer, 4), 2),
                    "task graph is for 4 ranks, 2 were started");
}

TEST_CASE("the CPU executor refuses exchanges between groups", "[exec][executor]") {
  MoeLayer layer = prime_layer(2, 1.0);
  Cluster cluster = one_node(2);
  cluster.nodes = 2;
  cluster.gpus_per_node = 1;
  const TaskGraph graph = build_graph("fastermoe", layer, cluster, {});
  CHECK_THROWS_AS(check(layer, graph, 2), InputError);
  CHECK_THROWS_WITH(check(layer, graph, 2),
                    Contains("schedule fastermoe") && Contains("block0.forward.dispatch.0"));
}

TEST_CASE("the CPU executor refuses a graph of another layer", "[exec][executor]") {
  const MoeLayer layer = prime_layer(2, 1.0);
  MoeLayer wider = layer;
  wider.model_dim *= 2;
  CHECK_THROWS_AS(check(wider, graph_of(layer, 1), 1), InputError);
  MoeLayer one_slot = layer;
  one_slot.tokens_per_rank = 4;  // capacity ceil(2 * 4 / 8) = 1: no two chunks
  CHECK_THROWS_AS(check(one_slot, graph_of(layer, 1, {2, 2}), 1), InputError);
}

namespace {

// Refuses a graph for two ranks whose last task is this one, and says so in one line.
void check_refused(const std::string& problem, Task task) {
  CAPTURE(problem, task.name());
  TaskGraphBuilder builder("odd", 2, compute_and_communication());
  const MoeLayer layer = prime_layer(2, 1.0);
  const schedules::LayerTasks tasks(layer, 2);
  builder.append(tasks.gate(Pass::Forward));
  if (task.key.stage > 0) {
    Task first = task;
    first.key.stage = 0;
    builder.append(first);
  }
  const std::string name = task.name();
  builder.append(std::move(task));
  const TaskGraph graph = std::move(builder).build();
  CHECK_THROWS_AS(check_graph(layer, graph, 2), InputError);
  CHECK_THROWS_WITH(
      check_graph(layer, graph, 2),
      Catch::StartsWith("schedule odd: " + name + " ") && Contains(problem) && !Contains("\n"));
}

TaskKey key_of(Step step) { return {.step = step}; }

// What an executor of prime_layer(2, 1.0) exchanges in one chunk on two ranks: 128 rows of 48
// bytes.
Collective all_rows() {
  return {CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::uniform({128 * 48})};
}

}  // namespace

TEST_CASE("what no executor of one layer can run is refused with the task's name",
          "[exec][executor]") {
  const Products products = prime_layer(2, 1.0).products(ProductKind::Forward, 128, 2);
  check_refused("micro-batch", {{.microbatch = 1, .step = Step::Expert}, kComputeQueue, products});
  check_refused("block", {{.block = 1, .step = Step::Expert}, kComputeQueue, products});
  check_refused("measured elsewhere", {key_of(Step::Expert), kComputeQueue, Timed{Seconds{1}}});
  check_refused("gradient in the forward pass",
                {key_of(Step::ExpertInputGradient), kComputeQueue, products});

  Products uneven = products;
  uneven.rows = PerRank<std::int64_t>(std::vector<std::int64_t>{100, 156});
  check_refused("differs between ranks", {key_of(Step::Expert), kComputeQueue, uneven});
  const PerRank<Bytes> bytes(std::vector<Bytes>{{1}, {2}});
  check_refused("differs between ranks", {key_of(Step::Permute), kComputeQueue,
                                          MemoryTraffic{MemoryKernel::Permute, bytes}});
}

TEST_CASE("collectives other than all-to-alls of a layer's chunk are refused", "[exec][executor]") {
  const auto check_collective = [](Collective collective) {
    check_refused("exchange one slot chunk",
                  {key_of(Step::Dispatch), kCommunicationQueue, std::move(collective)});
  };
  for (const CollectiveKind kind :
       {CollectiveKind::AllReduce, CollectiveKind::AllGather, CollectiveKind::ReduceScatter}) {
    Collective other = all_rows();
    other.kind = kind;
    check_collective(other);
  }
  Collective alone = all_rows();
  alone.group = {1, 1};
  check_collective(alone);
  Collective uneven = all_rows();
  uneven.traffic = TrafficMatrix::of_pairs(2, {{0}, {128 * 48}, {128 * 48}, {0}});
  check_collective(uneven);
  Collective less = all_rows();
  less.traffic = TrafficMatrix::uniform({127 * 48});
  check_collective(less);
  check_refused("later stage",
                {{.step = Step::Dispatch, .stage = 1}, kCommunicationQueue, all_rows()});
}

TEST_CASE("work that does not belong to its step is refused", "[exec][executor]") {
  const Products products = prime_layer(2, 1.0).products(ProductKind::Forward, 128, 2);
  check_refused("its step", {key_of(Step::Dispatch), kCommunicationQueue, products});
  check_refused("its step", {key_of(Step::Expert), kComputeQueue, MemoryTraffic{}});
  check_refused("exchange", {key_of(Step::Permute), kCommunicationQueue, all_rows()});
}

TEST_CASE("the CPU executor runs a graph whose queues are its own", "[exec][executor]") {
  // Dispatches and combines on a queue each, behind a queue of the host that has no task.
  const MoeLayer layer = prime_layer(2, 1.25);
  const TaskGraph from = graph_of(layer, 1, {3, 2});
  TaskGraphBuilder builder("own queues", 1,
                           {{"host", Resource::Host, 0},
                            {"to experts", Resource::Network, 1},
                            {"back", Resource::NodeLinks, 2},
                            {"experts", Resource::Compute, 0}});
  for (Task task : from.tasks()) {
    task.queue = !is_exchange(task) ? 3 : task.key.step == Step::Dispatch ? 1 : 2;
    builder.add(std::move(task));
  }
  for (const auto& [before, after] : from.dependencies()) builder.depend(before, after);
  for (const TaskId id : from.topological_order()) builder.enqueue(id);
  const TaskGraph graph = std::move(builder).build();

  const auto group = single_process();
  const DataOptions data;
  const auto executor = make_executor(layer, {.data = data}, *group);
  const Timeline timeline = execute(graph, *executor, *group, {.warm_up = 0, .repeats = 1});
  CHECK(timeline.queues == graph.queues());
  CHECK(timeline.spans.size() == graph.size());
  for (const auto& error : verify(layer, data, executor->results(), *group)) {
    CHECK(error.relative_error <= kTolerance);
  }
}

TEST_CASE("prepare refuses what check refuses", "[exec][executor]") {
  const auto group = single_process();
  const MoeLayer layer = prime_layer(2, 1.0);
  const auto executor = make_executor(layer, {}, *group);
  CHECK_THROWS_AS(executor->prepare(graph_of(layer, 2)), InputError);
}

TEST_CASE("an emulated link is part of the versions", "[exec][executor]") {
  const auto group = single_process();
  const auto real = make_executor(prime_layer(2, 1.0), {}, *group);
  CHECK(real->versions().count("emulated link") == 0);
  CHECK_FALSE(real->versions().at("BLAS").empty());
  const auto slow =
      make_executor(prime_layer(2, 1.0), {.link = parse_link("alpha=1ms,beta=0")}, *group);
  CHECK_THAT(slow->versions().at("emulated link"), Contains("alpha 1 ms"));
}
