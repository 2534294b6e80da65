// Cluster profiles of version 1, which `pipemoe import profile` converts.
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::cluster_version_1_target {

bool run(std::string_view text) {
  Cluster cluster;
  const bool accepted = accepts(
      [&] { cluster = read_version_1_cluster(ConfigFile::parse(text, "old.toml", "cluster")); });
  if (!accepted) return false;
  require_sane(cluster);
  require_round_trip(cluster);
  require_usable(cluster);
  return true;
}

// What a profile of version 1 has that one of version 2 has not.
constexpr const char* kConditions = R"(equal_degrees = true
degree_tolerance = 0.01
unequal_degrees_gain = 0.015
exchange_ctas = 24
)";
constexpr const char* kOverlap = R"([overlap]
compute_slowdown_bytes = [1000, 200000, 3e6]
compute_slowdown = [1.5, 3, 2]
communication_slowdown = 1.25
source = "s"
[[overlap.expert]]
experts_per_rank = 2
model_dim = 8
hidden_dim = 16
pass = "backward"
compute_slowdown = 2
communication_slowdown = 3
)";
constexpr const char* kFits = R"([fits.all_to_all_queued.16]
bytes = [1000, 200000, 3e6]
seconds = [1e-4, 2e-4, 1e-3]
source = "s"
[[fits.all_to_all_in_layers]]
experts_per_rank = 2
model_dim = 8
hidden_dim = 16
slowdown_bytes = [1000, 200000]
slowdown = [1.5, 1.25]
[[fits.expert]]
dtype = "fp32"
activation = "relu"
pass = "backward"
experts_per_rank = 4
model_dim = 3
hidden_dim = 5
alpha_s = 1
beta_s_per_flop = 2e-12
source = "measured"
)";

std::vector<std::string> seeds() {
  std::string text = shipped_toml("experiments/clusters/rtx2080ti-100gib-16.toml", 1);
  text.erase(0, text.find('\n') + 1);  // the schema
  return {text, kConditions + text + kOverlap + kFits, kConditions + text, text + kFits};
}

const Registration registration({"cluster_version_1", Syntax::Toml, run, seeds});

}  // namespace pipemoe::fuzz::cluster_version_1_target
