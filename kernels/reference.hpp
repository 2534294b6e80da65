// The whole layer in float64, computed directly from the formulas: the tokens of all ranks in one
// process, without chunks or layouts. It shares no code with the kernels that it checks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/layer.hpp"

namespace pipemoe::kernels {

/// The parameters of all ranks, or their gradients. A bias is empty if the layer has none.
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
  double auxiliary_loss_weight = 0;  ///< factor of the sum of all ranks' losses
};

struct ReferenceForward {
  std::vector<double> output;           ///< [num_ranks * tokens_per_rank, model_dim]
  std::vector<double> combine_weights;  ///< [num_ranks * tokens_per_rank, top_k]
  double auxiliary_loss = 0;            ///< summed over the ranks, without its weight
};

struct ReferenceBackward {
  std::vector<double> input;       ///< [num_ranks * tokens_per_rank, model_dim]
  ReferenceParameters parameters;  ///< the gate's gradient is summed over the ranks
};

/// Returns the top_k most probable experts of each token, [num_ranks * tokens_per_rank, top_k]. Of
/// equal probabilities, the lower index wins. Writes to `gap`, unless it is null, the smallest
/// difference of two probabilities that decided a place.
std::vector<std::int32_t> reference_routing(const ReferenceLayer& layer,
                                            const ReferenceParameters& parameters,
                                            std::span<const double> input, double* gap = nullptr);

/// `input`: [num_ranks * tokens_per_rank, model_dim]. `experts`, as reference_routing returns them,
/// are the routing. Pass the routing of the kernels: a near tie that fp32 decides differently is
/// then not an error.
ReferenceForward reference_forward(const ReferenceLayer& layer,
                                   const ReferenceParameters& parameters,
                                   std::span<const double> input,
                                   std::span<const std::int32_t> experts);

/// Returns the gradients of sum(output * output_gradient) + auxiliary_loss_weight * auxiliary_loss.
/// The routing and the experts' load count as constants. `output_gradient` has the shape of
/// `input`.
ReferenceBackward reference_backward(const ReferenceLayer& layer,
                                     const ReferenceParameters& parameters,
                                     std::span<const double> input,
                                     std::span<const std::int32_t> experts,
                                     std::span<const double> output_gradient);

}  // namespace pipemoe::kernels
