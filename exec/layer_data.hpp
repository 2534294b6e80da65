// The numbers that an MoE layer runs on: drawn from a seed, the same whatever the number of ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/expert_ffn.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

struct DataOptions {
  std::uint64_t seed = 1;
  bool biases = true;
  /// Added to the first coordinate of expert 0's gate row, and every token's first coordinate is 1:
  /// from about 2 on most tokens choose expert 0.
  double skew = 0;
  double auxiliary_loss_weight = 0;  ///< of each rank's load-balancing loss, in the gradients
  bool operator==(const DataOptions&) const = default;
};

/// One rank's tokens and experts, and the gate that all ranks share.
struct LayerData {
  std::vector<float> input;            ///< [tokens_per_rank, model_dim]
  std::vector<float> output_gradient;  ///< [tokens_per_rank, model_dim]
  std::vector<float> gate;             ///< [num_experts, model_dim]
  std::vector<float> first;            ///< [local_experts, model_dim, first width]
  std::vector<float> first_bias;       ///< [local_experts, first width] or empty
  std::vector<float> second;           ///< [local_experts, hidden_dim, model_dim]
  std::vector<float> second_bias;      ///< [local_experts, model_dim] or empty

  kernels::ExpertWeights weights() const { return {first, first_bias, second, second_bias}; }
};

/// Normal numbers, for a bf16 layer ones that bf16 has (the gate's weight is fp32 always); weights
/// are scaled so that no step's output grows with the dimensions.
/// Requires experts that divide over the ranks.
LayerData draw_data(const MoeLayer& layer, int num_ranks, int rank, const DataOptions& options);

}  // namespace pipemoe::exec
