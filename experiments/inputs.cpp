#include "experiments/inputs.hpp"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"

namespace pipemoe::program {
namespace {

struct Overrides {
  std::vector<Override> layer, cluster;
};

Overrides parse_sets(const std::vector<std::string>& sets) {
  Overrides overrides;
  for (const std::string& set : sets) {
    const auto equals = set.find('=');
    const auto takes = [&](const std::string& prefix) {
      return equals != std::string::npos && equals > prefix.size() && set.starts_with(prefix);
    };
    const auto override_of = [&](const std::string& prefix) {
      return Override{set.substr(prefix.size(), equals - prefix.size()), set.substr(equals + 1)};
    };
    if (takes("layer.")) {
      overrides.layer.push_back(override_of("layer."));
    } else if (takes("cluster.")) {
      overrides.cluster.push_back(override_of("cluster."));
    } else {
      throw InputError(fmt::format("--set {}: must be layer.KEY=VALUE or cluster.KEY=VALUE", set));
    }
  }
  return overrides;
}

// Fitted costs hold whatever the links are: only the node and gpu levels know links.
std::vector<std::string> fitted_notes(const std::vector<Override>& cluster) {
  std::vector<std::string> notes;
  for (const Override& one : cluster) {
    if (one.key.starts_with("network.") || one.key == "gpu.link_bytes_per_s" ||
        one.key == "gpu.efficiency") {
      notes.push_back(
          fmt::format("cluster.{} changes no fitted cost; simulate --network node shows "
                      "its effect",
                      one.key));
    }
  }
  return notes;
}

std::string joined(const std::string& layer_json, const std::string& cluster_json) {
  return nlohmann::ordered_json{{"layer", nlohmann::ordered_json::parse(layer_json)},
                                {"cluster", nlohmann::ordered_json::parse(cluster_json)}}
      .dump();
}

}  // namespace

void add_input_options(CLI::App& command, InputOptions& options) {
  add_input_options_without_cluster(command, options);
  command.get_option("--cluster")->required();
}

void add_input_options_without_cluster(CLI::App& command, InputOptions& options) {
  command.add_option("--layer", options.layer, "Layer file (TOML)")->type_name("FILE");
  command.add_option("--cluster", options.cluster, "Cluster profile (TOML)")->type_name("FILE");
  command
      .add_option("--set", options.sets,
                  "Override one value, e.g. layer.model_dim=1024; may be repeated")
      ->type_name("KEY=VALUE")
      ->take_all();
}

Inputs read_cluster_only(const InputOptions& options) {
  const Overrides overrides = parse_sets(options.sets);
  if (!overrides.layer.empty()) {
    throw InputError(fmt::format("--set layer.{}: there is no layer file to change",
                                 overrides.layer.front().key));
  }
  const ConfigFile cluster = ConfigFile::load(options.cluster, "cluster", overrides.cluster);
  return {{},
          read_cluster(cluster),
          joined("null", cluster.to_json()),
          fitted_notes(overrides.cluster)};
}

Inputs read_inputs(const InputOptions& options) {
  if (options.layer.empty()) throw InputError("--layer is required");
  const Overrides overrides = parse_sets(options.sets);
  ConfigFile layer_file = ConfigFile::load(options.layer, "layer", overrides.layer);
  const ConfigFile cluster_file = ConfigFile::load(options.cluster, "cluster", overrides.cluster);
  Inputs inputs{read_layer(layer_file), read_cluster(cluster_file), "",
                fitted_notes(overrides.cluster)};
  inputs.configuration = joined(layer_file.to_json(), cluster_file.to_json());
  return inputs;
}

Inputs read_layer_only(const InputOptions& options, int num_ranks) {
  if (options.layer.empty()) throw InputError("--layer is required");
  const Overrides overrides = parse_sets(options.sets);
  if (!overrides.cluster.empty()) {
    throw InputError(fmt::format("--set cluster.{}: there is no cluster profile to change",
                                 overrides.cluster.front().key));
  }
  ConfigFile layer_file = ConfigFile::load(options.layer, "layer", overrides.layer);
  Inputs inputs{read_layer(layer_file)};
  inputs.cluster.name = "the ranks that were started";
  inputs.cluster.nodes = 1;
  inputs.cluster.gpus_per_node = num_ranks;
  inputs.configuration = joined(layer_file.to_json(), "null");
  return inputs;
}

}  // namespace pipemoe::program
