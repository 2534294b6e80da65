// Schedules: what graphs they make (models/schedule.hpp), what these take by hand, and where weight
// gradients go (models/schedules/deferred_order.hpp).
#include "models/schedule.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "models/error.hpp"
#include "models/evaluate.hpp"
#include "models/schedules/deferred_order.hpp"
#include "tests/models/by_hand.hpp"
#include "tests/support/random_layers.hpp"

namespace pipemoe::schedule_test {

using namespace schedules;
using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

// 3 slots of 16 rows.
const MoeLayer kLayer{
    .tokens_per_rank = 48, .model_dim = 8, .hidden_dim = 4, .num_experts = 16, .top_k = 1};

using Strings = std::vector<std::string>;

// "forward.dispatch.0": the names without "block0.".
std::string short_name(const TaskGraph& graph, TaskId id) {
  return graph.task(id).name().substr(std::string("block0.").size());
}

Strings order(const TaskGraph& graph, QueueId queue) {
  Strings names;
  for (const TaskId id : graph.queue_order(queue)) names.push_back(short_name(graph, id));
  return names;
}

Strings dependencies(const TaskGraph& graph) {
  Strings edges;
  for (const auto& [before, after] : graph.dependencies()) {
    edges.push_back(short_name(graph, before) + " -> " + short_name(graph, after));
  }
  std::sort(edges.begin(), edges.end());
  return edges;
}

Bytes bytes_of(const Task& task) { return std::get<MemoryTraffic>(task.work).bytes[0]; }
MemoryKernel kernel_of(const Task& task) { return std::get<MemoryTraffic>(task.work).kernel; }

void check_work_conserved(const TaskGraph& graph, const MoeLayer& layer) {
  // Each all-to-all moves every row once; a row meets 2 matrices (SwiGLU: 3) of M x H, 2 flops each
  // element, and backward twice that.
  const Bytes bytes{layer.rows() * layer.model_dim * size_of(layer.dtype)};
  const double matrices = layer.activation == Activation::SwiGlu ? 3 : 2;
  const double flops = 2 * matrices * static_cast<double>(layer.rows()) *
                       static_cast<double>(layer.model_dim * layer.hidden_dim);
  const WorkTotals forward = total_work(graph, Pass::Forward);
  const WorkTotals backward = total_work(graph, Pass::Backward);
  REQUIRE(forward.dispatched == bytes);
  REQUIRE(forward.combined == bytes);
  REQUIRE(backward.dispatched == bytes);
  REQUIRE(backward.combined == bytes);
  REQUIRE(forward.flops.count == Approx(flops).epsilon(1e-12));
  REQUIRE(backward.flops.count == Approx(2 * flops).epsilon(1e-12));
}

}  // namespace

TEST_CASE("sequential runs one step after another, backward from the end", "[models][schedule]") {
  const TaskGraph graph = build_graph("sequential", kLayer, authors_cluster(16), {});
  const Strings steps{"forward.gate.0",       "forward.permute.0",  "forward.dispatch.0",
                      "forward.expert.0",     "forward.combine.0",  "forward.unpermute.0",
                      "backward.unpermute.0", "backward.combine.0", "backward.expert.0",
                      "backward.dispatch.0",  "backward.permute.0", "backward.gate.0"};
  Strings chain;
  for (std::size_t i = 1; i < steps.size(); ++i) chain.push_back(steps[i - 1] + " -> " + steps[i]);
  std::sort(chain.begin(), chain.end());
  CHECK(dependencies(graph) == chain);
  CHECK(order(graph, kCommunicationQueue) == Strings{steps[2], steps[4], steps[7], steps[9]});
  CHECK(graph.size() == 12);
  CHECK(graph.num_ranks() == 16);
}

TEST_CASE("pipemoe with degrees 1 and 1 is sequential", "[models][schedule]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20; ++i) {
    CAPTURE(i);
    const MoeLayer layer = random_layer(random, 16);
    const TaskGraph serial = build_graph("sequential", layer, authors_cluster(16), {});
    const TaskGraph piped = build_graph("pipemoe", layer, authors_cluster(16), {1, 1});
    REQUIRE(piped.tasks() == serial.tasks());
    REQUIRE(piped.dependencies() == serial.dependencies());
    for (const QueueId queue : {kComputeQueue, kCommunicationQueue}) {
      REQUIRE(order(piped, queue) == order(serial, queue));
    }
  }
}

TEST_CASE("pipemoe sends all dispatches before all combines, backward the reverse",
          "[models][schedule]") {
  const TaskGraph graph = build_graph("pipemoe", kLayer, authors_cluster(16), {3, 2});
  CHECK(order(graph, kCommunicationQueue) ==
        Strings{"forward.dispatch.0", "forward.dispatch.1", "forward.dispatch.2",
                "forward.combine.0", "forward.combine.1", "forward.combine.2", "backward.combine.0",
                "backward.combine.1", "backward.dispatch.0", "backward.dispatch.1"});
}

TEST_CASE("pipemoe computes the chunks in order between the fixed steps", "[models][schedule]") {
  const TaskGraph graph = build_graph("pipemoe", kLayer, authors_cluster(16), {3, 2});
  CHECK(order(graph, kComputeQueue) ==
        Strings{"forward.gate.0", "forward.permute.0", "forward.expert.0", "forward.expert.1",
                "forward.expert.2", "forward.unpermute.0", "backward.unpermute.0",
                "backward.expert.0", "backward.expert.1", "backward.permute.0", "backward.gate.0"});
}

TEST_CASE("a pipemoe chunk's expert needs its own exchange only", "[models][schedule]") {
  const TaskGraph graph = build_graph("pipemoe", kLayer, authors_cluster(16), {2, 2});
  Strings expected{"forward.gate.0 -> forward.permute.0",
                   "forward.unpermute.0 -> backward.unpermute.0",
                   "backward.permute.0 -> backward.gate.0"};
  for (const char* chunk : {".0", ".1"}) {
    const auto edge = [&](std::string before, std::string after) {
      expected.push_back(std::move(before) + " -> " + std::move(after));
    };
    const std::string c(chunk);
    edge("forward.permute.0", "forward.dispatch" + c);
    edge("forward.dispatch" + c, "forward.expert" + c);
    edge("forward.expert" + c, "forward.combine" + c);
    edge("forward.combine" + c, "forward.unpermute.0");
    edge("backward.unpermute.0", "backward.combine" + c);
    edge("backward.combine" + c, "backward.expert" + c);
    edge("backward.expert" + c, "backward.dispatch" + c);
    edge("backward.dispatch" + c, "backward.permute.0");
  }
  std::sort(expected.begin(), expected.end());
  CHECK(dependencies(graph) == expected);
}

TEST_CASE("a pipemoe chunk carries its share of the rows", "[models][schedule]") {
  // Degree 2 cuts 3 slots of 16 rows into 32 and 16 rows of 8 fp32 numbers.
  const TaskGraph graph = build_graph("pipemoe", kLayer, authors_cluster(16), {2, 1});
  int chunks = 0;
  for (const Task& task : graph.tasks()) {
    if (task.key.pass != Pass::Forward) continue;
    const std::int64_t rows = task.key.chunk == 0 ? 32 : 16;
    if (collective_of(task.work) != nullptr) {
      CHECK(collective_bytes(task.work) == Bytes{rows * 32});
      ++chunks;
    }
    if (const Products* expert = products_of(task.work)) {
      CHECK(*expert == kLayer.products(ProductKind::Forward, rows, 16));
      ++chunks;
    }
  }
  CHECK(chunks == 6);
}

TEST_CASE("any degrees conserve bytes and flops", "[models][schedule]") {
  std::mt19937_64 random(2);
  const Cluster cluster = authors_cluster(16);
  for (int i = 0; i < 100; ++i) {
    const MoeLayer layer = random_layer(random, 16);
    const Degrees degrees = random_degrees(random, layer, 40);
    CAPTURE(i, degrees.forward_degree, degrees.backward_degree, layer.slots());
    check_work_conserved(build_graph("pipemoe", layer, cluster, degrees), layer);
  }
}

TEST_CASE("every schedule of an even layer conserves bytes and flops", "[models][schedule]") {
  // 64 tokens for each of 16 experts: even over nodes and slots, so that no schedule refuses.
  const MoeLayer layer{
      .tokens_per_rank = 1024, .model_dim = 8, .hidden_dim = 4, .num_experts = 16, .top_k = 1};
  for (const Schedule& schedule : all_schedules()) {
    CAPTURE(schedule.name);
    const TaskGraph graph = build_graph(schedule.name, layer, authors_cluster(16), {1, 1});
    CHECK(graph.schedule() == schedule.name);
    check_work_conserved(graph, layer);
  }
}

TEST_CASE("the fixed steps' memory traffic", "[models][schedule]") {
  // 48 tokens and 48 rows of 8 fp32 numbers: 1536 bytes each; logits 48 * 16 * 4 = 3072 bytes.
  const TaskGraph graph = build_graph("sequential", kLayer, authors_cluster(16), {});
  const auto& tasks = graph.tasks();
  CHECK(bytes_of(tasks[0]) == Bytes{1536 + 3072});
  CHECK(bytes_of(tasks[1]) == Bytes{2 * 1536});
  CHECK(bytes_of(tasks[5]) == Bytes{2 * 1536});
  CHECK(bytes_of(tasks[6]) == Bytes{3 * 1536});
  CHECK(bytes_of(tasks[10]) == Bytes{2 * 1536});
  CHECK(bytes_of(tasks[11]) == Bytes{2 * 1536 + 3072});
  const std::vector<std::pair<std::size_t, MemoryKernel>> kernels{
      {0, MemoryKernel::Gate},
      {1, MemoryKernel::Permute},
      {5, MemoryKernel::Unpermute},
      {6, MemoryKernel::UnpermuteBackward},
      {10, MemoryKernel::PermuteBackward},
      {11, MemoryKernel::GateBackward}};
  for (const auto& [task, kernel] : kernels) CHECK(kernel_of(tasks[task]) == kernel);
}

TEST_CASE("an unknown schedule names the known ones", "[models][schedule]") {
  const Cluster cluster = authors_cluster(16);
  CHECK_THROWS_AS(build_graph("fastest", kLayer, cluster, {}), InputError);
  CHECK_THROWS_WITH(build_graph("fastest", kLayer, cluster, {}),
                    StartsWith("schedule is fastest, must be one of") && Contains("sequential") &&
                        Contains("pipemoe"));
}

TEST_CASE("degrees that a schedule or layer cannot have are refused", "[models][schedule]") {
  const Cluster cluster = authors_cluster(16);
  CHECK_THROWS_AS(build_graph("sequential", kLayer, cluster, {2, 1}), InputError);
  CHECK_THROWS_AS(build_graph("sequential", kLayer, cluster, {1, 2}), InputError);
  for (const Degrees degrees : {Degrees{0, 1}, Degrees{1, 0}, Degrees{4, 1}, Degrees{1, 4}}) {
    CAPTURE(degrees.forward_degree, degrees.backward_degree);
    CHECK_THROWS_WITH(build_graph("pipemoe", kLayer, cluster, degrees), Contains("must be 1..3"));
    CHECK_THROWS_AS(build_graph("pipemoe", kLayer, cluster, degrees), InputError);
  }
}

TEST_CASE("a schedule needs experts that divide over the ranks", "[models][schedule]") {
  for (const Schedule& schedule : all_schedules()) {
    CAPTURE(schedule.name);
    CHECK_THROWS_WITH(build_graph(schedule.name, kLayer, authors_cluster(32), {}),
                      Contains("num_experts is 16, must be a multiple of the 32 ranks"));
  }
}

TEST_CASE("deferred, the gate's gradients fill the wait for the first rows", "[models][schedule]") {
  const TaskGraph graph = build_graph("pipemoe-deferred", kLayer, authors_cluster(16), {2, 1});
  const Strings compute = order(graph, kComputeQueue);
  const auto gradient = std::find(compute.begin(), compute.end(), "backward.unpermute.0");
  REQUIRE(compute.end() - gradient == 5);
  CHECK(Strings(gradient + 1, compute.end()) ==
        Strings{"backward.gate.0", "backward.expert_input_gradient.0",
                "backward.expert_weight_gradient.0", "backward.permute.0"});
}

// ---- times, by hand ----

namespace {

// Every all-to-all of all ranks takes 1 s and every GEMM 0.5 s, whatever its size: an expert's
// forward 1 s, its backward 2 s, each gradient alone 1 s.
Cluster unit_cluster(std::int64_t nodes) {
  Cluster cluster = authors_cluster(16);
  cluster.nodes = nodes;
  cluster.gpus_per_node = 2;
  cluster.collectives = {{{CollectiveKind::AllToAll, {nodes * 2, 1}}, line<Bytes>(1, 0)}};
  cluster.gemm = {{Dtype::Fp32, line<Flops>(0.5, 0)}};
  cluster.nic = cluster.gpu_link = {{1e30}, 1};  // collectives of a part take the start-up too
  return cluster;
}

MoeLayer layer_for(const Cluster& cluster) {
  return {.tokens_per_rank = 24 * cluster.num_ranks(),
          .model_dim = 8,
          .hidden_dim = 16,
          .num_experts = cluster.num_ranks(),
          .top_k = 1};
}

PassTimes times(const std::string& name, const Cluster& cluster, Degrees degrees) {
  const TaskGraph graph = build_graph(name, layer_for(cluster), cluster, degrees);
  return evaluate(Costs(graph, cluster));
}

// Bytes between two ranks in a collective of whatever group.
double sent(const Collective& collective, std::int64_t from, std::int64_t to, std::int64_t ranks) {
  const auto [count, stride] = collective.group;
  if (collective.group.index_of(from) != collective.group.index_of(to)) return 0;
  return collective.traffic.between(from / stride % count, to / stride % count,
                                    std::min(count, ranks));
}

}  // namespace

TEST_CASE("sequential takes the sum of its steps", "[models][schedule]") {
  // 1 + 1 + 1 forward, 1 + 2 + 1 backward.
  const PassTimes taken = times("sequential", unit_cluster(2), {1, 1});
  CHECK(taken.forward == Seconds{3});
  CHECK(taken.backward == Seconds{4});
}

TEST_CASE("tutel with two chunks overlaps as pipemoe does", "[models][schedule]") {
  // Forward: D0 0-1, D1 1-2, E0 1-2, E1 2-3, C0 2-3, C1 3-4.
  // Backward: all-to-alls 0-1, 1-2, experts 1-3, 3-5, exchanges 3-4, 5-6.
  const PassTimes taken = times("tutel", unit_cluster(2), {2, 2});
  CHECK(taken.forward == Seconds{4});
  CHECK(taken.backward == Seconds{6});
}

TEST_CASE("tutel takes the chunks backward in reverse", "[models][schedule]") {
  const Cluster cluster = unit_cluster(2);
  const TaskGraph graph = build_graph("tutel", layer_for(cluster), cluster, {3, 3});
  const Strings expected{"forward.dispatch.0",  "forward.dispatch.1",  "forward.dispatch.2",
                         "forward.combine.0",   "forward.combine.1",   "forward.combine.2",
                         "backward.combine.2",  "backward.combine.1",  "backward.combine.0",
                         "backward.dispatch.2", "backward.dispatch.1", "backward.dispatch.0"};
  CHECK(order(graph, kCommunicationQueue) == expected);
}

TEST_CASE("tutel refuses what it would pad, and two degrees", "[models][schedule]") {
  const Cluster cluster = unit_cluster(2);  // a capacity of 24
  CHECK_THROWS_WITH(times("tutel", cluster, {5, 5}), Catch::Contains("divides the 24 slots"));
  CHECK_THROWS_WITH(times("tutel", cluster, {2, 4}), Catch::Contains("one degree"));
}

TEST_CASE("fastermoe takes a step for each node", "[models][schedule]") {
  // Three nodes. Forward: S 0-3, C 1-2, 2-3, 3-4, R 3-4, 4-5, 5-6.
  // Backward: S 0-3, C 1-3, 3-5, 5-7, R 3-4, 5-6, 7-8.
  const PassTimes taken = times("fastermoe", unit_cluster(3), {1, 1});
  CHECK(taken.forward == Seconds{6});
  CHECK(taken.backward == Seconds{8});
}

TEST_CASE("fastermoe's steps together exchange what one all-to-all does", "[models][schedule]") {
  const Cluster cluster = unit_cluster(4);
  const MoeLayer layer = layer_for(cluster);
  const TaskGraph graph = build_graph("fastermoe", layer, cluster, {1, 1});
  const std::int64_t ranks = cluster.num_ranks();
  const TrafficMatrix whole = TrafficMatrix::uniform(layer.all_to_all_bytes());
  for (const Step step : {Step::Dispatch, Step::Combine}) {
    for (std::int64_t from = 0; from < ranks; ++from) {
      for (std::int64_t to = 0; to < ranks; ++to) {
        double sum = 0;
        for (const Task& task : graph.tasks()) {
          if (task.key.step != step || task.key.pass != Pass::Forward) continue;
          sum += sent(*collective_of(task.work), from, to, ranks);
        }
        REQUIRE(sum == whole.between(from, to, ranks));
      }
    }
  }
}

TEST_CASE("fastermoe sends to the group a stride before and gets back from there",
          "[models][schedule]") {
  const Cluster cluster = unit_cluster(4);
  const TaskGraph graph = build_graph("fastermoe", layer_for(cluster), cluster, {1, 1});
  const auto sends = [&](Step step, int chunk, std::int64_t from, std::int64_t to) {
    for (const Task& task : graph.tasks()) {
      if (task.key == TaskKey{.step = step, .chunk = chunk}) {
        return sent(*collective_of(task.work), from, to, 8) > 0;
      }
    }
    throw std::logic_error("no such step");
  };
  // Step 0 stays in the node: rank 0 to ranks 0 and 1.
  CHECK(sends(Step::Dispatch, 0, 0, 1));
  CHECK_FALSE(sends(Step::Dispatch, 0, 0, 2));
  // Step 1: node 2 (ranks 4, 5) sends to node 1 (ranks 2, 3), which returns it.
  CHECK(sends(Step::Dispatch, 1, 4, 2));
  CHECK_FALSE(sends(Step::Dispatch, 1, 4, 6));
  CHECK(sends(Step::Combine, 1, 2, 4));
}

TEST_CASE("fastermoe has no degree, and rows that divide over the nodes", "[models][schedule]") {
  const Cluster cluster = unit_cluster(5);
  CHECK_THROWS_AS(times("fastermoe", cluster, {2, 2}), InputError);
  MoeLayer layer = layer_for(cluster);
  layer.capacity_factor.reset();
  layer.tokens_per_rank = 7;
  CHECK_THROWS_WITH(build_graph("fastermoe", layer, cluster, {1, 1}), Catch::Contains("5 nodes"));
}

TEST_CASE("deferred weight gradients wait until the input gradients are on their way",
          "[models][schedule][deferred]") {
  // Backward, two chunks: all-to-alls 0-1, 1-2; I0 1-2, I1 2-3, W0 3-4, W1 4-5; exchanges 2-3, 3-4.
  // pipemoe's takes 6 (see tutel's above).
  const PassTimes taken = times("pipemoe-deferred", unit_cluster(2), {2, 2});
  CHECK(taken.forward == Seconds{4});
  CHECK(taken.backward == Seconds{5});
  CHECK(times("pipemoe", unit_cluster(2), {2, 2}).backward == Seconds{6});
}

TEST_CASE("a deferred backward pass never takes longer than pipemoe's",
          "[models][schedule][deferred]") {
  // Two tasks instead of one pay the same GEMM start-ups, so only the order differs.
  for (const int ranks : {16, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    for (const MoeLayer& layer : study_grid(ranks)) {
      for (const std::int64_t degree : {1, 2, 4, 8}) {
        const auto backward = [&](const char* name) {
          const TaskGraph graph = build_graph(name, layer, cluster, {degree, degree});
          return evaluate(Costs(graph, cluster)).backward;
        };
        REQUIRE(backward("pipemoe-deferred") <= backward("pipemoe") * (1 + 1e-12));
      }
    }
  }
}

// ---- where weight gradients go ----

namespace {

std::vector<DeferredChunk> equal_chunks(std::size_t count, double exchange, double input_gradient,
                                        double weight_gradient) {
  return {count,
          DeferredChunk{Seconds{exchange}, Seconds{input_gradient}, Seconds{weight_gradient}}};
}

// Every interleaving that keeps each kind in order and a weight gradient after its input gradient.
Seconds best_of_all_orders(const std::vector<DeferredChunk>& chunks) {
  Seconds best{std::numeric_limits<double>::infinity()};
  DeferredOrder order;
  const std::function<void(std::size_t, std::size_t)> extend = [&](std::size_t inputs,
                                                                   std::size_t weights) {
    if (weights == chunks.size()) best = std::min(best, deferred_makespan(chunks, order));
    if (inputs < chunks.size()) {
      order.push_back({inputs, false});
      extend(inputs + 1, weights);
      order.pop_back();
    }
    if (weights < inputs) {
      order.push_back({weights, true});
      extend(inputs, weights + 1);
      order.pop_back();
    }
  };
  extend(0, 0);
  return best;
}

// Durations 0.1 .. 10 s; every second case has equal gradients, as real layers do.
std::vector<DeferredChunk> random_chunks(std::mt19937_64& random, std::size_t count) {
  const auto draw = [&] {
    return std::pow(10.0, std::uniform_real_distribution<double>(-1, 1)(random));
  };
  const double exchange = draw(), input_gradient = draw(), weight_gradient = draw();
  return equal_chunks(count, exchange, input_gradient,
                      random() % 2 ? input_gradient : weight_gradient);
}

}  // namespace

TEST_CASE("weight gradients fill the gaps that communication leaves",
          "[models][schedule][deferred]") {
  // d = 2, g = 1, w = 1, r = 3. Communication: arrivals end at 2, 4, 6, returns at 8, 10, 12.
  // Compute: I0 2-3, W0 3-4, I1 4-5, W1 5-6, I2 6-7, W2 7-8: all hidden, 2rd = 12.
  const auto chunks = equal_chunks(3, 2, 1, 1);
  const DeferredOrder order = deferred_order(chunks);
  const DeferredOrder expected{{0, false}, {0, true}, {1, false}, {1, true}, {2, false}, {2, true}};
  CHECK(order == expected);
  CHECK(deferred_makespan(chunks, order) == Seconds{12});
}

TEST_CASE("weight gradients wait where input gradients are the bottleneck",
          "[models][schedule][deferred]") {
  // d = 1, g = 2, w = 2, r = 2: I0 1-3, I1 3-5, W0 5-7, W1 7-9; returns 3-4 and 5-6. d + r(g+w)
  // = 9.
  const auto chunks = equal_chunks(2, 1, 2, 2);
  const DeferredOrder expected{{0, false}, {1, false}, {0, true}, {1, true}};
  CHECK(deferred_order(chunks) == expected);
  CHECK(deferred_makespan(chunks, expected) == Seconds{9});
  CHECK(deferred_lower_bound(chunks) == Seconds{9});
}

TEST_CASE("the lower bound is each of its three terms", "[models][schedule][deferred]") {
  CHECK(deferred_lower_bound(equal_chunks(4, 5, 1, 1)) == Seconds{40});    // 2rd
  CHECK(deferred_lower_bound(equal_chunks(4, 1, 2, 3)) == Seconds{21});    // d + r(g + w)
  CHECK(deferred_lower_bound(equal_chunks(4, 3, 6, 0.5)) == Seconds{30});  // 2d + rg
}

TEST_CASE("no interleaving of equal chunks is better than the chosen order",
          "[models][schedule][deferred]") {
  std::mt19937_64 random(41);
  for (std::size_t count = 1; count <= 7; ++count) {
    const int cases = count <= 5 ? 1000 : 50;
    for (int i = 0; i < cases; ++i) {
      const auto chunks = random_chunks(random, count);
      const Seconds chosen = deferred_makespan(chunks, deferred_order(chunks));
      CAPTURE(count, i);
      REQUIRE(chosen.count() == Approx(best_of_all_orders(chunks).count()).epsilon(1e-12));
    }
  }
}

TEST_CASE("the chosen order meets the lower bound for any number of equal chunks but two",
          "[models][schedule][deferred]") {
  std::mt19937_64 random(42);
  int loose_at_two = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::size_t count = 1 + static_cast<std::size_t>(i) % 40;
    const auto chunks = random_chunks(random, count);
    const Seconds chosen = deferred_makespan(chunks, deferred_order(chunks));
    const Seconds bound = deferred_lower_bound(chunks);
    CAPTURE(count, i);
    REQUIRE(chosen >= bound * (1 - 1e-12));
    const bool tight = chosen <= bound * (1 + 1e-12);
    if (count == 2) {
      loose_at_two += !tight;
    } else {
      REQUIRE(tight);
    }
  }
  CHECK(loose_at_two > 0);  // the exception is real: see the header
}

}  // namespace pipemoe::schedule_test
