// --set KEY=VALUE, one a line, applied to a layer and a cluster.
#include <sstream>

#include "experiments/inputs.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::settings_target {

bool run(std::string_view text) {
  program::InputOptions options;
  options.layer = PIPEMOE_SOURCE_DIR "/experiments/layers/cpu-example.toml";
  options.cluster = PIPEMOE_SOURCE_DIR "/experiments/clusters/rtx2080ti-100gib-16.toml";
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) options.sets.push_back(line);
  }
  program::Inputs inputs;
  if (!accepts([&] { inputs = program::read_inputs(options); })) return false;
  require_sane(inputs.layer);
  require_sane(inputs.cluster);
  require_round_trip(inputs.cluster);
  require_json(inputs.configuration, "the configuration");
  for (const NetworkLevel level : {NetworkLevel::Fitted, NetworkLevel::Links}) {
    for (const std::string& note : program::inert_overrides(inputs.cluster_overrides, level)) {
      require_printable(printable(note), "a note");
    }
  }
  accepts([&] {
    require_evaluates(build_graph("pipemoe", inputs.layer, inputs.cluster, Degrees{2, 2}),
                      inputs.cluster);
  });
  return true;
}

std::vector<std::string> seeds() {
  return {"layer.num_experts=16\n",
          "layer.model_dim=1024\nlayer.dtype=bf16\nlayer.capacity_factor=dropless\n",
          "layer.batch_size=4\nlayer.sequence_length=512\nlayer.num_experts=32\n",
          "cluster.network.nic_bytes_per_s=25e9\ncluster.gpu.efficiency=0.5\n",
          "layer.num_experts=16\ncluster.fits.all_to_all.16.alpha_s=0\n"
          "cluster.fits.gemm.fp32.beta_s_per_flop=1e-13\n",
          "cluster.conditions.equal_degrees=true\ncluster.nodes=2\ncluster.gpus_per_node=1\n",
          "cluster.not_modelled=[\"gate\", \"permutation\"]\nlayer.name=\"a name\"\n",
          "cluster.network.topology=fat_tree\ncluster.network.nodes_per_leaf=2\n"
          "cluster.network.oversubscription=2\n"};
}

const Registration registration({"settings", Syntax::Toml, run, seeds});

}  // namespace pipemoe::fuzz::settings_target
