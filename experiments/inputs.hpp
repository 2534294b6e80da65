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
/// --cluster alone, with --set cluster.*: for a command that takes a graph instead of a layer.
Inputs read_cluster_only(const InputOptions& options);
Inputs read_inputs(const InputOptions& options);

}  // namespace pipemoe::program
