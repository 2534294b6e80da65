#include "kernels/gate.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <set>
#include <vector>

#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe::kernels;
using namespace pipemoe::test;
using Floats = std::vector<float>;

namespace {

struct Gated {
  Floats probabilities;
  std::vector<std::int32_t> experts;
  Floats weights;
};

Gated gated(const GateShape& shape, const Floats& input, const Floats& weight) {
  Gated result{poisoned(shape.tokens * shape.num_experts),
               std::vector<std::int32_t>(static_cast<std::size_t>(shape.choices()), -1),
               poisoned(shape.choices())};
  gate_forward(shape, {input, weight, result.probabilities, result.experts, result.weights});
  return result;
}

struct GateGradients {
  Floats input;
  Floats weight;
};

GateGradients gate_gradients(const GateShape& shape, const Floats& input, const Floats& weight,
                             const Floats& weight_gradient, float auxiliary) {
  const Gated forward = gated(shape, input, weight);
  Floats load = poisoned(shape.num_experts);
  Floats logits = poisoned(shape.tokens * shape.num_experts);
  expert_load(shape, forward.experts, load);
  GateGradients result{Floats(input.size(), 10),
                       poisoned(static_cast<std::int64_t>(weight.size()))};
  gate_backward(shape, {input, weight, forward.probabilities, forward.experts, forward.weights,
                        weight_gradient, load, auxiliary, logits, result.input, result.weight});
  return result;
}

const float kLn2 = std::log(2.0f), kLn5 = std::log(5.0f);

}  // namespace

TEST_CASE("the choices of a gate are those computed by hand", "[kernels][gate]") {
  // Model dimension 1: logits are x * weight = ln 1, ln 2, ln 5, so probabilities 1/8, 2/8, 5/8.
  GateShape shape{.tokens = 1, .model_dim = 1, .num_experts = 3, .top_k = 2};
  const Gated result = gated(shape, {1}, {0, kLn2, kLn5});
  CHECK(result.probabilities[0] == Approx(0.125).epsilon(1e-6));
  CHECK(result.probabilities[1] == Approx(0.25).epsilon(1e-6));
  CHECK(result.probabilities[2] == Approx(0.625).epsilon(1e-6));
  CHECK(result.experts == std::vector<std::int32_t>{2, 1});
  CHECK(result.weights[0] == Approx(5.0 / 7).epsilon(1e-6));
  CHECK(result.weights[1] == Approx(2.0 / 7).epsilon(1e-6));
  shape.renormalize = false;
  CHECK(gated(shape, {1}, {0, kLn2, kLn5}).weights[0] == Approx(0.625).epsilon(1e-6));
}

TEST_CASE("of equal probabilities the lower index wins", "[kernels][gate]") {
  const GateShape shape{.tokens = 2, .model_dim = 1, .num_experts = 4, .top_k = 3};
  // Token 0: all equal. Token 1: expert 3 first, then 0 and 1 of three equal ones.
  CHECK(gated(shape, {0, 1}, {0, 0, 0, 1}).experts == std::vector<std::int32_t>{0, 1, 2, 3, 0, 1});
}

TEST_CASE("large logits do not overflow", "[kernels][gate]") {
  const GateShape shape{.tokens = 1, .model_dim = 1, .num_experts = 3, .top_k = 3};
  const Gated result = gated(shape, {1}, {1e4f, 1e4f, -1e4f});
  CHECK(result.probabilities[0] == Approx(0.5));
  CHECK(result.experts == std::vector<std::int32_t>{0, 1, 2});
  CHECK(result.weights[2] < 1e-30f);
}

TEST_CASE("a token with NaN still chooses different experts", "[kernels][gate]") {
  const GateShape shape{.tokens = 1, .model_dim = 1, .num_experts = 4, .top_k = 3};
  const Gated result = gated(shape, poisoned(1), {0, 1, 2, 3});
  CHECK(std::set<std::int32_t>(result.experts.begin(), result.experts.end()).size() == 3);
  CHECK(std::isnan(result.weights[0]));
}

TEST_CASE("the auxiliary loss is the one computed by hand", "[kernels][gate]") {
  // Two tokens with logits ln 2 and ln 5 for expert 1, so its probabilities are 2/3 and 5/6. Both
  // tokens choose it: the load is 0, 1. The loss is 2 * mean = 2/3 + 5/6.
  const GateShape shape{.tokens = 2, .model_dim = 1, .num_experts = 2, .top_k = 1};
  const Gated result = gated(shape, {kLn2, kLn5}, {0, 1});
  Floats load = poisoned(2);
  expert_load(shape, result.experts, load);
  CHECK(load == Floats{0, 1});
  CHECK(auxiliary_loss(shape, result.probabilities, load) == Approx(1.5).epsilon(1e-6));
}

TEST_CASE("the gradients of a gate are those computed by hand", "[kernels][gate]") {
  // One token x = 1, and two experts with probabilities 1/3, 2/3. The choice is expert 1. Without
  // renormalisation its weight is p1: d p1 / d logits = p1 * (-p0, 1 - p1) = (-2/9, 2/9).
  GateShape shape{.tokens = 1, .model_dim = 1, .num_experts = 2, .top_k = 1, .renormalize = false};
  const GateGradients plain = gate_gradients(shape, {1}, {0, kLn2}, {9}, 0);
  CHECK(plain.weight[0] == Approx(-2).epsilon(1e-5));
  CHECK(plain.weight[1] == Approx(2).epsilon(1e-5));
  // The input's gradient is -2 * 0 + 2 * ln 2, added to the 10 in the buffer.
  CHECK(plain.input[0] == Approx(10 + 2 * std::log(2.0)).epsilon(1e-6));
  // The auxiliary loss is 2 * p1. Times 4.5 it acts as a gradient of 9 for the weight.
  CHECK(gate_gradients(shape, {1}, {0, kLn2}, {0}, 4.5f).weight[1] == Approx(2).epsilon(1e-5));
  // With renormalisation the only weight is always 1.
  shape.renormalize = true;
  CHECK(gate_gradients(shape, {1}, {0, kLn2}, {9}, 0).weight == Floats{0, 0});
}
