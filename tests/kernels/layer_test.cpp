// All CPU kernels together: a layer on several ranks, in chunks, against the float64 reference; and
// the shapes that the kernels take from a layer.
#include <algorithm>
#include <catch2/catch.hpp>

#include "kernels/experts.hpp"
#include "kernels/gate.hpp"
#include "kernels/reference.hpp"
#include "kernels/routing.hpp"
#include "models/error.hpp"
#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::kernels;
using namespace pipemoe::test;

namespace {

// Every activation, with and without biases and auxiliary loss: 12 variants. Two thirds of them
// renormalise their weights.
std::vector<LayerVariant> variants() {
  std::vector<LayerVariant> all;
  for (const Activation activation : {Activation::Relu, Activation::Gelu, Activation::SwiGlu}) {
    for (const bool biases : {false, true}) {
      for (const double weight : {0.0, 0.25}) {
        all.push_back({activation, biases, weight, all.size() % 3 != 1});
      }
    }
  }
  return all;
}

ReferenceLayer layer_of(std::int64_t ranks, std::int64_t top_k, std::optional<double> capacity,
                        const LayerVariant& variant) {
  return varied_layer(20, 12, ranks, top_k, capacity, variant);
}

double largest_error(const LayerResult& result, const ExpectedLayer& expected) {
  const auto errors = errors_of(result, expected);
  return std::max(loss_error(result, expected),
                  std::max_element(errors.begin(), errors.end())->first);
}

constexpr double kTolerance = 1e-5;

MoeLayer small_layer_of_4_experts() {
  return {.name = "small",
          .tokens_per_rank = 100,
          .model_dim = 8,
          .hidden_dim = 16,
          .num_experts = 4,
          .top_k = 2};
}

}  // namespace

// All 27 combinations of ranks, top_k and capacity run at every degree, but each with only two of
// the 12 variants. The choice of the two is such that every variant meets every number of ranks,
// every top_k and every capacity. Which rows exist, and where they are, does not depend on the
// variant, so the other ten would repeat the same paths.
TEST_CASE("a layer on any ranks and degree equals the float64 reference", "[kernels][layer]") {
  const std::int64_t all_ranks[] = {1, 2, 4}, all_top_k[] = {1, 2, 4};
  const std::optional<double> all_capacities[] = {1.0, 1.25, std::nullopt};
  const auto r = GENERATE(range(0, 3)), k = GENERATE(range(0, 3)), c = GENERATE(range(0, 3));
  const std::int64_t ranks = all_ranks[r], top_k = all_top_k[k];
  const std::optional<double> capacity = all_capacities[c];
  const int first_variant = (2 * r + k + 3 * c) % 6;
  for (const int index : {first_variant, first_variant + 6}) {
    const LayerVariant variant = variants()[static_cast<std::size_t>(index)];
    const auto seed = static_cast<std::uint64_t>(100 * ranks + 10 * top_k + index);
    const Problem problem =
        draw_problem(layer_of(ranks, top_k, capacity, variant), variant.biases, seed);
    const ExpectedLayer reference = expected_layer(problem);
    for (const std::int64_t degree : {1, 2, 3, 5, 8}) {
      CAPTURE(ranks, top_k, capacity.value_or(0), to_string(variant.activation), variant.biases,
              variant.auxiliary_loss_weight, variant.renormalize, degree);
      const LayerResult result = run_layer(problem, {degree, degree});
      REQUIRE(result.experts == problem.experts);
      REQUIRE(largest_error(result, reference) <= kTolerance);
    }
  }
}

TEST_CASE("forward and backward degrees may differ", "[kernels][layer]") {
  const auto capacity = GENERATE(std::optional<double>(1.25), std::optional<double>());
  const LayerVariant variant{Activation::SwiGlu, true, 0.25};
  const Problem problem = draw_problem(layer_of(2, 2, capacity, variant), true, 7);
  const ExpectedLayer reference = expected_layer(problem);
  for (const Degrees degrees : {Degrees{1, 8}, {8, 1}, {3, 5}, {5, 2}}) {
    CAPTURE(capacity.value_or(0), degrees.forward_degree, degrees.backward_degree);
    REQUIRE(largest_error(run_layer(problem, degrees), reference) <= kTolerance);
  }
}

TEST_CASE("a layer's results are the same bits on each run", "[kernels][layer]") {
  const auto capacity = GENERATE(std::optional<double>(1.25), std::optional<double>());
  const LayerVariant variant{Activation::Gelu, true, 0.25};
  const Problem problem = draw_problem(layer_of(4, 2, capacity, variant), true, 8);
  for (const std::int64_t degree : {1, 3, 8}) {
    REQUIRE(run_layer(problem, {degree, degree}) == run_layer(problem, {degree, degree}));
  }
}

TEST_CASE("routing of the test layers is skewed and leaves an expert empty", "[kernels][layer]") {
  const Problem problem = draw_problem(layer_of(4, 2, 1.0, {}), true, 9);
  const auto choices = [&](std::int32_t expert) {
    return std::count(problem.experts.begin(), problem.experts.end(), expert);
  };
  CHECK(choices(5) == 0);
  CHECK(choices(0) > 2 * 61 * 4 * 2 / 8);  // more than twice its share, so rows are dropped
  const LayerResult result = run_layer(problem, {3, 3});
  const auto expert5 = std::span(result.first).subspan(5 * 20 * 12, 20 * 12);
  CHECK(std::all_of(expert5.begin(), expert5.end(), [](float value) { return value == 0; }));
}

TEST_CASE("more chunks than rows leave chunks empty", "[kernels][layer]") {
  // 5 tokens with 2 choices each and 4 experts: the capacity is 3 rows. Dropless, an expert has at
  // most 5 rows. Both are fewer than 7 chunks.
  const auto capacity = GENERATE(std::optional<double>(1.0), std::optional<double>());
  ReferenceLayer layer = layer_of(2, 2, capacity, {});
  layer.layer.tokens_per_rank = 5;
  layer.layer.num_experts = 4;
  const Problem problem = draw_problem(layer, true, 10);
  CHECK(largest_error(run_layer(problem, {7, 7}), expected_layer(problem)) <= kTolerance);
}

TEST_CASE("a layer may have one token", "[kernels][layer]") {
  ReferenceLayer layer = layer_of(1, 1, std::nullopt, {});
  layer.layer.tokens_per_rank = 1;
  const Problem problem = draw_problem(layer, true, 11);
  CHECK(largest_error(run_layer(problem, {1, 1}), expected_layer(problem)) <= kTolerance);
}

TEST_CASE("the kernels take their shapes from the layer", "[kernels][layer]") {
  CHECK(gate_shape(small_layer_of_4_experts(), false) == GateShape{100, 8, 4, 2, false});
  CHECK(routing_shape(small_layer_of_4_experts()) == RoutingShape{100, 4, 2, 50});
  CHECK(expert_shape(small_layer_of_4_experts(), 2) == ExpertShape{2, 8, 16, Activation::Relu});
  MoeLayer dropless = small_layer_of_4_experts();
  dropless.capacity_factor.reset();
  CHECK_FALSE(routing_shape(dropless).capacity.has_value());
  CHECK(ExpertShape{2, 8, 16, Activation::SwiGlu}.first_width() == 32);
}

TEST_CASE("a layer of another type than fp32 is refused by name", "[kernels][layer]") {
  MoeLayer half = small_layer_of_4_experts();
  for (const Dtype dtype : {Dtype::Bf16, Dtype::Fp16}) {
    half.dtype = dtype;
    const std::string message =
        "small: dtype is " + to_string(dtype) + ", must be fp32 to be executed on CPUs";
    CHECK_THROWS_WITH(gate_shape(half), Catch::Matchers::Equals(message));
    CHECK_THROWS_AS(routing_shape(half), InputError);
    CHECK_THROWS_AS(expert_shape(half, 2), InputError);
  }
}

TEST_CASE("experts that do not divide over the ranks are refused", "[kernels][layer]") {
  CHECK_THROWS_AS(expert_shape(small_layer_of_4_experts(), 3), InputError);
}
