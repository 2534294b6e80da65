// Layer files.
#include "models/config.hpp"
#include "models/schedule.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::layer_target {

bool run(std::string_view text) {
  MoeLayer layer;
  ConfigFile file;
  const bool accepted = accepts([&] {
    file = ConfigFile::parse(text, "layer.toml", "layer");
    layer = read_layer(file);
  });
  if (!accepted) return false;
  require_sane(layer);
  require_json(file.to_json(), "the layer as JSON");
  const Cluster cluster = cluster_of(4);
  accepts([&] {
    const TaskGraph graph = build_graph("pipemoe", layer, cluster, Degrees{2, 3});
    require_round_trip(graph);
    require_evaluates(graph, cluster);
  });
  return true;
}

std::vector<std::string> seeds() {
  std::vector<std::string> texts;
  for (const char* name : {"cpu-example", "dsv3", "mixtral", "pipemoe-example", "small"}) {
    texts.push_back(shipped_toml(fmt::format("experiments/layers/{}.toml", name), 1));
  }
  texts.push_back(
      "name = 'dropless'\nbatch_size = 4\nsequence_length = 512\nmodel_dim = 64\nhidden_dim = 128\n"
      "num_experts = 8\ntop_k = 2\ncapacity_factor = 'dropless'\ndtype = 'fp16'\n"
      "activation = 'swiglu'\n");
  return texts;
}

const Registration registration({"layer", Syntax::Toml, run, seeds});

}  // namespace pipemoe::fuzz::layer_target
