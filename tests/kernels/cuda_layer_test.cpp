// The GPU kernels together: a layer on several ranks, in chunks, against the float64 reference.
#include <algorithm>
#include <catch2/catch.hpp>

#include "kernels/reference.hpp"
#include "tests/kernels/cuda_whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::kernels;
using namespace pipemoe::test;
using cuda::Element;

namespace {

struct Variant {
  Activation activation = Activation::Relu;
  bool biases = true;
  double auxiliary_loss_weight = 0;
  bool renormalize = true;
};
constexpr Variant kVariants[] = {{Activation::Relu, true, 0.25},
                                 {Activation::Gelu, true, 0},
                                 {Activation::SwiGlu, true, 0.25, false},
                                 {Activation::Relu, false, 0},
                                 {Activation::SwiGlu, false, 0}};

// 61 tokens, top-1 and a capacity factor of 1 make 8 slots an expert: enough for degree 8.
ReferenceLayer layer_of(std::int64_t ranks, std::int64_t top_k, std::optional<double> capacity,
                        const Variant& variant) {
  return {.layer = {.tokens_per_rank = 61,
                    .model_dim = 40,
                    .hidden_dim = 24,
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

// Name and error of what is furthest off.
std::pair<double, std::string> largest_error(const LayerResult& result, const Problem& problem,
                                             const Expected& expected) {
  const ReferenceParameters& gradients = expected.backward.parameters;
  std::vector<std::pair<double, std::string>> errors{
      {relative_error(result.output, expected.forward.output), "output"},
      {relative_error(result.combine_weights, expected.forward.combine_weights), "weights"},
      {relative_error(result.input_gradient, expected.backward.input), "input gradient"},
      {relative_error(result.gate, gradients.gate), "gate"},
      {relative_error(result.first, gradients.first), "first"},
      {relative_error(result.first_bias, gradients.first_bias), "first bias"},
      {relative_error(result.second, gradients.second), "second"},
      {relative_error(result.second_bias, gradients.second_bias), "second bias"}};
  if (problem.reference.auxiliary_loss_weight != 0) {
    errors.emplace_back(relative_error(std::span(&result.auxiliary_loss, 1),
                                       std::span(&expected.forward.auxiliary_loss, 1)),
                        "loss");
  }
  return *std::max_element(errors.begin(), errors.end());
}

double tolerance(Element element) { return element == Element::Fp32 ? 1e-5 : 1e-2; }
const char* name(Element element) { return element == Element::Fp32 ? "fp32" : "bf16"; }

}  // namespace

#define REQUIRE_EQUALS_REFERENCE(problem, reference, run)                                     \
  do {                                                                                        \
    const LayerResult result = run_device_layer(problem, run);                                \
    const auto [error, what] = largest_error(result, problem, reference);                     \
    CAPTURE(name((run).element), (run).degrees.forward_degree, (run).degrees.backward_degree, \
            (run).direct, what);                                                              \
    REQUIRE(result.experts == (problem).experts);                                             \
    REQUIRE(error <= tolerance((run).element));                                               \
  } while (false)

TEST_CASE("a layer on a GPU, any ranks and degree, equals the float64 reference", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto ranks = GENERATE(as<std::int64_t>(), 1, 2, 4);
  const auto top_k = GENERATE(as<std::int64_t>(), 1, 2, 4);
  const auto capacity =
      GENERATE(std::optional<double>(1.0), std::optional<double>(1.25), std::optional<double>());
  std::uint64_t seed = static_cast<std::uint64_t>(100 * ranks + 10 * top_k);
  std::size_t all_degrees = seed % std::size(kVariants);  // in turn; the others at degree 3
  for (std::size_t i = 0; i < std::size(kVariants); ++i) {
    const Variant& variant = kVariants[i];
    const Problem problem = draw_device_problem(layer_of(ranks, top_k, capacity, variant),
                                                variant.biases, ++seed, element);
    const Expected reference = expected(problem);
    for (const std::int64_t degree : {1, 2, 3, 5, 8}) {
      if (i != all_degrees && degree != 3) continue;
      for (const bool direct : {false, true}) {
        if (direct && ranks > 1) continue;
        CAPTURE(ranks, top_k, capacity.value_or(0), to_string(variant.activation), variant.biases);
        const DeviceRun run{{degree, degree}, element, direct};
        REQUIRE_EQUALS_REFERENCE(problem, reference, run);
      }
    }
  }
}

TEST_CASE("on a GPU forward and backward degrees may differ", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto capacity = GENERATE(std::optional<double>(1.25), std::optional<double>());
  const auto ranks = GENERATE(as<std::int64_t>(), 1, 2);
  for (const Variant& variant : kVariants) {
    const Problem problem =
        draw_device_problem(layer_of(ranks, 2, capacity, variant), variant.biases, 7, element);
    const Expected reference = expected(problem);
    for (const Degrees degrees : {Degrees{1, 8}, {8, 1}, {3, 5}, {5, 2}}) {
      for (const bool direct : {false, true}) {
        if (direct && ranks > 1) continue;
        CAPTURE(ranks, capacity.value_or(0), to_string(variant.activation));
        const DeviceRun run{degrees, element, direct};
        REQUIRE_EQUALS_REFERENCE(problem, reference, run);
      }
    }
  }
}

// `run` at several degrees, of all variants with a capacity.
void check_on_ranks(std::int64_t ranks, std::uint64_t seed, DeviceRun run) {
  for (const Variant& variant : kVariants) {
    const Problem problem =
        draw_device_problem(layer_of(ranks, 2, 1.25, variant), variant.biases, seed, run.element);
    const Expected reference = expected(problem);
    for (const Degrees degrees : {Degrees{1, 1}, {3, 3}, {8, 8}, {5, 2}, {1, 8}}) {
      CAPTURE(ranks, run.packs.value_or(false), run.keeps_own, to_string(variant.activation));
      run.degrees = degrees;
      REQUIRE_EQUALS_REFERENCE(problem, reference, run);
    }
  }
}

TEST_CASE("experts read rows as the ranks sent them", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto ranks = GENERATE(as<std::int64_t>(), 2, 4);
  check_on_ranks(ranks, 13, {.degrees = {}, .element = element, .packs = false});
}

TEST_CASE("rows for a rank's own experts may stay where these have them", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto ranks = GENERATE(as<std::int64_t>(), 2, 4, 8);  // on eight: one expert each
  const auto packs = GENERATE(false, true);
  check_on_ranks(ranks, 14, {.degrees = {}, .element = element, .packs = packs, .keeps_own = true});
}

TEST_CASE("exchanges may deliver and take rows by expert", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto ranks = GENERATE(as<std::int64_t>(), 2, 4);
  const auto keeps_own = GENERATE(false, true);
  check_on_ranks(
      ranks, 15,
      {.degrees = {}, .element = element, .keeps_own = keeps_own, .exchanges_by_expert = true});
}

TEST_CASE("a layer on a GPU gives the same bits on each run and from a graph", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const Problem problem = draw_device_problem(layer_of(4, 2, 1.25, kVariants[0]), true, 8, element);
  for (const std::int64_t degree : {1, 3, 8}) {
    DeviceRun run{{degree, degree}, element};
    const LayerResult once = run_device_layer(problem, run);
    REQUIRE(once == run_device_layer(problem, run));
    run.graph = true;
    REQUIRE(once == run_device_layer(problem, run));
    run.packs = false;
    REQUIRE(run_device_layer(problem, run) == run_device_layer(problem, run));
  }
}

TEST_CASE("a dropless layer on a GPU gives the same bits on each run", "[cuda][layer]") {
  const Problem problem =
      draw_device_problem(layer_of(2, 2, std::nullopt, kVariants[1]), true, 8, Element::Bf16);
  const DeviceRun run{{3, 3}, Element::Bf16};
  REQUIRE(run_device_layer(problem, run) == run_device_layer(problem, run));
}

TEST_CASE("algorithms chosen by time compute the same layer", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const Problem problem = draw_device_problem(layer_of(1, 2, 1.0, kVariants[0]), true, 9, element);
  const Expected reference = expected(problem);
  const DeviceRun run{{2, 3}, element, true, false, false, cuda::Search::Timed};
  REQUIRE_EQUALS_REFERENCE(problem, reference, run);
}

TEST_CASE("on a GPU more chunks than rows leave chunks empty", "[cuda][layer]") {
  // 5 tokens of 2 choices for 4 experts: a capacity of 3 rows, 5 in the dropless layer's fullest.
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto capacity = GENERATE(std::optional<double>(1.0), std::optional<double>());
  ReferenceLayer layer = layer_of(2, 2, capacity, kVariants[0]);
  layer.layer.tokens_per_rank = 5;
  layer.layer.num_experts = 4;
  const Problem problem = draw_device_problem(layer, true, 10, element);
  const Expected reference = expected(problem);
  const DeviceRun run{{7, 7}, element};
  REQUIRE_EQUALS_REFERENCE(problem, reference, run);
}

TEST_CASE("one token is enough on a GPU", "[cuda][layer]") {
  ReferenceLayer layer = layer_of(1, 1, std::nullopt, kVariants[0]);
  layer.layer.tokens_per_rank = 1;
  const Problem problem = draw_device_problem(layer, true, 11, Element::Fp32);
  const Expected reference = expected(problem);
  const DeviceRun run{{1, 1}, Element::Fp32, true};
  REQUIRE_EQUALS_REFERENCE(problem, reference, run);
}

TEST_CASE("a wider layer on a GPU equals the reference", "[cuda][layer]") {
  // Several tiles of tokens and several 16-byte units a thread.
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  ReferenceLayer layer = layer_of(1, 2, 1.0, kVariants[0]);
  layer.layer.tokens_per_rank = 200;
  layer.layer.model_dim = 2304;
  layer.layer.hidden_dim = 64;
  const Problem problem = draw_device_problem(layer, true, 12, element);
  const Expected reference = expected(problem);
  const DeviceRun run{{2, 2}, element, true};
  REQUIRE_EQUALS_REFERENCE(problem, reference, run);
}

TEST_CASE("tokens of a layer on a GPU are whole units wide", "[cuda][layer]") {
  cuda::DeviceLayerShape shape{
      .tokens = 4, .model_dim = 12, .hidden_dim = 16, .num_experts = 2, .top_k = 1, .capacity = 2};
  CHECK_THROWS_WITH(cuda::check_runs_here(shape),
                    "model_dim is 12, must be a multiple of 8 for bf16 on a GPU");
  shape.element = Element::Fp32;
  CHECK_NOTHROW(cuda::check_runs_here(shape));
  shape.top_k = 3;
  CHECK_THROWS_AS(cuda::check_runs_here(shape), InputError);
}
