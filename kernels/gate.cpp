#include "kernels/gate.hpp"

#include <algorithm>
#include <vector>

#include "kernels/cpu_math.hpp"

namespace pipemoe::kernels {
namespace {

void softmax(std::span<float> row) {
  const float largest = *std::max_element(row.begin(), row.end());
  for (float& value : row) value = fast_exp(value - largest);
  float sum = 0;
  for (const float value : row) sum += value;
  scale(1 / sum, row, row);
}

bool contains(std::span<const std::int32_t> chosen, std::int32_t expert) {
  return std::find(chosen.begin(), chosen.end(), expert) != chosen.end();
}

// Chooses different experts even if probabilities are NaN.
void choose_experts(std::span<const float> probabilities, std::span<std::int32_t> experts) {
  for (std::size_t choice = 0; choice < experts.size(); ++choice) {
    const auto before = experts.first(choice);
    std::int32_t best = -1;
    for (std::size_t i = 0; i < probabilities.size(); ++i) {
      const bool better =
          best < 0 || probabilities[i] > probabilities[static_cast<std::size_t>(best)];
      const auto expert = static_cast<std::int32_t>(i);
      if (better && !contains(before, expert)) best = expert;
    }
    experts[choice] = best;
  }
}

float chosen_sum(std::span<const float> probabilities, std::span<const std::int32_t> experts) {
  float sum = 0;
  for (const std::int32_t expert : experts) sum += probabilities[static_cast<std::size_t>(expert)];
  return sum;
}

void write_combine_weights(bool renormalize, std::span<const float> probabilities,
                           std::span<const std::int32_t> experts, std::span<float> weights) {
  const float sum = renormalize ? chosen_sum(probabilities, experts) : 1;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    weights[i] = probabilities[static_cast<std::size_t>(experts[i])] / sum;
  }
}

struct GatedToken {
  std::span<const float> probabilities;    // [num_experts]
  std::span<const std::int32_t> experts;   // [top_k]
  std::span<const float> weights;          // [top_k]
  std::span<const float> weight_gradient;  // [top_k]
};

// Returns g_i - sum_j w_j g_j for weights that sum to 1. Computes it as sum_j w_j (g_i - g_j),
// which has no cancellation if w_i is nearly 1 and the result nearly 0.
float above_mean(std::span<const float> weights, std::span<const float> gradient, std::size_t i) {
  float sum = 0;
  for (std::size_t j = 0; j < weights.size(); ++j) sum += weights[j] * (gradient[i] - gradient[j]);
  return sum;
}

std::size_t index_of_largest(std::span<const float> weights) {
  return static_cast<std::size_t>(std::max_element(weights.begin(), weights.end()) -
                                  weights.begin());
}

// Renormalised, weight_i = p_i / S, where S is the sum over the chosen experts. So the derivative
// by p_i is (g_i - sum_j g_j weight_j) / S.
void add_weight_gradient(bool renormalize, const GatedToken& token, std::span<float> gradient) {
  const float sum = renormalize ? chosen_sum(token.probabilities, token.experts) : 1;
  for (std::size_t i = 0; i < token.experts.size(); ++i) {
    const float by_weight = renormalize ? above_mean(token.weights, token.weight_gradient, i)
                                        : token.weight_gradient[i];
    gradient[static_cast<std::size_t>(token.experts[i])] += by_weight / sum;
  }
}

// Replaces the gradient of the probabilities by that of the logits:
// d/dlogit_e = p_e * (g_e - sum_i g_i p_i).
void softmax_backward(std::span<const float> probabilities, std::span<float> gradient) {
  const float mean = dot(probabilities, gradient);
  const std::size_t top = index_of_largest(probabilities);  // only its difference can be tiny
  const float of_top = probabilities[top] * above_mean(probabilities, gradient, top);
  for (std::size_t e = 0; e < gradient.size(); ++e) {
    gradient[e] = e == top ? of_top : probabilities[e] * (gradient[e] - mean);
  }
}

void write_auxiliary_gradient(const GateShape& shape, const GateBackward& args,
                              std::span<float> gradient) {
  if (args.auxiliary_loss_gradient == 0) return fill(gradient, 0);
  const float factor = args.auxiliary_loss_gradient * static_cast<float>(shape.num_experts) /
                       static_cast<float>(shape.tokens);
  scale(factor, args.load, gradient);
}

void check_sizes(const GateShape& shape, const GateBackward& args) {
  check_size(args.input, shape.tokens * shape.model_dim, "gate_backward: input");
  check_size(args.probabilities, shape.tokens * shape.num_experts, "gate_backward: probabilities");
  check_size(args.experts, shape.choices(), "gate_backward: experts");
  check_size(args.combine_weights, shape.choices(), "gate_backward: combine_weights");
  check_size(args.combine_weight_gradient, shape.choices(), "gate_backward: their gradient");
  check_size(args.logit_gradient, shape.tokens * shape.num_experts, "gate_backward: logits");
  if (args.auxiliary_loss_gradient != 0) {
    check_size(args.load, shape.num_experts, "gate_backward: load");
  }
}

}  // namespace

GateShape gate_shape(const MoeLayer& layer, bool renormalize) {
  check_fp32(layer);
  return {.tokens = layer.tokens_per_rank,
          .model_dim = layer.model_dim,
          .num_experts = layer.num_experts,
          .top_k = layer.top_k,
          .renormalize = renormalize};
}

void gate_forward(const GateShape& shape, const GateForward& args) {
  ensure(shape.top_k >= 1 && shape.top_k <= shape.num_experts, "gate_forward: top_k");
  check_size(args.experts, shape.choices(), "gate_forward: experts");
  check_size(args.combine_weights, shape.choices(), "gate_forward: combine_weights");
  gemm({.m = shape.tokens,
        .n = shape.num_experts,
        .k = shape.model_dim,
        .transpose_b = Transpose::Yes},
       args.input, args.weight, args.probabilities);
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    const auto probabilities = rows_of(args.probabilities, token, 1, shape.num_experts);
    const auto experts = rows_of(args.experts, token, 1, shape.top_k);
    softmax(probabilities);
    choose_experts(probabilities, experts);
    write_combine_weights(shape.renormalize, probabilities, experts,
                          rows_of(args.combine_weights, token, 1, shape.top_k));
  }
}

void expert_load(const GateShape& shape, std::span<const std::int32_t> experts,
                 std::span<float> load) {
  check_size(experts, shape.choices(), "expert_load: experts");
  check_size(load, shape.num_experts, "expert_load: load");
  std::vector<std::int64_t> counts(load.size());
  for (const std::int32_t expert : experts) ++counts[static_cast<std::size_t>(expert)];
  for (std::size_t e = 0; e < load.size(); ++e) {
    load[e] = static_cast<float>(counts[e]) / static_cast<float>(shape.choices());
  }
}

float auxiliary_loss(const GateShape& shape, std::span<const float> probabilities,
                     std::span<const float> load) {
  check_size(probabilities, shape.tokens * shape.num_experts, "auxiliary_loss: probabilities");
  check_size(load, shape.num_experts, "auxiliary_loss: load");
  double sum = 0;
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    sum += static_cast<double>(dot(rows_of(probabilities, token, 1, shape.num_experts), load));
  }
  return static_cast<float>(sum * static_cast<double>(shape.num_experts) /
                            static_cast<double>(shape.tokens));
}

void gate_backward(const GateShape& shape, const GateBackward& args) {
  check_sizes(shape, args);
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    const GatedToken of{rows_of(args.probabilities, token, 1, shape.num_experts),
                        rows_of(args.experts, token, 1, shape.top_k),
                        rows_of(args.combine_weights, token, 1, shape.top_k),
                        rows_of(args.combine_weight_gradient, token, 1, shape.top_k)};
    const auto gradient = rows_of(args.logit_gradient, token, 1, shape.num_experts);
    write_auxiliary_gradient(shape, args, gradient);
    add_weight_gradient(shape.renormalize, of, gradient);
    softmax_backward(of.probabilities, gradient);
  }
  gemm({.m = shape.tokens, .n = shape.model_dim, .k = shape.num_experts, .accumulate = true},
       args.logit_gradient, args.weight, args.input_gradient);
  gemm({.m = shape.num_experts,
        .n = shape.model_dim,
        .k = shape.tokens,
        .transpose_a = Transpose::Yes},
       args.logit_gradient, args.input, args.weight_gradient);
}

}  // namespace pipemoe::kernels
