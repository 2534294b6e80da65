#include "tests/support/random_layers.hpp"

#include <algorithm>
#include <array>

#include "models/cluster_io.hpp"
#include "models/config.hpp"

namespace pipemoe::test {

Cluster shipped_cluster(const std::string& name) {
  return read_cluster(ConfigFile::load(
      std::string(PIPEMOE_SOURCE_DIR) + "/experiments/clusters/" + name + ".toml", "cluster"));
}

Cluster authors_cluster(int ranks) {
  return shipped_cluster("rtx2080ti-100gib-" + std::to_string(ranks));
}

MoeLayer shipped_layer(const std::string& name) {
  ConfigFile file = ConfigFile::load(
      std::string(PIPEMOE_SOURCE_DIR) + "/experiments/layers/" + name + ".toml", "layer");
  return read_layer(file);
}

std::vector<MoeLayer> study_grid(int ranks) {
  std::vector<MoeLayer> layers;
  for (const int batch : {2, 4, 8}) {
    for (const int length : {512, 1024, 2048}) {
      for (const int model_dim : {1024, 2048, 4096, 8192}) {
        for (const int hidden_dim : {512, 1024, 2048, 4096, 8192}) {
          layers.push_back({.tokens_per_rank = batch * length,
                            .model_dim = model_dim,
                            .hidden_dim = hidden_dim,
                            .num_experts = ranks,
                            .top_k = 2});
        }
      }
    }
  }
  return layers;
}

MoeLayer random_layer(std::mt19937_64& random, int ranks) {
  const auto draw = [&](std::int64_t from, std::int64_t to) {
    return std::uniform_int_distribution<std::int64_t>(from, to)(random);
  };
  const std::array dtypes{Dtype::Fp32, Dtype::Bf16, Dtype::Fp16};
  const std::array activations{Activation::Relu, Activation::Gelu, Activation::SwiGlu};
  MoeLayer layer{.tokens_per_rank = draw(64, 5000),
                 .model_dim = draw(1, 3000),
                 .hidden_dim = draw(1, 3000),
                 .num_experts = ranks * draw(1, 4),
                 .top_k = draw(1, 8)};
  layer.top_k = std::min(layer.top_k, layer.num_experts);
  layer.capacity_factor = 0.5 + static_cast<double>(draw(0, 30)) / 10;
  if (draw(0, 3) == 0) layer.capacity_factor.reset();
  layer.dtype = dtypes[static_cast<std::size_t>(draw(0, 2))];
  layer.activation = activations[static_cast<std::size_t>(draw(0, 2))];
  return layer;
}

MoeLayer random_fp32_layer(std::mt19937_64& random, int ranks) {
  MoeLayer layer = random_layer(random, ranks);
  layer.dtype = Dtype::Fp32;
  return layer;
}

Degrees random_degrees(std::mt19937_64& random, const MoeLayer& layer, std::int64_t most) {
  std::uniform_int_distribution<std::int64_t> degree(1, std::min(layer.slots(), most));
  const std::int64_t forward = degree(random);
  return {forward, degree(random)};
}

}  // namespace pipemoe::test
