// Moves tokens to rows and back on a GPU, as kernels/permute.hpp does on the CPU. Each kernel also
// does the other work on the memory that it touches. Rows are a whole number of 16-byte units wide.
// Sums are in fp32, in the order of a token's choices. All functions are asynchronous on their
// stream, take device pointers, and throw DeviceError if a launch fails.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <limits>

#include "kernels/device_routing.hpp"

namespace pipemoe::cuda {

/// What all of these functions need to know about a layer.
struct DeviceRows {
  DeviceRouting routing;
  std::int64_t model_dim = 0;
  Element element = Element::Fp32;
  const std::int32_t* counts = nullptr;  ///< [num_experts], from count_choices
};

/// The rows of a RowMap, in one or two pieces of memory: rows below `own_begin` are in `rows`, the
/// others in `own`, counted from `own_begin`.
template <class Pointer>
struct RowsOf {
  Pointer rows = nullptr;  ///< [own_begin or all rows, model_dim]
  Pointer own = nullptr;   ///< [other rows, model_dim]
  std::int32_t own_begin = std::numeric_limits<std::int32_t>::max();
};
using RowsIn = RowsOf<const void*>;
using RowsOut = RowsOf<void*>;

struct DevicePermute {
  const void* input = nullptr;  ///< [tokens, model_dim]
  RowMap map;
  RowsOut rows;  ///< out; unfilled slots are zero
};
/// Copies each token to its rows. Reads each token once.
void permute(const DeviceRows& shape, const DevicePermute& args, cudaStream_t stream);

struct DeviceCombine {
  RowsIn rows;                             ///< the experts' outputs
  const float* combine_weights = nullptr;  ///< [tokens, top_k]
  RowMap map;
  void* output = nullptr;  ///< out: [tokens, model_dim]
};
/// Sums each token's rows times their weights.
void combine(const DeviceRows& shape, const DeviceCombine& args, cudaStream_t stream);

struct DeviceCombineBackward {
  const void* output_gradient = nullptr;   ///< [tokens, model_dim]
  RowsIn rows;                             ///< as combine() read them
  RowMap forward;                          ///< layout of `rows`
  RowMap backward;                         ///< layout of `row_gradient`
  const float* combine_weights = nullptr;  ///< [tokens, top_k]
  const float* probabilities = nullptr;    ///< [tokens, num_experts]
  const std::int32_t* experts = nullptr;   ///< [tokens, top_k]
  const float* load = nullptr;             ///< [num_experts]; null without an auxiliary loss
  float auxiliary_loss_gradient = 0;       ///< d(total loss) / d(auxiliary_loss())
  RowsOut row_gradient;                    ///< out; unfilled slots are zero
  void* logit_gradient = nullptr;          ///< out: [tokens, padded_experts]; padding is 0
  void* expert_weights = nullptr;          ///< out, or null: [tokens, padded_experts], the combine
                                           ///< weights of kept choices and 0 elsewhere
  std::int64_t padded_experts = 0;         ///< at least num_experts
  float* combine_weight_gradient = nullptr;  ///< out, or null: [tokens, top_k]
};
/// Computes the gradients of the rows, and of the gate's logits.
void combine_backward(const DeviceRows& shape, const DeviceCombineBackward& args,
                      cudaStream_t stream);

struct DevicePermuteBackward {
  RowsIn row_gradient;
  RowMap map;
  const void* gate_gradient = nullptr;  ///< [tokens, model_dim], added to the sum of the rows
  void* input_gradient = nullptr;       ///< out: [tokens, model_dim]
};
/// Sums each token's rows and the gate's gradient.
void permute_backward(const DeviceRows& shape, const DevicePermuteBackward& args,
                      cudaStream_t stream);

/// Rows that are contiguous before and after a move.
struct RowMove {
  std::int64_t from = 0;  ///< first row in the source
  std::int64_t to = 0;    ///< first row in the target
  std::int64_t rows = 0;
};
struct MoveRows {
  const RowMove* moves = nullptr;  ///< device: [count]
  std::int64_t count = 0;
  std::int64_t most_rows = 0;  ///< rows of the largest move
  std::int64_t row_bytes = 0;  ///< a multiple of kUnitBytes
  const void* from = nullptr;
  void* to = nullptr;  ///< out; must not overlap `from`
};
/// Copies rows as the moves say: packs, unpacks, or regroups.
void move_rows(const MoveRows& args, cudaStream_t stream);

}  // namespace pipemoe::cuda
