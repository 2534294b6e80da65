// Moves rows on the CPU: one rank's tokens into the layout of a ChunkPlan and back, and what its
// experts receive into packed order and back. All buffers are dense, row-major fp32. A buffer of
// another size throws std::logic_error.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/routing.hpp"

namespace pipemoe::kernels {

// ---- Tokens to rows and back ----

struct RowShape {
  std::int64_t tokens = 0;
  std::int64_t top_k = 0;
  std::int64_t model_dim = 0;
};

struct Permute {
  std::span<const float> input;  ///< [tokens, model_dim]
  std::span<float> rows;         ///< out: [plan.rows(), model_dim]; unfilled slots are zero
};
/// Copies each token to the rows of its choices.
void permute(const RowShape& shape, const ChunkPlan& plan, const Permute& args);

struct PermuteBackward {
  std::span<const float> row_gradient;  ///< [plan.rows(), model_dim]
  std::span<float> input_gradient;      ///< out: [tokens, model_dim]
  bool accumulate = false;              ///< true: adds to input_gradient
};
/// Sums the rows of each token in the order of its choices.
void permute_backward(const RowShape& shape, const ChunkPlan& plan, const PermuteBackward& args);

struct Combine {
  std::span<const float> rows;             ///< [plan.rows(), model_dim], the experts' outputs
  std::span<const float> combine_weights;  ///< [tokens, top_k]
  std::span<float> output;                 ///< out: [tokens, model_dim]
};
/// Sums each token's rows times their weights in the order of its choices. A dropped choice adds
/// nothing.
void combine(const RowShape& shape, const ChunkPlan& plan, const Combine& args);

struct CombineBackward {
  std::span<const float> output_gradient;    ///< [tokens, model_dim]
  std::span<const float> rows;               ///< [forward.rows(), model_dim], experts' outputs
  std::span<const float> combine_weights;    ///< [tokens, top_k]
  std::span<float> row_gradient;             ///< out: [backward.rows(), model_dim]
  std::span<float> combine_weight_gradient;  ///< out: [tokens, top_k]; 0 for a dropped choice
};
/// Reads the experts' outputs in the forward plan's layout and writes their gradients in the
/// backward plan's layout. Requires that both plans come from one assignment.
void combine_backward(const RowShape& shape, const ChunkPlan& forward, const ChunkPlan& backward,
                      const CombineBackward& args);

// ---- Received order to packed order and back ----

/// Copies the rows of `expert` from received order to packed order, and does not touch other rows
/// of `packed`. Both buffers: [rows.rows(), width]. They may be one buffer if rows.is_packed(); the
/// function then does nothing.
void pack_expert(const ReceivedRows& rows, std::int64_t expert, std::int64_t width,
                 std::span<const float> received, std::span<float> packed);
/// The inverse of pack_expert.
void unpack_expert(const ReceivedRows& rows, std::int64_t expert, std::int64_t width,
                   std::span<const float> packed, std::span<float> received);

struct Regroup {
  std::int64_t width = 0;
  std::int64_t from_degree = 1;
  std::int64_t to_degree = 1;
  std::int64_t chunk = 0;       ///< in [0, to_degree)
  std::span<const float> from;  ///< [all.rows(), width]: from_degree chunks in order, each packed
  std::span<float> to;          ///< out: [all.chunk(to_degree, chunk).rows(), width], packed
};
/// Collects one chunk of `to_degree` chunks from all chunks of `from_degree`. The backward pass
/// uses it on what the forward pass saved if their degrees differ. `all`: the rows of all chunks.
void regroup(const ReceivedRows& all, const Regroup& args);

}  // namespace pipemoe::kernels
