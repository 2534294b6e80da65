// What one rank computed in one iteration of an MoE layer.
#pragma once

#include <cstdint>
#include <vector>

namespace pipemoe::exec {

/// The gate's gradient is of this rank's tokens: training sums it over the ranks with the other
/// replicated weights'.
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

}  // namespace pipemoe::exec
