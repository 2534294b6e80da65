// The whole layer in float64, straight from the formulas: every rank's tokens in one process, no
// chunks, no layouts, no code in common with the kernels it is there to check.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/layer.hpp"

namespace pipemoe::kernels {

/// Also the shape of its gradients. An empty bias: there is none.
struct ReferenceParameters {
  std::vector<double> gate;         ///< [num_experts, model_dim]
  std::vector<double> first;        ///< [num_experts, model_dim, first width]
  std::vector<double> first_bias;   ///< [num_experts, first width]
  std::vector<double> second;       ///< [num_experts, hidden_dim, model_dim]
  std::vector<double> second_bias;  ///< [num_experts, model_dim]
};

struct ReferenceLayer {
  MoeLayer layer;
  std::int64_t num_ranks = 1;
  bool renormalize = true;
  double auxiliary_loss_weight = 0;  ///< of the sum of all ranks' losses
};

struct ReferenceForward {
  std::vector<double> output;           ///< [num_ranks * tokens_per_rank, model_dim]
  std::vector<double> combine_weights;  ///< [num_ranks * tokens_per_rank, top_k]
  double auxiliary_loss = 0;            ///< summed over the ranks, not weighted
};

struct ReferenceBackward {
  std::vector<double> input;       ///< [num_ranks * tokens_per_rank, model_dim]
  ReferenceParameters parameters;  ///< the gate's summed over the ranks
};

/// The top_k most probable experts of each token, [num_ranks * tokens_per_rank, top_k]; equal ones
/// by lower index. `gap` out, if given: the least difference of probabilities that decided a place.
std::vector<std::int32_t> reference_routing(const ReferenceLayer& layer,
                                            const ReferenceParameters& parameters,
                                            std::span<const double> input, double* gap = nullptr);

/// `input`: [num_ranks * tokens_per_rank, model_dim]. `experts` decides the routing, so that a near
/// tie that fp32 breaks otherwise does not count as an error.
ReferenceForward reference_forward(const ReferenceLayer& layer,
                                   const ReferenceParameters& parameters,
                                   std::span<const double> input,
                                   std::span<const std::int32_t> experts);

/// Gradients of sum(output * output_gradient) + auxiliary_loss_weight * auxiliary_loss, the routing
/// and the experts' load held constant.
ReferenceBackward reference_backward(const ReferenceLayer& layer,
                                     const ReferenceParameters& parameters,
                                     std::span<const double> input,
                                     std::span<const std::int32_t> experts,
                                     std::span<const double> output_gradient);

}  // namespace pipemoe::kernels
