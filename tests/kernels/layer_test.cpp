// The kernels together: a layer on several ranks, in chunks, against the float64 reference.
#include <algorithm>
#include <catch2/catch.hpp>

#include "kernels/reference.hpp"
#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::kernels;
using namespace pipemoe::test;

namespace {

struct Variant {
  Activation activation = Activation::Relu;
  bool biases = false;
  double auxiliary_loss_weight = 0;
  bool renormalize = true;
};

// Each activation, biases and the auxiliary loss on and off; weights renormalised or not in turn.
std::vector<Variant> variants() {
  std::vector<Variant> all;
  for (const Activation activation : {Activation::Relu, Activation::Gelu, Activation::SwiGlu}) {
    for (const bool biases : {false, true}) {
      for (const double weight : {0.0, 0.25}) {
        all.push_back({activation, biases, weight, all.size() % 3 != 1});
      }
    }
  }
  return all;
}

// 61 tokens, top-1 and a capacity factor of 1 make 8 slots an expert: enough for degree 8.
ReferenceLayer layer_of(std::int64_t ranks, std::int64_t top_k, std::optional<double> capacity,
                        const Variant& variant) {
  return {.layer = {.tokens_per_rank = 61,
                    .model_dim = 20,
                    .hidden_dim = 12,
                    .num_experts = 8,
                    .top_k = top_k,
                    .capacity_factor = capacity,
                    .activation = variant.activation},
          .num_ranks = ranks,
          .renormalize = variant.renormalize,
          .auxiliary_loss_weight = variant.auxiliary_loss_weight};
}

struct Expected {
  ReferenceForward forward;
  ReferenceBackward backward;
};

Expected expected(const Problem& p) {
  return {reference_forward(p.reference, p.parameters, p.input, p.experts),
          reference_backward(p.reference, p.parameters, p.input, p.experts, p.output_gradient)};
}

double largest_error(const LayerResult& result, const Expected& expected) {
  const ReferenceParameters& gradients = expected.backward.parameters;
  return std::max({relative_error(result.output, expected.forward.output),
                   relative_error(result.combine_weights, expected.forward.combine_weights),
                   relative_error(std::span(&result.auxiliary_loss, 1),
                                  std::span(&expected.forward.auxiliary_loss, 1)),
                   relative_error(result.input_gradient, expected.backward.input),
                   relative_error(result.gate, gradients.gate),
                   relative_error(result.first, gradients.first),
                   relative_error(result.first_bias, gradients.first_bias),
                   relative_error(result.second, gradients.second),
                   relative_error(result.second_bias, gradients.second_bias)});
}

constexpr double kTolerance = 1e-5;

}  // namespace

TEST_CASE("a layer on any ranks and degree equals the float64 reference", "[kernels][layer]") {
  const auto ranks = GENERATE(as<std::int64_t>(), 1, 2, 4);
  const auto top_k = GENERATE(as<std::int64_t>(), 1, 2, 4);
  const auto capacity =
      GENERATE(std::optional<double>(1.0), std::optional<double>(1.25), std::optional<double>());
  std::uint64_t seed = static_cast<std::uint64_t>(100 * ranks + 10 * top_k);
  for (const Variant& variant : variants()) {
    const Problem problem =
        draw_problem(layer_of(ranks, top_k, capacity, variant), variant.biases, ++seed);
    const Expected reference = expected(problem);
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
  const Variant variant{Activation::SwiGlu, true, 0.25};
  const Problem problem = draw_problem(layer_of(2, 2, capacity, variant), true, 7);
  const Expected reference = expected(problem);
  for (const Degrees degrees : {Degrees{1, 8}, {8, 1}, {3, 5}, {5, 2}}) {
    CAPTURE(capacity.value_or(0), degrees.forward_degree, degrees.backward_degree);
    REQUIRE(largest_error(run_layer(problem, degrees), reference) <= kTolerance);
  }
}

TEST_CASE("a layer's results are the same bits on each run", "[kernels][layer]") {
  const auto capacity = GENERATE(std::optional<double>(1.25), std::optional<double>());
  const Variant variant{Activation::Gelu, true, 0.25};
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
  CHECK(choices(0) > 2 * 61 * 4 * 2 / 8);  // more than twice its share: rows are dropped
  const LayerResult result = run_layer(problem, {3, 3});
  const auto expert5 = std::span(result.first).subspan(5 * 20 * 12, 20 * 12);
  CHECK(std::all_of(expert5.begin(), expert5.end(), [](float value) { return value == 0; }));
}

TEST_CASE("more chunks than rows leave chunks empty", "[kernels][layer]") {
  // 5 tokens of 2 choices for 4 experts: a capacity of 3 rows, 5 in the dropless layer's fullest.
  const auto capacity = GENERATE(std::optional<double>(1.0), std::optional<double>());
  ReferenceLayer layer = layer_of(2, 2, capacity, {});
  layer.layer.tokens_per_rank = 5;
  layer.layer.num_experts = 4;
  const Problem problem = draw_problem(layer, true, 10);
  CHECK(largest_error(run_layer(problem, {7, 7}), expected(problem)) <= kTolerance);
}

TEST_CASE("one token is enough", "[kernels][layer]") {
  ReferenceLayer layer = layer_of(1, 1, std::nullopt, {});
  layer.layer.tokens_per_rank = 1;
  const Problem problem = draw_problem(layer, true, 11);
  CHECK(largest_error(run_layer(problem, {1, 1}), expected(problem)) <= kTolerance);
}
