#include "kernels/activation.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/fast_math.hpp"
#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::kernels;
using namespace pipemoe::test;

namespace {

std::vector<float> activated(Activation activation, std::vector<float> input, std::int64_t rows) {
  const auto size = static_cast<std::int64_t>(input.size());
  const std::int64_t hidden = activation == Activation::SwiGlu ? size / rows / 2 : size / rows;
  std::vector<float> output = poisoned(rows * hidden);
  activate({activation, rows, hidden}, input, output);
  return output;
}

}  // namespace

TEST_CASE("fast_exp is within 2 units in the last place", "[kernels][math]") {
  double worst = 0;
  for (double x = -87; x <= 88; x += 0.0009765625) {  // 2^-10: exact in fp32
    const double exact = std::exp(x);
    worst =
        std::max(worst, std::abs(static_cast<double>(fast_exp(static_cast<float>(x))) / exact - 1));
  }
  CHECK(worst < 2 * 0x1p-23);
  CHECK(fast_exp(0) == 1);
  CHECK(fast_exp(-1e30f) == fast_exp(-87));
  CHECK(fast_exp(1e30f) == fast_exp(88));
  CHECK(std::isnan(fast_exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("fast_erf is within 4e-7", "[kernels][math]") {
  double worst = 0;
  for (double x = -6; x <= 6; x += 0.0009765625) {
    const auto y = static_cast<double>(fast_erf(static_cast<float>(x)));
    worst = std::max(worst, std::abs(y - std::erf(x)));
  }
  CHECK(worst < 4e-7);
  CHECK(fast_erf(0) == 0);
  CHECK(std::isnan(fast_erf(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("activations of values known by heart", "[kernels][activation]") {
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
