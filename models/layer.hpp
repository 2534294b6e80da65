// One Mixture-of-Experts layer as a rank sees it, and what follows from its shape.
#pragma once

#include <boost/container/static_vector.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "models/units.hpp"

namespace pipemoe {

enum class Dtype { Fp32, Bf16, Fp16 };
enum class Activation { Relu, Gelu, SwiGlu };

std::string to_string(Dtype dtype);
std::string to_string(Activation activation);
/// Throw InputError naming the allowed words.
Dtype dtype_from(const std::string& name);
Activation activation_from(const std::string& name);

constexpr std::int64_t size_of(Dtype dtype) { return dtype == Dtype::Fp32 ? 4 : 2; }

/// One matrix product over `groups` local experts: `rows` tokens in all groups together, each
/// multiplied with (or, for a weight gradient, reduced into) its group's [k, n] matrix.
struct GemmShape {
  std::int64_t groups = 0;
  std::int64_t rows = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;

  constexpr Flops flops() const {
    return Flops{2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k)};
  }
  constexpr bool operator==(const GemmShape&) const = default;
};
using GemmShapes = boost::container::static_vector<GemmShape, 4>;

/// What an expert computes in one task.
enum class Pass {
  Forward,
  Backward,        ///< input and weight gradient together
  InputGradient,   ///< what the next layer down waits for
  WeightGradient,  ///< what only the optimizer waits for
};

std::string to_string(Pass pass);
Pass pass_from(const std::string& name);  ///< throws InputError naming the passes

/// The same products of no rows: their shape whatever the number of rows.
GemmShapes without_rows(GemmShapes gemms);

/// The experts of one rank.
struct ExpertSizes {
  std::int64_t experts_per_rank = 0;
  std::int64_t model_dim = 0;
  std::int64_t hidden_dim = 0;
  bool operator==(const ExpertSizes&) const = default;
};
/// Those that MoeLayer::gemms made these products of.
ExpertSizes expert_sizes(Pass pass, const GemmShapes& gemms);

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
  /// Matrix products of `rows` expert rows on one rank. SwiGLU's gate and up projections are one
  /// product of twice the width. Requires num_experts % num_ranks == 0.
  GemmShapes gemms(Pass pass, std::int64_t rows, std::int64_t num_ranks) const;
  /// Requires num_experts % num_ranks == 0.
  ExpertSizes expert_sizes(std::int64_t num_ranks) const {
    return {num_experts / num_ranks, model_dim, hidden_dim};
  }
  /// Memory traffic of the activation function (both directions when `pass` is a backward one).
  Bytes activation_bytes(Pass pass, std::int64_t rows) const;
  /// Memory traffic of packing `rows` received rows by expert and unpacking the results: each row
  /// read and written twice. 0 for a weight gradient, which uses what is packed already, and where
  /// one rank or one expert a rank makes both orders the same.
  Bytes layout_bytes(Pass pass, std::int64_t rows, std::int64_t num_ranks) const;
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
