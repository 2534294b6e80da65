#include "kernels/shapes.hpp"

#include <catch2/catch.hpp>

#include "models/error.hpp"

using namespace pipemoe;
using namespace pipemoe::kernels;
using Catch::Matchers::Equals;

namespace {

MoeLayer layer() {
  return {.name = "small",
          .tokens_per_rank = 100,
          .model_dim = 8,
          .hidden_dim = 16,
          .num_experts = 4,
          .top_k = 2};
}

}  // namespace

TEST_CASE("shapes are those of the layer", "[kernels][shapes]") {
  CHECK(gate_shape(layer(), false) == GateShape{100, 8, 4, 2, false});
  CHECK(routing_shape(layer()) == RoutingShape{100, 4, 2, 50});
  CHECK(expert_shape(layer(), 2) == ExpertShape{2, 8, 16, Activation::Relu});
  MoeLayer dropless = layer();
  dropless.capacity_factor.reset();
  CHECK_FALSE(routing_shape(dropless).capacity.has_value());
  CHECK(ExpertShape{2, 8, 16, Activation::SwiGlu}.first_width() == 32);
}

TEST_CASE("other types than fp32 are refused, naming layer and type", "[kernels][shapes]") {
  MoeLayer half = layer();
  for (const Dtype dtype : {Dtype::Bf16, Dtype::Fp16}) {
    half.dtype = dtype;
    const std::string message =
        "small: dtype is " + to_string(dtype) + ", must be fp32 to be executed on CPUs";
    CHECK_THROWS_WITH(gate_shape(half), Equals(message));
    CHECK_THROWS_AS(routing_shape(half), InputError);
    CHECK_THROWS_AS(expert_shape(half, 2), InputError);
  }
}

TEST_CASE("experts that do not divide over the ranks are refused", "[kernels][shapes]") {
  CHECK_THROWS_AS(expert_shape(layer(), 3), InputError);
}
