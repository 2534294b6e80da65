// The gate's choices and each choice's row, on the device and without the host's help. The same
// order of rows as kernels/routing.hpp: bit for bit, whatever the number of threads.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/device_types.hpp"

namespace pipemoe::cuda {

/// What the gate chooses from and how much room there is.
struct DeviceRouting {
  std::int64_t tokens = 0;
  std::int64_t num_experts = 0;  ///< at most kMostExperts
  std::int64_t top_k = 0;        ///< at most kMostChoices
  std::int64_t capacity = -1;    ///< rows of each expert; below 0: dropless
  bool renormalize = true;

  bool dropless() const { return capacity < 0; }
  std::int64_t choices() const { return tokens * top_k; }
};
inline constexpr std::int64_t kMostExperts = 512;
inline constexpr std::int64_t kMostChoices = 16;

/// Tokens that one block ranks; counts are kept by such tiles.
inline constexpr std::int64_t kTileTokens = 64;
/// Ints of GateScores::tile_counts.
std::int64_t tile_counts_size(const DeviceRouting& routing);

/// A bf16 gate product that is exact to fp32: the weights as the sum of three bf16 parts.
struct SplitGateWeight {
  const float* weight = nullptr;  ///< [num_experts, model_dim]
  void* parts = nullptr;          ///< out, bf16: [3, padded_experts, model_dim]; padding is 0
  std::int64_t num_experts = 0;
  std::int64_t padded_experts = 0;
  std::int64_t model_dim = 0;
};
void split_gate_weight(const SplitGateWeight& args, cudaStream_t stream);

struct GateScores {
  const float* logits = nullptr;  ///< [tokens, parts * padded_experts]: summed over the parts
  std::int64_t parts = 1;         ///< 1, or 3 of split_gate_weight
  std::int64_t padded_experts = 0;
  float* probabilities = nullptr;       ///< out: [tokens, num_experts]
  std::int32_t* experts = nullptr;      ///< out: [tokens, top_k], by falling probability
  float* combine_weights = nullptr;     ///< out: [tokens, top_k]
  std::int32_t* tile_counts = nullptr;  ///< out: how many of a tile's choices each expert got
};
/// Softmax and top_k of kernels/gate.hpp; equal probabilities by lower index.
void gate_scores(const DeviceRouting& routing, const GateScores& args, cudaStream_t stream);

struct CountChoices {
  std::int32_t* tile_counts = nullptr;  ///< in and out: then what lies before each tile
  std::int32_t* counts = nullptr;       ///< out: [num_experts], choices before any is dropped
  float* load = nullptr;                ///< out: [num_experts], counts over all choices
  std::int32_t* zeroed = nullptr;       ///< out: [zeroed_words], zeros that others need
  std::int64_t zeroed_words = 0;
};
void count_choices(const DeviceRouting& routing, const CountChoices& args, cudaStream_t stream);

/// Where rows lie: the slots of each expert in blocks. Without `bounds` as ChunkPlan cuts and
/// orders them, [chunk][expert][slot], with degree 1 [expert][slot].
struct RowMap {
  std::int64_t degree = 1;               ///< blocks of an expert
  std::int32_t* block_begin = nullptr;   ///< [degree * num_experts]
  std::int32_t* row_of = nullptr;        ///< [tokens, top_k]: row of a choice, or -1: dropped
  const std::int32_t* bounds = nullptr;  ///< [degree + 1], may be null: first slots, the capacity
};

/// Writes block_begin of a dropless layer. With a capacity it follows from the shape: the host
/// writes it once.
void place_blocks(const DeviceRouting& routing, const std::int32_t* counts, const RowMap& map,
                  cudaStream_t stream);

struct PlaceChoices {
  const std::int32_t* experts = nullptr;      ///< [tokens, top_k]
  const std::int32_t* tile_counts = nullptr;  ///< of count_choices
  const std::int32_t* counts = nullptr;       ///< [num_experts]
  RowMap forward;                             ///< row_of is out
  RowMap backward;                            ///< the same; row_of null: not wanted
};
void place_choices(const DeviceRouting& routing, const PlaceChoices& args, cudaStream_t stream);

struct AuxiliaryLoss {
  const float* probabilities = nullptr;  ///< [tokens, num_experts]
  const float* load = nullptr;           ///< [num_experts]
  float* partial = nullptr;              ///< scratch: [kAuxiliaryParts]
  float* loss = nullptr;                 ///< out: one value, as kernels/gate.hpp's auxiliary_loss
};
inline constexpr int kAuxiliaryParts = 256;
void auxiliary_loss(const DeviceRouting& routing, const AuxiliaryLoss& args, cudaStream_t stream);

}  // namespace pipemoe::cuda
