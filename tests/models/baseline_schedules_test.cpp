// The schedules that pipemoe is compared with, and its deferred weight gradients, by hand.
#include <catch2/catch.hpp>

#include "models/analytic.hpp"
#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;

namespace {

// Every exchange takes 1 s and every GEMM 0.5 s, whatever its size: an expert's forward 1 s, its
// backward 2 s, each gradient alone 1 s.
Cluster unit_cluster(std::int64_t nodes) {
  Cluster cluster = authors_cluster(16);
  cluster.nodes = nodes;
  cluster.gpus_per_node = 2;
  cluster.all_to_all = {{nodes * 2, {AlphaBeta<Bytes>{Seconds{1}, {}}, {}, {}, "one second each"}}};
  cluster.gemm = {{Dtype::Fp32, {AlphaBeta<Flops>{Seconds{0.5}, {}}, {}, {}, "half a second"}}};
  return cluster;
}

MoeLayer layer_for(const Cluster& cluster) {
  return {.tokens_per_rank = 24 * cluster.num_ranks(),
          .model_dim = 8,
          .hidden_dim = 16,
          .num_experts = cluster.num_ranks(),
          .top_k = 1};
}

PhaseTimes times(const std::string& name, const Cluster& cluster, Degrees degrees) {
  return analytic_times(schedule(name, layer_for(cluster), cluster, degrees), CostModel(cluster));
}

}  // namespace

TEST_CASE("sequential takes the sum of its steps", "[models][schedules]") {
  // 1 + 1 + 1 forward, 1 + 2 + 1 backward.
  const PhaseTimes taken = times("sequential", unit_cluster(2), {1, 1});
  CHECK(taken.forward == Seconds{3});
  CHECK(taken.backward == Seconds{4});
}

TEST_CASE("tutel with two chunks overlaps as pipemoe does", "[models][schedules]") {
  // Forward: D0 0-1, D1 1-2, E0 1-2, E1 2-3, C0 2-3, C1 3-4.
  // Backward: exchanges 0-1, 1-2, experts 1-3, 3-5, exchanges 3-4, 5-6.
  const PhaseTimes taken = times("tutel", unit_cluster(2), {2, 2});
  CHECK(taken.forward == Seconds{4});
  CHECK(taken.backward == Seconds{6});
}

TEST_CASE("tutel takes the chunks backward in reverse", "[models][schedules]") {
  const Cluster cluster = unit_cluster(2);
  const TaskGraph graph = schedule("tutel", layer_for(cluster), cluster, {3, 3});
  std::vector<std::string> order;
  for (const TaskId id : graph.stream_order(Stream::InterNode)) {
    order.push_back(graph.task(id).name());
  }
  const std::vector<std::string> expected{
      "layer0.forward.dispatch.0",  "layer0.forward.dispatch.1",  "layer0.forward.dispatch.2",
      "layer0.forward.combine.0",   "layer0.forward.combine.1",   "layer0.forward.combine.2",
      "layer0.backward.combine.2",  "layer0.backward.combine.1",  "layer0.backward.combine.0",
      "layer0.backward.dispatch.2", "layer0.backward.dispatch.1", "layer0.backward.dispatch.0"};
  CHECK(order == expected);
}

TEST_CASE("tutel refuses what it would pad, and two degrees", "[models][schedules]") {
  const Cluster cluster = unit_cluster(2);  // a capacity of 24
  CHECK_THROWS_WITH(times("tutel", cluster, {5, 5}), Catch::Contains("divides the 24 slots"));
  CHECK_THROWS_WITH(times("tutel", cluster, {2, 4}), Catch::Contains("one degree"));
}

TEST_CASE("fastermoe takes a step for each node", "[models][schedules]") {
  // Three nodes. Forward: S 0-3, C 1-2, 2-3, 3-4, R 3-4, 4-5, 5-6.
  // Backward: S 0-3, C 1-3, 3-5, 5-7, R 3-4, 5-6, 7-8.
  const PhaseTimes taken = times("fastermoe", unit_cluster(3), {1, 1});
  CHECK(taken.forward == Seconds{6});
  CHECK(taken.backward == Seconds{8});
}

TEST_CASE("fastermoe's steps together exchange what one all-to-all does", "[models][schedules]") {
  const Cluster cluster = unit_cluster(4);
  const MoeLayer layer = layer_for(cluster);
  const TaskGraph graph = schedule("fastermoe", layer, cluster, {1, 1});
  const std::int64_t ranks = cluster.num_ranks();
  const TrafficMatrix whole = TrafficMatrix::uniform(layer.all_to_all_bytes());
  for (const auto kind : {OperationKind::Dispatch, OperationKind::Combine}) {
    for (std::int64_t from = 0; from < ranks; ++from) {
      for (std::int64_t to = 0; to < ranks; ++to) {
        double sum = 0;
        for (const Task& task : graph.tasks()) {
          const auto* exchange = std::get_if<AllToAll>(&task.operation);
          if (exchange == nullptr || task.phase != Phase::Forward) continue;
          if (kind_of(task.operation) == kind) sum += exchange->traffic.between(from, to, ranks);
        }
        REQUIRE(sum == whole.between(from, to, ranks));
      }
    }
  }
}

TEST_CASE("fastermoe sends to the group a stride before and gets back from there",
          "[models][schedules]") {
  const Cluster cluster = unit_cluster(4);
  const TaskGraph graph = schedule("fastermoe", layer_for(cluster), cluster, {1, 1});
  const auto traffic = [&](OperationKind kind, int step) {
    for (const Task& task : graph.tasks()) {
      if (task.key() == TaskKey{0, Phase::Forward, kind, step}) {
        return std::get<AllToAll>(task.operation).traffic;
      }
    }
    throw std::logic_error("no such step");
  };
  // Step 0 stays in the node: rank 0 to ranks 0 and 1.
  CHECK(traffic(OperationKind::Dispatch, 0).between(0, 1, 8) > 0);
  CHECK(traffic(OperationKind::Dispatch, 0).between(0, 2, 8) == 0);
  // Step 1: node 2 (ranks 4, 5) sends to node 1 (ranks 2, 3), which returns it.
  CHECK(traffic(OperationKind::Dispatch, 1).between(4, 2, 8) > 0);
  CHECK(traffic(OperationKind::Dispatch, 1).between(4, 6, 8) == 0);
  CHECK(traffic(OperationKind::Combine, 1).between(2, 4, 8) > 0);
}

TEST_CASE("fastermoe has no degree, and rows that divide over the nodes", "[models][schedules]") {
  const Cluster cluster = unit_cluster(5);
  CHECK_THROWS_AS(times("fastermoe", cluster, {2, 2}), InputError);
  MoeLayer layer = layer_for(cluster);
  layer.capacity_factor.reset();
  layer.tokens_per_rank = 7;
  CHECK_THROWS_WITH(schedule("fastermoe", layer, cluster, {1, 1}), Catch::Contains("5 nodes"));
}

TEST_CASE("deferred weight gradients wait until the input gradients are on their way",
          "[models][schedules][deferred]") {
  // Backward, two chunks: exchanges 0-1, 1-2; I0 1-2, I1 2-3, W0 3-4, W1 4-5; exchanges 2-3, 3-4.
  // pipemoe's takes 6 (see tutel's above).
  const PhaseTimes taken = times("pipemoe-deferred", unit_cluster(2), {2, 2});
  CHECK(taken.forward == Seconds{4});
  CHECK(taken.backward == Seconds{5});
  CHECK(times("pipemoe", unit_cluster(2), {2, 2}).backward == Seconds{6});
}

TEST_CASE("a deferred backward pass never takes longer than pipemoe's ",
          "[models][schedules][deferred]") {
  // Two tasks instead of one pay the same GEMM start-ups, so only the order differs.
  for (const int ranks : {16, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    for (const MoeLayer& layer : study_grid(ranks)) {
      for (const std::int64_t degree : {1, 2, 4, 8}) {
        const auto backward = [&](const char* name) {
          return analytic_times(schedule(name, layer, cluster, {degree, degree}),
                                CostModel(cluster))
              .backward;
        };
        REQUIRE(backward("pipemoe-deferred") <= backward("pipemoe") * (1 + 1e-12));
      }
    }
  }
}
