// All GPU kernels together: a layer on several ranks, in chunks, against the float64 reference.
#include <algorithm>
#include <catch2/catch.hpp>

#include "kernels/reference.hpp"
#include "tests/kernels/cuda_support.hpp"

using namespace pipemoe;
using namespace pipemoe::kernels;
using namespace pipemoe::test;
using cuda::Element;

namespace {

constexpr LayerVariant kDeviceVariants[] = {{Activation::Relu, true, 0.25},
                                            {Activation::Gelu, true, 0},
                                            {Activation::SwiGlu, true, 0.25, false},
                                            {Activation::Relu, false, 0},
                                            {Activation::SwiGlu, false, 0}};

ReferenceLayer device_layer_of(std::int64_t ranks, std::int64_t top_k,
                               std::optional<double> capacity, const LayerVariant& variant) {
  return varied_layer(40, 24, ranks, top_k, capacity, variant);
}

// Returns the largest error of all results, and which result has it.
std::pair<double, std::string> largest_device_error(const LayerResult& result,
                                                    const Problem& problem,
                                                    const ExpectedLayer& expected) {
  auto errors = errors_of(result, expected);
  if (problem.reference.auxiliary_loss_weight != 0) {
    errors.emplace_back(loss_error(result, expected), "loss");
  }
  return *std::max_element(errors.begin(), errors.end());
}

double layer_tolerance(Element element) { return element == Element::Fp32 ? 1e-5 : 1e-2; }
const char* name_of(Element element) { return element == Element::Fp32 ? "fp32" : "bf16"; }

}  // namespace

#define REQUIRE_EQUALS_REFERENCE(problem, reference, run)                                        \
  do {                                                                                           \
    const LayerResult result = run_device_layer(problem, run);                                   \
    const auto [error, what] = largest_device_error(result, problem, reference);                 \
    CAPTURE(name_of((run).element), (run).degrees.forward_degree, (run).degrees.backward_degree, \
            (run).direct, what);                                                                 \
    REQUIRE(result.experts == (problem).experts);                                                \
    REQUIRE(error <= layer_tolerance((run).element));                                            \
  } while (false)

TEST_CASE("a layer on a GPU, any ranks and degree, equals the float64 reference", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto ranks = GENERATE(as<std::int64_t>(), 1, 2, 4);
  const auto top_k = GENERATE(as<std::int64_t>(), 1, 2, 4);
  const auto capacity =
      GENERATE(std::optional<double>(1.0), std::optional<double>(1.25), std::optional<double>());
  std::uint64_t seed = static_cast<std::uint64_t>(100 * ranks + 10 * top_k);
  std::size_t all_degrees =
      seed % std::size(kDeviceVariants);  // one variant runs at all degrees, the others at degree 3
  for (std::size_t i = 0; i < std::size(kDeviceVariants); ++i) {
    const LayerVariant& variant = kDeviceVariants[i];
    const Problem problem = draw_device_problem(device_layer_of(ranks, top_k, capacity, variant),
                                                variant.biases, ++seed, element);
    const ExpectedLayer reference = expected_layer(problem);
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
  for (const LayerVariant& variant : kDeviceVariants) {
    const Problem problem = draw_device_problem(device_layer_of(ranks, 2, capacity, variant),
                                                variant.biases, 7, element);
    const ExpectedLayer reference = expected_layer(problem);
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

// Checks all variants with a capacity at several degrees.
void check_on_ranks(std::int64_t ranks, std::uint64_t seed, DeviceRun run) {
  for (const LayerVariant& variant : kDeviceVariants) {
    const Problem problem = draw_device_problem(device_layer_of(ranks, 2, 1.25, variant),
                                                variant.biases, seed, run.element);
    const ExpectedLayer reference = expected_layer(problem);
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

TEST_CASE("rows for a rank's own experts may stay in the experts' buffers", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto ranks = GENERATE(as<std::int64_t>(), 2, 4, 8);  // on eight ranks, one expert each
  const auto packs = GENERATE(false, true);
  check_on_ranks(ranks, 14, {.degrees = {}, .element = element, .packs = packs, .keeps_own = true});
}

TEST_CASE("exchanges may deliver and fetch rows by expert", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto ranks = GENERATE(as<std::int64_t>(), 2, 4);
  const auto keeps_own = GENERATE(false, true);
  check_on_ranks(
      ranks, 15,
      {.degrees = {}, .element = element, .keeps_own = keeps_own, .exchanges_by_expert = true});
}

TEST_CASE("a layer on a GPU computes the same bits on each run and from a graph", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const Problem problem =
      draw_device_problem(device_layer_of(4, 2, 1.25, kDeviceVariants[0]), true, 8, element);
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

TEST_CASE("a dropless layer on a GPU computes the same bits on each run", "[cuda][layer]") {
  const Problem problem = draw_device_problem(
      device_layer_of(2, 2, std::nullopt, kDeviceVariants[1]), true, 8, Element::Bf16);
  const DeviceRun run{{3, 3}, Element::Bf16};
  REQUIRE(run_device_layer(problem, run) == run_device_layer(problem, run));
}

TEST_CASE("algorithms chosen by time compute the same layer", "[cuda][layer]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const Problem problem =
      draw_device_problem(device_layer_of(1, 2, 1.0, kDeviceVariants[0]), true, 9, element);
  const ExpectedLayer reference = expected_layer(problem);
  const DeviceRun run{{2, 3}, element, true, false, false, cuda::Search::Timed};
  REQUIRE_EQUALS_REFERENCE(problem, reference, run);
}

TEST_CASE("on a GPU more chunks than rows leave chunks empty", "[cuda][layer]") {
  // 5 tokens with 2 choices each and 4 experts: the capacity is 3 rows. Dropless, an expert has at
  // most 5 rows. Both are fewer than 7 chunks.
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto capacity = GENERATE(std::optional<double>(1.0), std::optional<double>());
  ReferenceLayer layer = device_layer_of(2, 2, capacity, kDeviceVariants[0]);
  layer.layer.tokens_per_rank = 5;
  layer.layer.num_experts = 4;
  const Problem problem = draw_device_problem(layer, true, 10, element);
  const ExpectedLayer reference = expected_layer(problem);
  const DeviceRun run{{7, 7}, element};
  REQUIRE_EQUALS_REFERENCE(problem, reference, run);
}

TEST_CASE("a layer on a GPU may have one token", "[cuda][layer]") {
  ReferenceLayer layer = device_layer_of(1, 1, std::nullopt, kDeviceVariants[0]);
  layer.layer.tokens_per_rank = 1;
  const Problem problem = draw_device_problem(layer, true, 11, Element::Fp32);
  const ExpectedLayer reference = expected_layer(problem);
  const DeviceRun run{{1, 1}, Element::Fp32, true};
  REQUIRE_EQUALS_REFERENCE(problem, reference, run);
}

TEST_CASE("a wider layer on a GPU equals the reference", "[cuda][layer]") {
  // It has several tiles of tokens, and several 16-byte units for each thread.
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  ReferenceLayer layer = device_layer_of(1, 2, 1.0, kDeviceVariants[0]);
  layer.layer.tokens_per_rank = 200;
  layer.layer.model_dim = 2304;
  layer.layer.hidden_dim = 64;
  const Problem problem = draw_device_problem(layer, true, 12, element);
  const ExpectedLayer reference = expected_layer(problem);
  const DeviceRun run{{2, 2}, element, true};
  REQUIRE_EQUALS_REFERENCE(problem, reference, run);
}

TEST_CASE("a layer on a GPU refuses rows that are no multiple of 16 bytes", "[cuda][layer]") {
  cuda::DeviceLayerShape shape{
      .tokens = 4, .model_dim = 12, .hidden_dim = 16, .num_experts = 2, .top_k = 1, .capacity = 2};
  CHECK_THROWS_WITH(cuda::check_runs_here(shape),
                    "model_dim is 12, must be a multiple of 8 for bf16 on a GPU");
  shape.element = Element::Fp32;
  CHECK_NOTHROW(cuda::check_runs_here(shape));
  shape.top_k = 3;
  CHECK_THROWS_AS(cuda::check_runs_here(shape), InputError);
}
