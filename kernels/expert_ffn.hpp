// The experts of one rank on one chunk: act(x * first + first_bias) * second + second_bias, and its
// gradients. Each expert's rows from all sources are packed together, so that each product is one
// GEMM per expert. "rows" below are ReceivedRows::rows() of the chunk; received and packed order
// are defined there. Where they are the same order, a buffer and its packed twin may be one.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/received.hpp"
#include "kernels/shapes.hpp"

namespace pipemoe::kernels {

/// A bias may be empty: there is none.
struct ExpertWeights {
  std::span<const float> first;        ///< [local_experts, model_dim, first_width]
  std::span<const float> first_bias;   ///< [local_experts, first_width] or empty
  std::span<const float> second;       ///< [local_experts, hidden_dim, model_dim]
  std::span<const float> second_bias;  ///< [local_experts, model_dim] or empty
};

struct ExpertForward {
  std::span<const float> input;     ///< [rows, model_dim], received order
  std::span<float> packed_input;    ///< out, kept for backward: [rows, model_dim]
  std::span<float> pre_activation;  ///< out, kept for backward: [rows, first_width], packed
  std::span<float> hidden;          ///< out, kept for backward: [rows, hidden_dim], packed
  std::span<float> packed_output;   ///< scratch: [rows, model_dim]
  std::span<float> output;          ///< out: [rows, model_dim], received order
};
void expert_forward(const ExpertShape& shape, const ReceivedRows& rows,
                    const ExpertWeights& weights, const ExpertForward& args);

struct ExpertInputGradient {
  std::span<const float> output_gradient;    ///< [rows, model_dim], received order
  std::span<const float> pre_activation;     ///< [rows, first_width], packed
  std::span<float> packed_output_gradient;   ///< out, kept for weights: [rows, model_dim]
  std::span<float> hidden_gradient;          ///< scratch: [rows, hidden_dim]
  std::span<float> pre_activation_gradient;  ///< out, kept for weights: [rows, first_width], packed
  std::span<float> packed_input_gradient;    ///< scratch: [rows, model_dim]
  std::span<float> input_gradient;           ///< out: [rows, model_dim], received order
};
void expert_input_gradient(const ExpertShape& shape, const ReceivedRows& rows,
                           const ExpertWeights& weights, const ExpertInputGradient& args);

/// Shapes of ExpertWeights; an empty bias gradient is not computed.
struct ExpertGradients {
  std::span<float> first;
  std::span<float> first_bias;
  std::span<float> second;
  std::span<float> second_bias;
};

struct ExpertWeightGradient {
  std::span<const float> packed_input;             ///< [rows, model_dim]
  std::span<const float> hidden;                   ///< [rows, hidden_dim], packed
  std::span<const float> packed_output_gradient;   ///< [rows, model_dim]
  std::span<const float> pre_activation_gradient;  ///< [rows, first_width], packed
  ExpertGradients gradients;                       ///< added to, or out where accumulate is false
  bool accumulate = false;                         ///< false for the first chunk
};
/// Call it for chunks in one order every time: a sum's last bits depend on it.
void expert_weight_gradient(const ExpertShape& shape, const ReceivedRows& rows,
                            const ExpertWeightGradient& args);

}  // namespace pipemoe::kernels
