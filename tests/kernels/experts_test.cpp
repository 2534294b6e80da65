#include "kernels/experts.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::kernels;
using namespace pipemoe::test;
using Floats = std::vector<float>;

namespace {

std::vector<float> activated(Activation activation, std::vector<float> input, std::int64_t rows) {
  const auto size = static_cast<std::int64_t>(input.size());
  const std::int64_t hidden = activation == Activation::SwiGlu ? size / rows / 2 : size / rows;
  std::vector<float> output = poisoned(rows * hidden);
  activate({activation, rows, hidden}, input, output);
  return output;
}

// Two experts of model dimension 1 and hidden dimension 2, by hand: expert e computes
// relu(x * first[e] + first_bias[e]) * second[e] + second_bias[e].
const ExpertShape kTwoExperts{.local_experts = 2, .model_dim = 1, .hidden_dim = 2};
const Floats kFirst{1, -1, 2, 3}, kFirstBias{0, 1, -1, 0}, kSecond{10, 100, 1, 2},
    kSecondBias{5, 7};
const ExpertWeights kTwoWeights{kFirst, kFirstBias, kSecond, kSecondBias};
// Source 0 sends one row to each expert, source 1 one more to expert 0.
const ReceivedRows kTwoSources{2, 2, {1, 1, 1, 0}};
const Floats kThreeRows{2, 1, -3};

struct SavedRows {
  Floats x = poisoned(3), pre = poisoned(6), hidden = poisoned(6), output = poisoned(3);
};

SavedRows forward_by_hand(const ExpertWeights& weights) {
  SavedRows saved;
  Floats scratch = poisoned(3);
  expert_forward(kTwoExperts, kTwoSources, weights,
                 {kThreeRows, saved.x, saved.pre, saved.hidden, scratch, saved.output});
  return saved;
}

struct ExpertGradientBuffers {
  Floats first = poisoned(4), first_bias = poisoned(4), second = poisoned(4);
  Floats second_bias = poisoned(2);
  ExpertGradients spans() { return {first, first_bias, second, second_bias}; }
};

}  // namespace

TEST_CASE("activations of known values are right", "[kernels][activation]") {
  CHECK(activated(Activation::Relu, {-2, 0, 3}, 1) == std::vector<float>{0, 0, 3});
  // GELU(1) = Phi(1) = 0.841344746, GELU(-1) = -Phi(-1) = -0.158655254.
  const auto gelu = activated(Activation::Gelu, {1, 0, -1}, 1);
  CHECK(gelu[0] == Approx(0.841344746).epsilon(1e-6));
  CHECK(gelu[1] == 0);
  CHECK(gelu[2] == Approx(-0.158655254).epsilon(1e-6));
  // silu(ln 3) = ln 3 * 3/4; times up, 2: 1.5 * 1.098612289. Rows are [gate | up].
  const auto swiglu =
      activated(Activation::SwiGlu, {1.098612289f, 0, 2, 5, 0, 1.098612289f, 5, 4}, 2);
  REQUIRE(swiglu.size() == 4);
  CHECK(swiglu[0] == Approx(1.647918433).epsilon(1e-6));
  CHECK(swiglu[1] == 0);
  CHECK(swiglu[2] == 0);
  CHECK(swiglu[3] == Approx(3.295836866).epsilon(1e-6));
}

TEST_CASE("an activation's gradient is its slope", "[kernels][activation]") {
  // Central differences in fp32 with a step of 2^-6: curvature costs h^2, rounding 2^-24 / h.
  constexpr float kStep = 0x1p-6f;
  for (const Activation activation : {Activation::Relu, Activation::Gelu, Activation::SwiGlu}) {
    const std::vector<float> input{-3.3f, -0.7f, -0.1f, 0.1f, 0.9f, 4.1f};
    const std::int64_t hidden = activation == Activation::SwiGlu ? 3 : 6;
    const std::vector<float> ones(static_cast<std::size_t>(hidden), 1);
    std::vector<float> gradient = poisoned(6);
    activate_backward({activation, 1, hidden}, input, ones, gradient);
    for (std::size_t i = 0; i < input.size(); ++i) {
      std::vector<float> above = input, below = input;
      above[i] += kStep;
      below[i] -= kStep;
      const auto high = activated(activation, above, 1), low = activated(activation, below, 1);
      float difference = 0;
      for (std::size_t n = 0; n < high.size(); ++n) difference += high[n] - low[n];
      CAPTURE(to_string(activation), i);
      CHECK(gradient[i] == Approx(difference / (2 * kStep)).margin(5e-4));
    }
  }
}

TEST_CASE("no activation hides a NaN", "[kernels][activation]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Activation activation : {Activation::Relu, Activation::Gelu, Activation::SwiGlu}) {
    CHECK(std::isnan(activated(activation, {nan, 1}, 1)[0]));
  }
}

TEST_CASE("the outputs of two experts are those computed by hand", "[kernels][expert]") {
  const SavedRows saved = forward_by_hand(kTwoWeights);
  CHECK(saved.x == Floats{2, -3, 1});
  // Expert 0: x = 2: (2, -1); x = -3: (-3, 4). Expert 1: x = 1: (1, 3).
  CHECK(saved.pre == Floats{2, -1, -3, 4, 1, 3});
  CHECK(saved.hidden == Floats{2, 0, 0, 4, 1, 3});
  // 2*10 + 5; 1*1 + 3*2 + 7; 4*100 + 5, in received order.
  CHECK(saved.output == Floats{25, 14, 405});
}

TEST_CASE("experts need no biases", "[kernels][expert]") {
  // Expert 0: x = 2: (2, -2), x = -3: (-3, 3). Expert 1: x = 1: (2, 3).
  const SavedRows saved = forward_by_hand({.first = kFirst, .second = kSecond});
  CHECK(saved.output == Floats{20, 8, 300});
}

TEST_CASE("the gradients of two experts are those computed by hand", "[kernels][expert]") {
  const SavedRows saved = forward_by_hand(kTwoWeights);
  Floats dy = poisoned(3), dhidden = poisoned(6), dpre = poisoned(6), dx = poisoned(3);
  Floats input_gradient = poisoned(3);
  expert_input_gradient(kTwoExperts, kTwoSources, kTwoWeights,
                        {Floats{1, 3, 2}, saved.pre, dy, dhidden, dpre, dx, input_gradient});
  // Expert 0, row 0: dy 1: dh (10, 100), only the first is on; row 1: dy 2: dh (20, 200), only the
  // second is. Expert 1: dy 3: dh (3, 6), both on.
  CHECK(dpre == Floats{10, 0, 0, 200, 3, 6});
  // 10 * 1; 3*2 + 6*3; 200 * -1.
  CHECK(input_gradient == Floats{10, 24, -200});

  ExpertGradientBuffers to;
  ExpertWeightGradient args{saved.x, saved.hidden, dy, dpre, to.spans()};
  expert_weight_gradient(kTwoExperts, kTwoSources, args);
  // first: x * dpre: (2*10, -3*200), (3, 6). second: hidden * dy: (2*1, 4*2), (1*3, 3*3).
  CHECK(to.first == Floats{20, -600, 3, 6});
  CHECK(to.second == Floats{2, 8, 3, 9});
  CHECK(to.first_bias == Floats{10, 200, 3, 6});
  CHECK(to.second_bias == Floats{3, 3});

  args.accumulate = true;
  expert_weight_gradient(kTwoExperts, kTwoSources, args);
  CHECK(to.first == Floats{40, -1200, 6, 12});
  CHECK(to.second == Floats{4, 16, 6, 18});
  CHECK(to.first_bias == Floats{20, 400, 6, 12});
  CHECK(to.second_bias == Floats{6, 6});
}

TEST_CASE("experts without rows have gradients of zero", "[kernels][expert]") {
  const ReceivedRows none{2, 2, {0, 0, 0, 0}};
  ExpertGradientBuffers to;
  expert_weight_gradient(kTwoExperts, none, {{}, {}, {}, {}, to.spans()});
  CHECK(to.first == Floats(4, 0));
  CHECK(to.second_bias == Floats(2, 0));
  CHECK_NOTHROW(expert_forward(kTwoExperts, none, kTwoWeights, {}));
}

TEST_CASE("experts refuse rows and weights of other shapes", "[kernels][expert]") {
  CHECK_THROWS_AS(expert_forward(kTwoExperts, kTwoSources, kTwoWeights, {}), std::logic_error);
  CHECK_THROWS_AS(expert_forward(kTwoExperts, {1, 1, {0}}, kTwoWeights, {}), std::logic_error);
  CHECK_THROWS_AS(expert_forward(kTwoExperts, {1, 2, {0, 0}}, {kFirst, {}, kFirst, Floats(3)}, {}),
                  std::logic_error);
}
