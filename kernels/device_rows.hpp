// Tokens to rows and back on the device: kernels/permute.hpp, with what goes over the same memory
// done on the way. Widths are whole 16-byte units. Sums are in fp32, in order of a token's choices.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <limits>

#include "kernels/device_routing.hpp"
#include "kernels/device_types.hpp"

namespace pipemoe::cuda {

/// What all of these need to know of a layer; pointers as device_routing.hpp gives them.
struct DeviceRows {
  DeviceRouting routing;
  std::int64_t model_dim = 0;
  Element element = Element::Fp32;
  const std::int32_t* counts = nullptr;  ///< [num_experts]
};

/// Rows of a map in one piece of memory or in two: from row `own_begin` on they are the rows of
/// `own`, counted from there.
template <class Pointer>
struct RowsOf {
  Pointer rows = nullptr;  ///< [rows, model_dim]
  Pointer own = nullptr;
  std::int32_t own_begin = std::numeric_limits<std::int32_t>::max();
};
using RowsIn = RowsOf<const void*>;
using RowsOut = RowsOf<void*>;

struct DevicePermute {
  const void* input = nullptr;  ///< [tokens, model_dim]
  RowMap map;
  RowsOut rows;  ///< out; unfilled slots are zero
};
/// Reads each token once.
void permute(const DeviceRows& shape, const DevicePermute& args, cudaStream_t stream);

struct DeviceCombine {
  RowsIn rows;
  const float* combine_weights = nullptr;  ///< [tokens, top_k]
  RowMap map;
  void* output = nullptr;  ///< out: [tokens, model_dim]
};
void combine(const DeviceRows& shape, const DeviceCombine& args, cudaStream_t stream);

/// With the part of the gate's backward that is a token's own.
struct DeviceCombineBackward {
  const void* output_gradient = nullptr;  ///< [tokens, model_dim]
  RowsIn rows;                            ///< as combine read them
  RowMap forward;                         ///< of `rows`
  RowMap backward;                        ///< of `row_gradient`
  const float* combine_weights = nullptr;
  const float* probabilities = nullptr;   ///< [tokens, num_experts]
  const std::int32_t* experts = nullptr;  ///< [tokens, top_k]
  const float* load = nullptr;            ///< [num_experts]; read if the loss has a gradient
  float auxiliary_loss_gradient = 0;      ///< of the whole loss by auxiliary_loss()
  RowsOut row_gradient;                   ///< out; unfilled slots are zero
  void* logit_gradient = nullptr;         ///< out: [tokens, padded_experts]; padding is 0
  void* expert_weights = nullptr;         ///< out, may be null: [tokens, padded_experts], the
                                          ///< combine weights of kept choices, 0 elsewhere
  std::int64_t padded_experts = 0;
  float* combine_weight_gradient = nullptr;  ///< out, may be null: [tokens, top_k]
};
void combine_backward(const DeviceRows& shape, const DeviceCombineBackward& args,
                      cudaStream_t stream);

struct DevicePermuteBackward {
  RowsIn row_gradient;
  RowMap map;
  const void* gate_gradient = nullptr;  ///< [tokens, model_dim], added
  void* input_gradient = nullptr;       ///< out: [tokens, model_dim]
};
void permute_backward(const DeviceRows& shape, const DevicePermuteBackward& args,
                      cudaStream_t stream);

/// Rows that lie together on both sides.
struct RowMove {
  std::int64_t from = 0;  ///< first row
  std::int64_t to = 0;
  std::int64_t rows = 0;
};
struct MoveRows {
  const RowMove* moves = nullptr;  ///< device: [count]
  std::int64_t count = 0;
  std::int64_t most_rows = 0;  ///< of one move
  std::int64_t row_bytes = 0;  ///< whole units
  const void* from = nullptr;
  void* to = nullptr;  ///< out: overlaps nothing of `from`
};
/// Packs, unpacks and regroups: what the moves say.
void move_rows(const MoveRows& args, cudaStream_t stream);

}  // namespace pipemoe::cuda
