#include "models/schedule.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "models/error.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

// 3 slots of 16 rows.
const MoeLayer kLayer{
    .tokens_per_rank = 48, .model_dim = 8, .hidden_dim = 4, .num_experts = 16, .top_k = 1};

using Names = std::vector<std::string>;

// "forward.dispatch.0": the names without "layer0.".
std::string short_name(const TaskGraph& graph, TaskId id) {
  return graph.task(id).name().substr(std::string("layer0.").size());
}

Names order(const TaskGraph& graph, Stream stream) {
  Names names;
  for (const TaskId id : graph.stream_order(stream)) names.push_back(short_name(graph, id));
  return names;
}

Names dependencies(const TaskGraph& graph) {
  Names edges;
  for (const auto& [before, after] : graph.dependencies()) {
    edges.push_back(short_name(graph, before) + " -> " + short_name(graph, after));
  }
  std::sort(edges.begin(), edges.end());
  return edges;
}

std::int64_t random_degree(std::mt19937_64& random, const MoeLayer& layer) {
  return std::uniform_int_distribution<std::int64_t>(
      1, std::min<std::int64_t>(layer.slots(), 40))(random);
}

void check_work_conserved(const TaskGraph& graph, const MoeLayer& layer) {
  // Each all-to-all moves every row once; a row meets 2 matrices (SwiGLU: 3) of M x H, 2 flops each
  // element, and backward twice that.
  const Bytes bytes{layer.rows() * layer.model_dim * size_of(layer.dtype)};
  const double matrices = layer.activation == Activation::SwiGlu ? 3 : 2;
  const double flops = 2 * matrices * static_cast<double>(layer.rows()) *
                       static_cast<double>(layer.model_dim * layer.hidden_dim);
  const WorkTotals forward = total_work(graph, Phase::Forward);
  const WorkTotals backward = total_work(graph, Phase::Backward);
  REQUIRE(forward.dispatched == bytes);
  REQUIRE(forward.combined == bytes);
  REQUIRE(backward.dispatched == bytes);
  REQUIRE(backward.combined == bytes);
  REQUIRE(forward.flops.count == Approx(flops).epsilon(1e-12));
  REQUIRE(backward.flops.count == Approx(2 * flops).epsilon(1e-12));
}

}  // namespace

TEST_CASE("sequential runs one step after another, backward from the end", "[models][schedule]") {
  const TaskGraph graph = schedule("sequential", kLayer, authors_cluster(16), {});
  const Names steps{"forward.gate.0",       "forward.permute.0",  "forward.dispatch.0",
                    "forward.expert.0",     "forward.combine.0",  "forward.unpermute.0",
                    "backward.unpermute.0", "backward.combine.0", "backward.expert.0",
                    "backward.dispatch.0",  "backward.permute.0", "backward.gate.0"};
  Names chain;
  for (std::size_t i = 1; i < steps.size(); ++i) chain.push_back(steps[i - 1] + " -> " + steps[i]);
  std::sort(chain.begin(), chain.end());
  CHECK(dependencies(graph) == chain);
  CHECK(order(graph, Stream::InterNode) == Names{steps[2], steps[4], steps[7], steps[9]});
  CHECK(order(graph, Stream::IntraNode).empty());
  CHECK(graph.size() == 12);
  CHECK(graph.num_ranks() == 16);
}

TEST_CASE("pipemoe with degrees 1 and 1 is sequential", "[models][schedule]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20; ++i) {
    CAPTURE(i);
    const MoeLayer layer = random_layer(random, 16);
    const TaskGraph serial = schedule("sequential", layer, authors_cluster(16), {});
    const TaskGraph piped = schedule("pipemoe", layer, authors_cluster(16), {1, 1});
    REQUIRE(piped.tasks() == serial.tasks());
    REQUIRE(piped.dependencies() == serial.dependencies());
    for (const Stream stream : kStreams) {
      REQUIRE(piped.stream_order(stream) == serial.stream_order(stream));
    }
  }
}

TEST_CASE("pipemoe sends all dispatches before all combines, backward the reverse",
          "[models][schedule]") {
  const TaskGraph graph = schedule("pipemoe", kLayer, authors_cluster(16), {3, 2});
  CHECK(order(graph, Stream::InterNode) ==
        Names{"forward.dispatch.0", "forward.dispatch.1", "forward.dispatch.2", "forward.combine.0",
              "forward.combine.1", "forward.combine.2", "backward.combine.0", "backward.combine.1",
              "backward.dispatch.0", "backward.dispatch.1"});
  CHECK(order(graph, Stream::IntraNode).empty());
}

TEST_CASE("pipemoe computes the chunks in order between the fixed steps", "[models][schedule]") {
  const TaskGraph graph = schedule("pipemoe", kLayer, authors_cluster(16), {3, 2});
  CHECK(order(graph, Stream::Compute) ==
        Names{"forward.gate.0", "forward.permute.0", "forward.expert.0", "forward.expert.1",
              "forward.expert.2", "forward.unpermute.0", "backward.unpermute.0",
              "backward.expert.0", "backward.expert.1", "backward.permute.0", "backward.gate.0"});
}

TEST_CASE("a pipemoe chunk's expert needs its own exchange only", "[models][schedule]") {
  const TaskGraph graph = schedule("pipemoe", kLayer, authors_cluster(16), {2, 2});
  Names expected{"forward.gate.0 -> forward.permute.0",
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
  const TaskGraph graph = schedule("pipemoe", kLayer, authors_cluster(16), {2, 1});
  int chunks = 0;
  for (const Task& task : graph.tasks()) {
    if (task.phase != Phase::Forward) continue;
    const std::int64_t rows = task.chunk == 0 ? 32 : 16;
    if (std::holds_alternative<AllToAll>(task.operation)) {
      CHECK(exchanged_bytes(task.operation) == Bytes{rows * 32});
      ++chunks;
    }
    if (const auto* expert = std::get_if<ExpertFfn>(&task.operation)) {
      CHECK(expert->gemms == kLayer.gemms(Pass::Forward, rows, 16));
      CHECK(expert->activation_traffic == kLayer.activation_bytes(Pass::Forward, rows));
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
    const Degrees degrees{random_degree(random, layer), random_degree(random, layer)};
    CAPTURE(i, degrees.forward_degree, degrees.backward_degree, layer.slots());
    check_work_conserved(schedule("pipemoe", layer, cluster, degrees), layer);
  }
}

TEST_CASE("every schedule of an even layer conserves bytes and flops", "[models][schedule]") {
  // 64 tokens for each of 16 experts: even over nodes and slots, so that no schedule refuses.
  const MoeLayer layer{
      .tokens_per_rank = 1024, .model_dim = 8, .hidden_dim = 4, .num_experts = 16, .top_k = 1};
  for (const std::string& name : schedule_names()) {
    CAPTURE(name);
    const TaskGraph graph = schedule(name, layer, authors_cluster(16), {1, 1});
    CHECK(graph.schedule() == name);
    check_work_conserved(graph, layer);
  }
}

TEST_CASE("the fixed steps' memory traffic", "[models][schedule]") {
  // 48 tokens and 48 rows of 8 fp32 numbers: 1536 bytes each; logits 48 * 16 * 4 = 3072 bytes.
  const TaskGraph graph = schedule("sequential", kLayer, authors_cluster(16), {});
  const auto& tasks = graph.tasks();
  CHECK(std::get<Gate>(tasks[0].operation).traffic == Bytes{1536 + 3072});
  CHECK(std::get<Permute>(tasks[1].operation).traffic == Bytes{2 * 1536});
  CHECK(std::get<Unpermute>(tasks[5].operation).traffic == Bytes{2 * 1536});
  CHECK(std::get<Unpermute>(tasks[6].operation).traffic == Bytes{3 * 1536});
  CHECK(std::get<Permute>(tasks[10].operation).traffic == Bytes{2 * 1536});
  CHECK(std::get<Gate>(tasks[11].operation).traffic == Bytes{2 * 1536 + 3072});
}

TEST_CASE("an unknown schedule names the known ones", "[models][schedule]") {
  const Cluster cluster = authors_cluster(16);
  CHECK_THROWS_AS(schedule("fastest", kLayer, cluster, {}), InputError);
  CHECK_THROWS_WITH(schedule("fastest", kLayer, cluster, {}),
                    StartsWith("schedule is fastest, must be one of") && Contains("sequential") &&
                        Contains("pipemoe"));
}

TEST_CASE("degrees that a schedule or layer cannot have are refused", "[models][schedule]") {
  const Cluster cluster = authors_cluster(16);
  CHECK_THROWS_AS(schedule("sequential", kLayer, cluster, {2, 1}), InputError);
  CHECK_THROWS_AS(schedule("sequential", kLayer, cluster, {1, 2}), InputError);
  for (const Degrees degrees : {Degrees{0, 1}, Degrees{1, 0}, Degrees{4, 1}, Degrees{1, 4}}) {
    CAPTURE(degrees.forward_degree, degrees.backward_degree);
    CHECK_THROWS_WITH(schedule("pipemoe", kLayer, cluster, degrees), Contains("must be 1..3"));
    CHECK_THROWS_AS(schedule("pipemoe", kLayer, cluster, degrees), InputError);
  }
}

TEST_CASE("a schedule needs experts that divide over the ranks", "[models][schedule]") {
  for (const std::string& name : schedule_names()) {
    CAPTURE(name);
    CHECK_THROWS_WITH(schedule(name, kLayer, authors_cluster(32), {}),
                      Contains("num_experts is 16, must be a multiple of the 32 ranks"));
  }
}

TEST_CASE("deferred, the gate's gradients fill the wait for the first rows", "[models][schedule]") {
  const TaskGraph graph = schedule("pipemoe-deferred", kLayer, authors_cluster(16), {2, 1});
  const Names compute = order(graph, Stream::Compute);
  const auto gradient = std::find(compute.begin(), compute.end(), "backward.unpermute.0");
  REQUIRE(compute.end() - gradient == 5);
  CHECK(Names(gradient + 1, compute.end()) ==
        Names{"backward.gate.0", "backward.expert_input_gradient.0",
              "backward.expert_weight_gradient.0", "backward.permute.0"});
}
