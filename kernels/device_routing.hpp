// The gate on a GPU: chooses the experts of each token and assigns a row to each choice, without
// the host. The order of rows is that of kernels/routing.hpp, whatever the number of threads. All
// functions are asynchronous on their stream, take device pointers, and throw DeviceError if a
// launch fails.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda.hpp"

namespace pipemoe::cuda {

inline constexpr std::int64_t kMostExperts = 512;
inline constexpr std::int64_t kMostChoices = 16;

/// The choices of one rank's tokens, and the room for them.
struct DeviceRouting {
  std::int64_t tokens = 0;
  std::int64_t num_experts = 0;  ///< at most kMostExperts
  std::int64_t top_k = 0;        ///< at most kMostChoices
  std::int64_t capacity = -1;    ///< rows for each expert; negative: dropless
  bool renormalize = true;       ///< as GateShape::renormalize

  bool dropless() const { return capacity < 0; }
  std::int64_t choices() const { return tokens * top_k; }
};

// ---- Scores and choices ----

/// Tokens in a tile. Choices are counted tile by tile; one block scores one tile.
inline constexpr std::int64_t kTileTokens = 64;
/// Number of ints in GateScores::tile_counts.
std::int64_t tile_counts_size(const DeviceRouting& routing);

/// Writes each fp32 weight as the sum of three bf16 parts. A bf16 matrix product with all three is
/// then exact to fp32.
struct SplitGateWeight {
  const float* weight = nullptr;  ///< [num_experts, model_dim]
  void* parts = nullptr;          ///< out, bf16: [3, padded_experts, model_dim]; padding is 0
  std::int64_t num_experts = 0;
  std::int64_t padded_experts = 0;
  std::int64_t model_dim = 0;
};
void split_gate_weight(const SplitGateWeight& args, cudaStream_t stream);

struct GateScores {
  const float* logits = nullptr;  ///< [tokens, parts * padded_experts]; the parts are summed
  std::int64_t parts = 1;         ///< 1, or 3 after split_gate_weight
  std::int64_t padded_experts = 0;
  float* probabilities = nullptr;       ///< out: [tokens, num_experts]
  std::int32_t* experts = nullptr;      ///< out: [tokens, top_k], most probable first
  float* combine_weights = nullptr;     ///< out: [tokens, top_k]
  std::int32_t* tile_counts = nullptr;  ///< out: number of choices per tile and expert
};
/// Computes softmax and top_k as gate_forward() in kernels/gate.hpp. Of equal probabilities, the
/// lower expert index wins.
void gate_scores(const DeviceRouting& routing, const GateScores& args, cudaStream_t stream);

struct CountChoices {
  std::int32_t* tile_counts = nullptr;  ///< in: counts per tile; out: counts of the tiles before
  std::int32_t* counts = nullptr;       ///< out: [num_experts], choices before any is dropped
  float* load = nullptr;                ///< out: [num_experts], counts / all choices
  std::int32_t* zeroed = nullptr;       ///< out: [zeroed_words], zeros for other kernels
  std::int64_t zeroed_words = 0;
};
void count_choices(const DeviceRouting& routing, const CountChoices& args, cudaStream_t stream);

// ---- Rows ----

/// The layout of rows. The slots of each expert are cut into blocks, one for each chunk, or one for
/// each segment if `bounds` is given. Without `bounds`, block_begin is ChunkPlan::block_begin:
/// [chunk][expert].
struct RowMap {
  std::int64_t degree = 1;               ///< number of blocks of an expert
  std::int32_t* block_begin = nullptr;   ///< [degree * num_experts]: first row of each block
  std::int32_t* row_of = nullptr;        ///< [tokens, top_k]: row of a choice, or -1 if dropped
  const std::int32_t* bounds = nullptr;  ///< null, or [degree + 1]: first slots, then the capacity
};

/// Writes block_begin for a dropless layer. With a capacity it depends only on the shape, and the
/// host writes it once. `counts`: [num_experts], from count_choices.
void place_blocks(const DeviceRouting& routing, const std::int32_t* counts, const RowMap& map,
                  cudaStream_t stream);

struct PlaceChoices {
  const std::int32_t* experts = nullptr;      ///< [tokens, top_k]
  const std::int32_t* tile_counts = nullptr;  ///< from count_choices
  const std::int32_t* counts = nullptr;       ///< [num_experts]
  RowMap forward;                             ///< row_of is written
  RowMap backward;                            ///< the same, unless its row_of is null
};
void place_choices(const DeviceRouting& routing, const PlaceChoices& args, cudaStream_t stream);

// ---- The loss ----

inline constexpr int kAuxiliaryParts = 256;
struct AuxiliaryLoss {
  const float* probabilities = nullptr;  ///< [tokens, num_experts]
  const float* load = nullptr;           ///< [num_experts]
  float* partial = nullptr;              ///< scratch: [kAuxiliaryParts]
  float* loss = nullptr;  ///< out: one value, as auxiliary_loss() in kernels/gate.hpp
};
void auxiliary_loss(const DeviceRouting& routing, const AuxiliaryLoss& args, cudaStream_t stream);

}  // namespace pipemoe::cuda
