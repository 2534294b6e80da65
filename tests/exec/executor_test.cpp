#include "exec/executor.hpp"

#include <catch2/catch.hpp>

#include "exec/block_state.hpp"
#include "models/error.hpp"
#include "tests/exec/executed_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;
using Catch::Contains;

namespace {

TaskGraph graph_of(const MoeLayer& layer, int ranks, Degrees degrees = {}) {
  return schedule("pipemoe", layer, one_node(ranks), degrees);
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
  const TaskGraph graph = schedule("fastermoe", layer, cluster, {});
  CHECK_THROWS_AS(check(layer, graph, 2), InputError);
  CHECK_THROWS_WITH(check(layer, graph, 2),
                    Contains("schedule fastermoe") && Contains("layer0.forward.dispatch.0"));
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

TEST_CASE("the CPU executor refuses a graph of two layers", "[exec][executor]") {
  TaskGraphBuilder builder("two", 1);
  builder.append({0, 0, Phase::Forward, Stream::Compute, ExpertFfn{}});
  builder.append({1, 0, Phase::Forward, Stream::Compute, ExpertFfn{}});
  const TaskGraph graph = std::move(builder).build();
  CHECK_THROWS_WITH(check(prime_layer(2, 1.0), graph, 1), Contains("one layer"));
}

TEST_CASE("prepare refuses what check refuses", "[exec][executor]") {
  const auto group = single_process();
  const MoeLayer layer = prime_layer(2, 1.0);
  const auto executor = make_executor(layer, {}, *group);
  CHECK_THROWS_AS(executor->prepare(graph_of(layer, 2)), InputError);
}

TEST_CASE("a graph's degrees are its numbers of chunks", "[exec][executor]") {
  CHECK(degrees_of(graph_of(prime_layer(2, 1.0), 1, {3, 5})) == Degrees{3, 5});
  CHECK(degrees_of(graph_of(prime_layer(2, 1.0), 1)) == Degrees{1, 1});
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
