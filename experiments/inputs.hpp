// The layer and the cluster that every subcommand takes.
#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

#include "models/cluster.hpp"
#include "models/layer.hpp"

namespace pipemoe::program {

struct InputOptions {
  std::string layer;
  std::string cluster;
  std::vector<std::string> sets;  ///< "layer.model_dim=1024"
};

struct Inputs {
  MoeLayer layer;
  Cluster cluster;
  std::string configuration;  ///< both files as used, overrides included, as JSON
  /// What a result from fitted costs must say: that an overridden link does not change it.
  std::vector<std::string> fitted_notes;
};

/// Adds --layer, --cluster and --set.
void add_input_options(CLI::App& command, InputOptions& options);
/// The same for a command that runs on the machine it is on: a profile is not required.
void add_input_options_without_cluster(CLI::App& command, InputOptions& options);
/// --cluster alone, with --set cluster.*: for a command that takes a graph instead of a layer.
Inputs read_cluster_only(const InputOptions& options);
Inputs read_inputs(const InputOptions& options);
/// --layer alone, on a cluster of which nothing is known but its number of ranks.
Inputs read_layer_only(const InputOptions& options, int num_ranks);

}  // namespace pipemoe::program
