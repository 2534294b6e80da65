// The experts of one rank on the CPU, for the rows of one chunk:
// output = act(input * first + first_bias) * second + second_bias, and its gradients.
//
// The rows of each expert from all sources are packed together, so that each product is one matrix
// product per expert. In the comments, `rows` is ReceivedRows::rows() of the chunk. Buffers are
// dense and row-major, and in packed order unless they say "received order"; routing.hpp defines
// both. If ReceivedRows::is_packed(), a buffer in received order and its packed counterpart may be
// one buffer. A buffer of another size throws std::logic_error.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/routing.hpp"
#include "models/layer.hpp"

namespace pipemoe::kernels {

// ---- The activation function ----

struct ActivationShape {
  Activation activation = Activation::Relu;
  std::int64_t rows = 0;
  std::int64_t hidden_dim = 0;

  /// Columns of the input.
  std::int64_t width() const {
    return activation == Activation::SwiGlu ? 2 * hidden_dim : hidden_dim;
  }
};

/// Applies ReLU, GELU (with erf) or SwiGLU. For SwiGLU a row of the input is [gate | up], and the
/// output is silu(gate) * up. `input`: [rows, width()]; `output`: [rows, hidden_dim].
void activate(const ActivationShape& shape, std::span<const float> input, std::span<float> output);

/// `input`: as in activate(); `output_gradient`: [rows, hidden_dim]; `input_gradient`, out:
/// [rows, width()]. ReLU's derivative at 0 is 0.
void activate_backward(const ActivationShape& shape, std::span<const float> input,
                       std::span<const float> output_gradient, std::span<float> input_gradient);

// ---- The experts ----

struct ExpertShape {
  std::int64_t local_experts = 0;
  std::int64_t model_dim = 0;
  std::int64_t hidden_dim = 0;
  Activation activation = Activation::Relu;

  /// Columns of the first product. SwiGLU's gate and up projections are one product.
  std::int64_t first_width() const {
    return activation == Activation::SwiGlu ? 2 * hidden_dim : hidden_dim;
  }
  bool operator==(const ExpertShape&) const = default;
};
/// Throws InputError unless the layer's dtype is fp32 and its experts divide evenly over the ranks.
ExpertShape expert_shape(const MoeLayer& layer, std::int64_t num_ranks);

struct ExpertWeights {
  std::span<const float> first;        ///< [local_experts, model_dim, first_width]
  std::span<const float> first_bias;   ///< [local_experts, first_width], or empty: no bias
  std::span<const float> second;       ///< [local_experts, hidden_dim, model_dim]
  std::span<const float> second_bias;  ///< [local_experts, model_dim], or empty: no bias
};

struct ExpertForward {
  std::span<const float> input;     ///< [rows, model_dim], received order
  std::span<float> packed_input;    ///< out, kept for backward: [rows, model_dim]
  std::span<float> pre_activation;  ///< out, kept for backward: [rows, first_width]
  std::span<float> hidden;          ///< out, kept for backward: [rows, hidden_dim]
  std::span<float> packed_output;   ///< scratch: [rows, model_dim]
  std::span<float> output;          ///< out: [rows, model_dim], received order
};
void expert_forward(const ExpertShape& shape, const ReceivedRows& rows,
                    const ExpertWeights& weights, const ExpertForward& args);

struct ExpertInputGradient {
  std::span<const float> output_gradient;    ///< [rows, model_dim], received order
  std::span<const float> pre_activation;     ///< [rows, first_width]
  std::span<float> packed_output_gradient;   ///< out, kept for the weights: [rows, model_dim]
  std::span<float> hidden_gradient;          ///< scratch: [rows, hidden_dim]
  std::span<float> pre_activation_gradient;  ///< out, kept for the weights: [rows, first_width]
  std::span<float> packed_input_gradient;    ///< scratch: [rows, model_dim]
  std::span<float> input_gradient;           ///< out: [rows, model_dim], received order
};
void expert_input_gradient(const ExpertShape& shape, const ReceivedRows& rows,
                           const ExpertWeights& weights, const ExpertInputGradient& args);

/// The shapes are those of ExpertWeights. The gradient of an empty bias is not computed.
struct ExpertGradients {
  std::span<float> first;
  std::span<float> first_bias;
  std::span<float> second;
  std::span<float> second_bias;
};

struct ExpertWeightGradient {
  std::span<const float> packed_input;             ///< [rows, model_dim]
  std::span<const float> hidden;                   ///< [rows, hidden_dim]
  std::span<const float> packed_output_gradient;   ///< [rows, model_dim]
  std::span<const float> pre_activation_gradient;  ///< [rows, first_width]
  ExpertGradients gradients;                       ///< out
  bool accumulate = false;  ///< true: adds to the gradients; false for the first chunk
};
/// Call this for the chunks in the same order every time: the last bits of a sum depend on it.
void expert_weight_gradient(const ExpertShape& shape, const ReceivedRows& rows,
                            const ExpertWeightGradient& args);

}  // namespace pipemoe::kernels
