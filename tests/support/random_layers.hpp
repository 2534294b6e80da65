// Inputs that tests share: the shipped files, the study's grid, random layers.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "models/cluster.hpp"
#include "models/layer.hpp"

namespace pipemoe::test {

/// The authors' cluster of 16, 32 or 64 GPUs.
Cluster authors_cluster(int ranks);
/// experiments/layers/<name>.toml.
MoeLayer shipped_layer(const std::string& name);

/// B{2,4,8} x L{512,1024,2048} x M{1024..8192} x H{512..8192}, one fp32 expert a rank, top-2,
/// capacity 1: the 180 settings that the 174-layer study is drawn from (our reconstruction).
std::vector<MoeLayer> study_grid(int ranks);

/// A layer that divides over `ranks`, of any dtype, activation, capacity and dropless.
MoeLayer random_layer(std::mt19937_64& random, int ranks);

}  // namespace pipemoe::test
