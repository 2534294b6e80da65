#include "kernels/expert_ffn.hpp"

#include <catch2/catch.hpp>
#include <stdexcept>

#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::kernels;
using namespace pipemoe::test;
using Floats = std::vector<float>;

namespace {

// Two experts of model dimension 1 and hidden dimension 2, by hand: expert e computes
// relu(x * first[e] + first_bias[e]) * second[e] + second_bias[e].
const ExpertShape kShape{.local_experts = 2, .model_dim = 1, .hidden_dim = 2};
const Floats kFirst{1, -1, 2, 3}, kFirstBias{0, 1, -1, 0}, kSecond{10, 100, 1, 2},
    kSecondBias{5, 7};
const ExpertWeights kWeights{kFirst, kFirstBias, kSecond, kSecondBias};
// Source 0 sends one row to each expert, source 1 one more to expert 0.
const ReceivedRows kRows{2, 2, {1, 1, 1, 0}};
const Floats kInput{2, 1, -3};

struct Saved {
  Floats x = poisoned(3), pre = poisoned(6), hidden = poisoned(6), output = poisoned(3);
};

Saved forward(const ExpertWeights& weights) {
  Saved saved;
  Floats scratch = poisoned(3);
  expert_forward(kShape, kRows, weights,
                 {kInput, saved.x, saved.pre, saved.hidden, scratch, saved.output});
  return saved;
}

struct Gradients {
  Floats first = poisoned(4), first_bias = poisoned(4), second = poisoned(4);
  Floats second_bias = poisoned(2);
  ExpertGradients spans() { return {first, first_bias, second, second_bias}; }
};

}  // namespace

TEST_CASE("two experts by hand", "[kernels][expert]") {
  const Saved saved = forward(kWeights);
  CHECK(saved.x == Floats{2, -3, 1});
  // Expert 0: x = 2: (2, -1); x = -3: (-3, 4). Expert 1: x = 1: (1, 3).
  CHECK(saved.pre == Floats{2, -1, -3, 4, 1, 3});
  CHECK(saved.hidden == Floats{2, 0, 0, 4, 1, 3});
  // 2*10 + 5; 1*1 + 3*2 + 7; 4*100 + 5, in received order.
  CHECK(saved.output == Floats{25, 14, 405});
}

TEST_CASE("experts without biases", "[kernels][expert]") {
  // Expert 0: x = 2: (2, -2), x = -3: (-3, 3). Expert 1: x = 1: (2, 3).
  const Saved saved = forward({.first = kFirst, .second = kSecond});
  CHECK(saved.output == Floats{20, 8, 300});
}

TEST_CASE("gradients of two experts by hand", "[kernels][expert]") {
  const Saved saved = forward(kWeights);
  Floats dy = poisoned(3), dhidden = poisoned(6), dpre = poisoned(6), dx = poisoned(3);
  Floats input_gradient = poisoned(3);
  expert_input_gradient(kShape, kRows, kWeights,
                        {Floats{1, 3, 2}, saved.pre, dy, dhidden, dpre, dx, input_gradient});
  // Expert 0, row 0: dy 1: dh (10, 100), only the first is on; row 1: dy 2: dh (20, 200), only the
  // second is. Expert 1: dy 3: dh (3, 6), both on.
  CHECK(dpre == Floats{10, 0, 0, 200, 3, 6});
  // 10 * 1; 3*2 + 6*3; 200 * -1.
  CHECK(input_gradient == Floats{10, 24, -200});

  Gradients to;
  ExpertWeightGradient args{saved.x, saved.hidden, dy, dpre, to.spans()};
  expert_weight_gradient(kShape, kRows, args);
  // first: x * dpre: (2*10, -3*200), (3, 6). second: hidden * dy: (2*1, 4*2), (1*3, 3*3).
  CHECK(to.first == Floats{20, -600, 3, 6});
  CHECK(to.second == Floats{2, 8, 3, 9});
  CHECK(to.first_bias == Floats{10, 200, 3, 6});
  CHECK(to.second_bias == Floats{3, 3});

  args.accumulate = true;
  expert_weight_gradient(kShape, kRows, args);
  CHECK(to.first == Floats{40, -1200, 6, 12});
  CHECK(to.second == Floats{4, 16, 6, 18});
  CHECK(to.first_bias == Floats{20, 400, 6, 12});
  CHECK(to.second_bias == Floats{6, 6});
}

TEST_CASE("experts without rows have gradients of zero", "[kernels][expert]") {
  const ReceivedRows none{2, 2, {0, 0, 0, 0}};
  Gradients to;
  expert_weight_gradient(kShape, none, {{}, {}, {}, {}, to.spans()});
  CHECK(to.first == Floats(4, 0));
  CHECK(to.second_bias == Floats(2, 0));
  CHECK_NOTHROW(expert_forward(kShape, none, kWeights, {}));
}

TEST_CASE("rows and weights of other shapes are refused", "[kernels][expert]") {
  CHECK_THROWS_AS(expert_forward(kShape, kRows, kWeights, {}), std::logic_error);
  CHECK_THROWS_AS(expert_forward(kShape, {1, 1, {0}}, kWeights, {}), std::logic_error);
  CHECK_THROWS_AS(expert_forward(kShape, {1, 2, {0, 0}}, {kFirst, {}, kFirst, Floats(3)}, {}),
                  std::logic_error);
}
