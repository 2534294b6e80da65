// What the kernels need to know of a layer.
#pragma once

#include <cstdint>
#include <optional>

#include "models/layer.hpp"

namespace pipemoe::kernels {

/// The gate of one rank.
struct GateShape {
  std::int64_t tokens = 0;
  std::int64_t model_dim = 0;
  std::int64_t num_experts = 0;
  std::int64_t top_k = 0;
  bool renormalize = true;  ///< combine weights of a token sum to 1, as Tutel's do

  std::int64_t choices() const { return tokens * top_k; }
  bool operator==(const GateShape&) const = default;
};

/// The choices of one rank's tokens and the room for them.
struct RoutingShape {
  std::int64_t tokens = 0;
  std::int64_t num_experts = 0;
  std::int64_t top_k = 0;
  std::optional<std::int64_t> capacity;  ///< rows for each expert; absent: dropless

  std::int64_t choices() const { return tokens * top_k; }
  bool operator==(const RoutingShape&) const = default;
};

/// The experts of one rank.
struct ExpertShape {
  std::int64_t local_experts = 0;
  std::int64_t model_dim = 0;
  std::int64_t hidden_dim = 0;
  Activation activation = Activation::Relu;

  /// Columns of the first product: SwiGLU's gate, then its up projection, in one.
  std::int64_t first_width() const {
    return activation == Activation::SwiGlu ? 2 * hidden_dim : hidden_dim;
  }
  bool operator==(const ExpertShape&) const = default;
};

/// Each throws InputError unless the layer's dtype is fp32, the only one these kernels compute in.
GateShape gate_shape(const MoeLayer& layer, bool renormalize = true);
RoutingShape routing_shape(const MoeLayer& layer);
/// Throws InputError unless the experts divide evenly over the ranks.
ExpertShape expert_shape(const MoeLayer& layer, std::int64_t num_ranks);

}  // namespace pipemoe::kernels
