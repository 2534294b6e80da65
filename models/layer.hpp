// One Mixture-of-Experts layer as a rank sees it, and what follows from its shape.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/work.hpp"

namespace pipemoe {

/// The most that files may ask for.
inline constexpr std::int64_t kMaxDim = std::int64_t{1} << 17;
inline constexpr std::int64_t kMaxExperts = std::int64_t{1} << 16;

/// Shapes per rank; every rank has the same. Memory layout and transfers are in rows: one row is
/// one token of one expert, `model_dim` wide.
struct MoeLayer {
  std::string name = "layer";
  std::int64_t tokens_per_rank = 0;
  std::int64_t model_dim = 0;
  std::int64_t hidden_dim = 0;
  std::int64_t num_experts = 0;  ///< on all ranks together
  std::int64_t top_k = 0;
  std::optional<double> capacity_factor = 1.0;  ///< absent: dropless
  Dtype dtype = Dtype::Fp32;
  Activation activation = Activation::Relu;

  /// Rows one rank may send to one expert: ceil(top_k * capacity_factor * tokens / experts),
  /// GShard's expert capacity. Requires a capacity factor.
  std::int64_t capacity() const;
  /// Rows a rank sends (and, with uniform routing, receives) in all. With a capacity this is
  /// num_experts * capacity; dropless, the top_k * tokens rows that routing makes.
  std::int64_t rows() const;
  /// Slots a pipeline degree splits: positions of the capacity, as Tutel and PipeMoE cut it, so
  /// that each chunk holds rows of every expert; single rows when dropless.
  std::int64_t slots() const;
  std::int64_t rows_per_slot() const { return rows() / slots(); }
  /// Rows of each of `pipeline_degree` chunks: as even as whole slots allow, larger ones first.
  /// Throws InputError when the degree is not in 1..slots().
  std::vector<std::int64_t> chunk_rows(std::int64_t pipeline_degree) const;

  Bytes row_bytes() const { return {model_dim * size_of(dtype)}; }
  Bytes all_to_all_bytes() const { return {rows() * row_bytes().count}; }  ///< a rank's input
  /// Shapes of an expert task's matrix products on one rank, without rows. SwiGLU's gate and up
  /// projections are one product of twice the width. Requires num_experts % num_ranks == 0.
  GemmShapes gemms(ProductKind kind, std::int64_t num_ranks) const;
  /// Requires num_experts % num_ranks == 0.
  ExpertSizes expert_sizes(std::int64_t num_ranks) const {
    return {num_experts / num_ranks, model_dim, hidden_dim};
  }
  /// Memory traffic of the activation function for one row; none for a weight gradient.
  Bytes activation_bytes_per_row(ProductKind kind) const;
  /// Memory traffic of packing a received row by expert and unpacking its result: both read and
  /// written. 0 for a weight gradient, which uses what is packed already, and where one rank or one
  /// expert a rank makes both orders the same.
  Bytes layout_bytes_per_row(ProductKind kind, std::int64_t num_ranks) const;
  /// The work of one expert task. Requires num_experts % num_ranks == 0.
  Products products(ProductKind kind, PerRank<std::int64_t> rows, std::int64_t num_ranks) const;
  /// Weights and gradients of the local experts plus the row buffers a training step keeps: eleven
  /// model_dim wide and five hidden_dim wide (seven for SwiGLU; activations saved for backward,
  /// their gradients and the layout copies around the experts). Optimizer state is not counted.
  Bytes memory_per_rank(std::int64_t num_ranks) const;

  bool operator==(const MoeLayer&) const = default;
};

/// Throws InputError unless the experts divide evenly over the ranks.
void check_fits_ranks(const MoeLayer& layer, std::int64_t num_ranks);

class ConfigFile;
/// Reads a layer file. Tokens are `tokens_per_rank`, or `batch_size` times `sequence_length`; an
/// override of one form replaces the other form in the file. `file` then holds what was used.
MoeLayer read_layer(ConfigFile& file);

}  // namespace pipemoe
