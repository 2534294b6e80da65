// The numbers of an MoE layer: what it runs on, drawn from a seed, and what it computes.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/experts.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

struct DataOptions {
  std::uint64_t seed = 1;
  bool biases = true;
  /// If not 0, it is added to the first coordinate of expert 0's gate row, and the first coordinate
  /// of every token is 1. From about 2 on, most tokens choose expert 0.
  double skew = 0;
  double auxiliary_loss_weight = 0;  ///< weight of each rank's load-balancing loss
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

/// What one rank computed in one iteration. The gate's gradient is that of this rank's tokens;
/// training sums it over the ranks together with those of other replicated weights.
struct LayerResults {
  std::vector<std::int32_t> experts;  ///< [tokens, top_k]
  std::vector<float> output;          ///< [tokens, model_dim]
  std::vector<float> input_gradient;  ///< [tokens, model_dim]
  std::vector<float> gate_gradient;   ///< [num_experts, model_dim]
  std::vector<float> first_gradient;  ///< as LayerData::first, and so on
  std::vector<float> first_bias_gradient;
  std::vector<float> second_gradient;
  std::vector<float> second_bias_gradient;
  bool operator==(const LayerResults&) const = default;
};

/// Draws normal numbers. The whole layer's numbers do not depend on how many ranks share them. A
/// bf16 layer gets numbers that bf16 can hold, except for the gate's weight, which is always fp32.
/// Weights are scaled so that no step's output grows with the dimensions.
/// Requires num_experts % num_ranks == 0.
LayerData draw_data(const MoeLayer& layer, int num_ranks, int rank, const DataOptions& options);

}  // namespace pipemoe::exec
