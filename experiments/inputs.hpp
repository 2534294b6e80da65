// What most subcommands take: a layer, a cluster, and how the layer is scheduled on it.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/cluster.hpp"
#include "models/config.hpp"
#include "models/files.hpp"
#include "models/layer.hpp"
#include "models/search.hpp"

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
  std::vector<Override> cluster_overrides;
};

/// The files that the options name.
std::vector<NamedFile> input_files(const InputOptions& options);

/// Adds --layer, --cluster and --set.
void add_input_options(CLI::App& command, InputOptions& options);
/// The same for a command that runs on the machine it is on: a profile is not required.
void add_input_options_without_cluster(CLI::App& command, InputOptions& options);
/// --cluster alone, with --set cluster.*: for a command that takes a graph instead of a layer.
Inputs read_cluster_only(const InputOptions& options);
Inputs read_inputs(const InputOptions& options);
/// --layer alone, on a cluster of which nothing is known but its number of ranks.
Inputs read_layer_only(const InputOptions& options, int num_ranks);

/// What a result at this level must say of overridden links: fitted costs do not know them.
std::vector<std::string> inert_overrides(const std::vector<Override>& cluster, NetworkLevel level);

// ---- schedules ----

struct ScheduleOptions {
  std::string schedule = all_schedules().front().name;
  std::optional<std::int64_t> forward_degree;   ///< absent: the chosen one
  std::optional<std::int64_t> backward_degree;  ///< absent: the chosen one
};
void add_schedule_options(CLI::App& command, ScheduleOptions& options);
/// "pipemoe, tutel, ..." for --help.
std::string schedule_list();

struct Scheduled {
  TaskGraph graph;
  std::vector<std::string> notes;  ///< how degrees were chosen and which were not tried, and why
};
/// Degrees that were not given are searched for with the evaluator.
Scheduled make_schedule(const ScheduleOptions& options, const Inputs& inputs,
                        const Evaluator& evaluator);

// ---- choices ----

/// How a choice is made on a machine with these conditions: `equal_degrees`, `degree_tolerance` and
/// `unequal_degrees_gain`, which calibrations write of what their executor can tell apart.
Preference preference_of(const Conditions& conditions);
/// What a reader of a choice must know of the preference, one line each.
std::vector<std::string> notes_of(const Preference& preference);
/// A whole number among the conditions; `otherwise` where there is none.
std::int64_t condition(const Conditions& conditions, const std::string& key,
                       std::int64_t otherwise);

/// Evaluates at any level that this build has. Throws InputError naming the CMake option otherwise.
Evaluator evaluator_for(NetworkLevel level);
Evaluation evaluate_for(NetworkLevel level, const Costs& costs, const ProgressCallback& progress);
inline constexpr const char* kLevelsHelp =
    "fitted (collectives take their fitted time), links (flows on links), node (the same, "
    "simulated) or gpu (every pair of GPUs, simulated)";

}  // namespace pipemoe::program
