// Tokens to rows in chunk layout and back, one rank's; weighted by the gate on the way back.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/routing.hpp"

namespace pipemoe::kernels {

struct RowShape {
  std::int64_t tokens = 0;
  std::int64_t top_k = 0;
  std::int64_t model_dim = 0;
};

struct Permute {
  std::span<const float> input;  ///< [tokens, model_dim]
  std::span<float> rows;         ///< out: [plan.rows(), model_dim]; unfilled slots are zero
};
void permute(const RowShape& shape, const ChunkPlan& plan, const Permute& args);

struct PermuteBackward {
  std::span<const float> row_gradient;  ///< [plan.rows(), model_dim]
  std::span<float> input_gradient;      ///< out: [tokens, model_dim]
  bool accumulate = false;              ///< adds to it
};
/// Sums the rows of each token, in order of its choices.
void permute_backward(const RowShape& shape, const ChunkPlan& plan, const PermuteBackward& args);

struct Combine {
  std::span<const float> rows;             ///< [plan.rows(), model_dim], the experts' outputs
  std::span<const float> combine_weights;  ///< [tokens, top_k]
  std::span<float> output;                 ///< out: [tokens, model_dim]
};
/// Sums each token's rows times their weights, in order of its choices; a dropped one adds nothing.
void combine(const RowShape& shape, const ChunkPlan& plan, const Combine& args);

struct CombineBackward {
  std::span<const float> output_gradient;    ///< [tokens, model_dim]
  std::span<const float> rows;               ///< [forward.rows(), model_dim], experts' outputs
  std::span<const float> combine_weights;    ///< [tokens, top_k]
  std::span<float> row_gradient;             ///< out: [backward.rows(), model_dim]
  std::span<float> combine_weight_gradient;  ///< out: [tokens, top_k]; 0 for a dropped choice
};
/// The experts' outputs lie as the forward pass left them, their gradients as the backward pass
/// sends them. Requires plans of one assignment.
void combine_backward(const RowShape& shape, const ChunkPlan& forward, const ChunkPlan& backward,
                      const CombineBackward& args);

}  // namespace pipemoe::kernels
