// Tests of the float64 reference, which checks the kernels: against a layer computed by hand, and
// against finite differences.
#include "kernels/reference.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::kernels;
using namespace pipemoe::test;
using Doubles = std::vector<double>;

namespace {

double loss(const Problem& p) {
  const ReferenceForward forward = reference_forward(p.reference, p.parameters, p.input, p.experts);
  return std::inner_product(forward.output.begin(), forward.output.end(), p.output_gradient.begin(),
                            0.0) +
         p.reference.auxiliary_loss_weight * forward.auxiliary_loss;
}

// Returns ||numeric - exact|| / ||exact|| over all values of one array of the problem. The
// differences are of fourth order: their error is about step^4 plus rounding / step, both below
// 1e-9.
double difference_error(Problem& p, Doubles& values, const Doubles& exact) {
  constexpr double kStep = 1e-3;
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double value = values[i];
    const auto at = [&](double steps) {
      values[i] = value + steps * kStep;
      return loss(p);
    };
    const double numeric = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * kStep);
    values[i] = value;
    error += (numeric - exact[i]) * (numeric - exact[i]);
    norm += exact[i] * exact[i];
  }
  return std::sqrt(error / std::max(norm, 1e-24));
}

ReferenceLayer reference_layer(Activation activation, std::optional<double> capacity,
                               bool renormalize) {
  return {.layer = {.tokens_per_rank = 6,
                    .model_dim = 3,
                    .hidden_dim = 4,
                    .num_experts = 4,
                    .top_k = 2,
                    .capacity_factor = capacity,
                    .activation = activation},
          .num_ranks = 2,
          .renormalize = renormalize,
          .auxiliary_loss_weight = 0.5};
}

}  // namespace

TEST_CASE("the reference computes a layer as by hand", "[kernels][reference]") {
  // One token x = 1, model and hidden dimension 1, and two experts with logits ln 1 and ln 3, so p
  // is 1/4 and 3/4. The ReLU experts compute y0 = (1*2 + 1) * 3 + 1 = 10 and y1 = (1*4 - 1) * 2 + 0
  // = 6. The output is y = 10/4 + 18/4 = 7.
  const ReferenceLayer layer{.layer = {.tokens_per_rank = 1,
                                       .model_dim = 1,
                                       .hidden_dim = 1,
                                       .num_experts = 2,
                                       .top_k = 2,
                                       .capacity_factor = {}}};
  const ReferenceParameters parameters{{0, std::log(3.0)}, {2, 4}, {1, -1}, {3, 2}, {1, 0}};
  const auto experts = reference_routing(layer, parameters, Doubles{1});
  CHECK(experts == std::vector<std::int32_t>{1, 0});
  const ReferenceForward forward = reference_forward(layer, parameters, Doubles{1}, experts);
  CHECK(forward.output[0] == Approx(7).epsilon(1e-12));
  CHECK(forward.combine_weights[0] == Approx(0.75).epsilon(1e-12));
  CHECK(forward.auxiliary_loss == Approx(1).epsilon(1e-12));  // load 1/2 each: 2 * 1/2
  const ReferenceBackward backward =
      reference_backward(layer, parameters, Doubles{1}, experts, Doubles{1});
  CHECK(backward.parameters.second[0] == Approx(0.25 * 3).epsilon(1e-12));
  CHECK(backward.parameters.first[1] == Approx(0.75 * 2).epsilon(1e-12));
  // d y / d logit 1 = p1 * (y1 - y) = 3/4 * (6 - 7).
  CHECK(backward.parameters.gate[1] == Approx(-0.75).epsilon(1e-12));
  // dx through the experts is 1/4 * 3*2 + 3/4 * 2*4, and through the gate -3/4 * ln 3.
  CHECK(backward.input[0] == Approx(7.5 - 0.75 * std::log(3.0)).epsilon(1e-12));
}

TEST_CASE("the reference's gradients equal finite differences", "[kernels][reference]") {
  // ReLU has a kink, so the next test covers it. All other code is the same.
  const auto activation = GENERATE(Activation::Gelu, Activation::SwiGlu);
  const auto capacity = GENERATE(std::optional<double>(0.75), std::optional<double>());
  const bool renormalize = GENERATE(true, false);
  Problem p = draw_problem(reference_layer(activation, capacity, renormalize), true, 3);
  const ReferenceBackward exact =
      reference_backward(p.reference, p.parameters, p.input, p.experts, p.output_gradient);
  CAPTURE(to_string(activation), capacity.value_or(0), renormalize);
  CHECK(difference_error(p, p.input, exact.input) < 1e-6);
  CHECK(difference_error(p, p.parameters.gate, exact.parameters.gate) < 1e-6);
  CHECK(difference_error(p, p.parameters.first, exact.parameters.first) < 1e-6);
  CHECK(difference_error(p, p.parameters.first_bias, exact.parameters.first_bias) < 1e-6);
  CHECK(difference_error(p, p.parameters.second, exact.parameters.second) < 1e-6);
  CHECK(difference_error(p, p.parameters.second_bias, exact.parameters.second_bias) < 1e-6);
}

TEST_CASE("the reference's gradients with ReLU equal finite differences away from its kink",
          "[kernels][reference]") {
  Problem p = draw_problem(reference_layer(Activation::Relu, 0.75, true), true, 4);
  // Biases of +-30 switch every second hidden unit off and the others on.
  for (std::size_t i = 0; i < p.parameters.first_bias.size(); ++i) {
    p.parameters.first_bias[i] = i % 2 == 0 ? 30 : -30;
  }
  const ReferenceBackward exact =
      reference_backward(p.reference, p.parameters, p.input, p.experts, p.output_gradient);
  CHECK(difference_error(p, p.input, exact.input) < 1e-6);
  CHECK(difference_error(p, p.parameters.gate, exact.parameters.gate) < 1e-6);
  CHECK(difference_error(p, p.parameters.first, exact.parameters.first) < 1e-6);
  CHECK(difference_error(p, p.parameters.second, exact.parameters.second) < 1e-6);
}

TEST_CASE("the kernels' gradients equal finite differences of the reference",
          "[kernels][reference]") {
  Problem p = draw_problem(reference_layer(Activation::SwiGlu, 0.75, true), true, 5);
  const LayerResult result = run_layer(p, {2, 3});
  const Doubles input(result.input_gradient.begin(), result.input_gradient.end());
  const Doubles gate(result.gate.begin(), result.gate.end());
  const Doubles first(result.first.begin(), result.first.end());
  CHECK(difference_error(p, p.input, input) < 1e-5);
  CHECK(difference_error(p, p.parameters.gate, gate) < 1e-5);
  CHECK(difference_error(p, p.parameters.first, first) < 1e-5);
}

TEST_CASE("a capacity drops rows in the reference", "[kernels][reference]") {
  // Both tokens choose expert 0, which has room for ceil(1 * 1 * 2 / 2) = 1.
  const ReferenceLayer layer{
      .layer = {
          .tokens_per_rank = 2, .model_dim = 1, .hidden_dim = 1, .num_experts = 2, .top_k = 1}};
  const ReferenceParameters parameters{{1, 0}, {1, 1}, {}, {1, 1}, {}};
  const auto experts = reference_routing(layer, parameters, Doubles{2, 3});
  CHECK(experts == std::vector<std::int32_t>{0, 0});
  CHECK(reference_forward(layer, parameters, Doubles{2, 3}, experts).output == Doubles{2, 0});
}
