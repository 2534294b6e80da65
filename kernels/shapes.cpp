#include "kernels/shapes.hpp"

#include <fmt/core.h>

#include "models/error.hpp"

namespace pipemoe::kernels {
namespace {

void check_dtype(const MoeLayer& layer) {
  if (layer.dtype == Dtype::Fp32) return;
  throw InputError(fmt::format("{}: dtype is {}, must be fp32 to be executed on CPUs", layer.name,
                               to_string(layer.dtype)));
}

}  // namespace

GateShape gate_shape(const MoeLayer& layer, bool renormalize) {
  check_dtype(layer);
  return {.tokens = layer.tokens_per_rank,
          .model_dim = layer.model_dim,
          .num_experts = layer.num_experts,
          .top_k = layer.top_k,
          .renormalize = renormalize};
}

RoutingShape routing_shape(const MoeLayer& layer) {
  check_dtype(layer);
  RoutingShape shape{
      .tokens = layer.tokens_per_rank, .num_experts = layer.num_experts, .top_k = layer.top_k};
  if (layer.capacity_factor) shape.capacity = layer.capacity();
  return shape;
}

ExpertShape expert_shape(const MoeLayer& layer, std::int64_t num_ranks) {
  check_dtype(layer);
  check_fits_ranks(layer, num_ranks);
  return {.local_experts = layer.num_experts / num_ranks,
          .model_dim = layer.model_dim,
          .hidden_dim = layer.hidden_dim,
          .activation = layer.activation};
}

}  // namespace pipemoe::kernels
