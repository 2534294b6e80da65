// Inputs that tests share: the shipped files, the study's grid, random layers.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "models/cluster.hpp"
#include "models/layer.hpp"
#include "models/schedule.hpp"

namespace pipemoe::test {

/// experiments/clusters/<name>.toml.
Cluster shipped_cluster(const std::string& name);
/// The authors' cluster of 16, 32 or 64 GPUs.
Cluster authors_cluster(int ranks);
/// experiments/layers/<name>.toml.
MoeLayer shipped_layer(const std::string& name);

/// B{2,4,8} x L{512,1024,2048} x M{1024..8192} x H{512..8192}, one fp32 expert a rank, top-2,
/// capacity 1: the 180 settings that the 174-layer study is drawn from (our reconstruction).
std::vector<MoeLayer> study_grid(int ranks);

/// A layer that divides over `ranks`, of any dtype, activation, capacity and dropless.
MoeLayer random_layer(std::mt19937_64& random, int ranks);
/// In fp32, which is what the authors' clusters fit.
MoeLayer random_fp32_layer(std::mt19937_64& random, int ranks);

/// Degrees that the layer can have, up to `most`.
Degrees random_degrees(std::mt19937_64& random, const MoeLayer& layer, std::int64_t most);

}  // namespace pipemoe::test
