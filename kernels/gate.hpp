// The gate of one rank on the CPU: a linear layer, softmax and top-k, and their gradients.
#pragma once

#include <cstdint>
#include <span>

#include "models/layer.hpp"

namespace pipemoe::kernels {

struct GateShape {
  std::int64_t tokens = 0;
  std::int64_t model_dim = 0;
  std::int64_t num_experts = 0;
  std::int64_t top_k = 0;
  /// Divides a token's combine weights by their sum, as Tutel does.
  bool renormalize = true;

  std::int64_t choices() const { return tokens * top_k; }
  bool operator==(const GateShape&) const = default;
};
/// Throws InputError unless the layer's dtype is fp32.
GateShape gate_shape(const MoeLayer& layer, bool renormalize = true);

struct GateForward {
  std::span<const float> input;      ///< [tokens, model_dim]
  std::span<const float> weight;     ///< [num_experts, model_dim]
  std::span<float> probabilities;    ///< out: [tokens, num_experts], softmax of the logits
  std::span<std::int32_t> experts;   ///< out: [tokens, top_k], most probable first
  std::span<float> combine_weights;  ///< out: [tokens, top_k]
};

/// Chooses the top_k most probable experts of each token. Of equal probabilities, the lower expert
/// index wins. The combine weights are the chosen probabilities, divided by their sum if the shape
/// says `renormalize`. That sum also contains choices that a capacity drops later.
/// Requires 1 <= top_k <= num_experts.
void gate_forward(const GateShape& shape, const GateForward& args);

/// Writes to `load`, [num_experts], the share of all choices that went to each expert. Dropped
/// choices count too. `experts`: [tokens, top_k].
void expert_load(const GateShape& shape, std::span<const std::int32_t> experts,
                 std::span<float> load);

/// Returns num_experts * sum over the experts of load * mean probability. It is 1 if the load is
/// balanced. This is GShard's loss with Switch Transformer's factor. Its gradient treats the load
/// as a constant. `probabilities`: [tokens, num_experts]; `load`: [num_experts].
float auxiliary_loss(const GateShape& shape, std::span<const float> probabilities,
                     std::span<const float> load);

struct GateBackward {
  std::span<const float> input;                    ///< [tokens, model_dim]
  std::span<const float> weight;                   ///< [num_experts, model_dim]
  std::span<const float> probabilities;            ///< [tokens, num_experts], from gate_forward
  std::span<const std::int32_t> experts;           ///< [tokens, top_k]
  std::span<const float> combine_weights;          ///< [tokens, top_k]
  std::span<const float> combine_weight_gradient;  ///< [tokens, top_k]; 0 for a dropped choice
  std::span<const float> load;        ///< [num_experts]; may be empty without an auxiliary loss
  float auxiliary_loss_gradient = 0;  ///< d(total loss) / d(auxiliary_loss())
  std::span<float> logit_gradient;    ///< out: [tokens, num_experts]
  std::span<float> input_gradient;    ///< [tokens, model_dim]: the gate's part is added to it
  std::span<float> weight_gradient;   ///< out: [num_experts, model_dim]
};

void gate_backward(const GateShape& shape, const GateBackward& args);

}  // namespace pipemoe::kernels
