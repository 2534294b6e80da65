// Linear gate, softmax and top-k of one rank's tokens, and their gradients.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/shapes.hpp"

namespace pipemoe::kernels {

struct GateForward {
  std::span<const float> input;      ///< [tokens, model_dim]
  std::span<const float> weight;     ///< [num_experts, model_dim]
  std::span<float> probabilities;    ///< out: [tokens, num_experts], softmax of the logits
  std::span<std::int32_t> experts;   ///< out: [tokens, top_k], by falling probability
  std::span<float> combine_weights;  ///< out: [tokens, top_k]
};

/// Equal probabilities are chosen by lower expert index. Combine weights are the chosen
/// probabilities, divided by their sum where the shape says renormalize; a choice dropped later
/// keeps its part in that sum.
/// Requires 1 <= top_k <= num_experts.
void gate_forward(const GateShape& shape, const GateForward& args);

/// [num_experts] out: the share of all choices that each expert got, before any is dropped.
void expert_load(const GateShape& shape, std::span<const std::int32_t> experts,
                 std::span<float> load);

/// num_experts * sum over experts of load * mean probability: 1 when balanced. GShard's loss, with
/// Switch Transformer's factor. The load counts as a constant in its gradient.
float auxiliary_loss(const GateShape& shape, std::span<const float> probabilities,
                     std::span<const float> load);

struct GateBackward {
  std::span<const float> input;                    ///< [tokens, model_dim]
  std::span<const float> weight;                   ///< [num_experts, model_dim]
  std::span<const float> probabilities;            ///< [tokens, num_experts], of gate_forward
  std::span<const std::int32_t> experts;           ///< [tokens, top_k]
  std::span<const float> combine_weights;          ///< [tokens, top_k]
  std::span<const float> combine_weight_gradient;  ///< [tokens, top_k]; 0 for a dropped choice
  std::span<const float> load;                     ///< [num_experts]; may be empty without the loss
  float auxiliary_loss_gradient = 0;               ///< of the whole loss by auxiliary_loss()
  std::span<float> logit_gradient;                 ///< out: [tokens, num_experts]
  std::span<float> input_gradient;                 ///< [tokens, model_dim]: added to
  std::span<float> weight_gradient;                ///< out: [num_experts, model_dim]
};

void gate_backward(const GateShape& shape, const GateBackward& args);

}  // namespace pipemoe::kernels
