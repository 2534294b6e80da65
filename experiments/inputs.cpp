#include "experiments/inputs.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "models/cluster_io.hpp"
#include "models/error.hpp"
#include "models/links.hpp"
#ifdef PIPEMOE_WITH_SIM
#include "sim/simulate.hpp"
#endif

namespace pipemoe::program {
namespace {

struct Overrides {
  std::vector<Override> layer, cluster;
};

Overrides parse_sets(const std::vector<std::string>& sets) {
  Overrides overrides;
  for (const std::string& set : sets) {
    if (!is_printable(set)) {
      throw InputError(fmt::format("--set {}: must be UTF-8 without control characters", set));
    }
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

std::string joined(const std::string& layer_json, const std::string& cluster_json) {
  return nlohmann::ordered_json{{"layer", nlohmann::ordered_json::parse(layer_json)},
                                {"cluster", nlohmann::ordered_json::parse(cluster_json)}}
      .dump();
}

}  // namespace

std::vector<NamedFile> input_files(const InputOptions& options) {
  return {{"--layer", options.layer}, {"--cluster", options.cluster}};
}

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
  return {{}, read_cluster(cluster), joined("null", cluster.to_json()), overrides.cluster};
}

Inputs read_inputs(const InputOptions& options) {
  if (options.layer.empty()) throw InputError("--layer is required");
  const Overrides overrides = parse_sets(options.sets);
  ConfigFile layer_file = ConfigFile::load(options.layer, "layer", overrides.layer);
  const ConfigFile cluster_file = ConfigFile::load(options.cluster, "cluster", overrides.cluster);
  Inputs inputs{read_layer(layer_file), read_cluster(cluster_file), "", overrides.cluster};
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

std::vector<std::string> inert_overrides(const std::vector<Override>& cluster, NetworkLevel level) {
  std::vector<std::string> notes;
  if (level != NetworkLevel::Fitted) return notes;
  for (const Override& one : cluster) {
    if (one.key.starts_with("network.") || one.key == "gpu.link_bytes_per_s" ||
        one.key == "gpu.efficiency") {
      notes.push_back(fmt::format(
          "cluster.{} changes no fitted cost: --network links or node shows its effect", one.key));
    }
  }
  return notes;
}

std::string schedule_list() {
  std::vector<std::string> names;
  for (const Schedule& schedule : all_schedules()) names.push_back(schedule.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

void add_schedule_options(CLI::App& command, ScheduleOptions& options) {
  command.add_option("--schedule", options.schedule, schedule_list())->capture_default_str();
  command.add_option("--forward-degree", options.forward_degree,
                     "Chunks of the forward pass [searched for]");
  command.add_option("--backward-degree", options.backward_degree,
                     "Chunks of the backward pass [searched for]");
}

Scheduled make_schedule(const ScheduleOptions& options, const Inputs& inputs,
                        const Evaluator& evaluator) {
  const auto& [layer, cluster, configuration, overrides] = inputs;
  const Schedule& schedule = find_schedule(options.schedule);
  const std::vector<Knob> knobs = schedule.knobs(layer, cluster, 1);
  std::vector<std::string> notes;
  const auto& forward = options.forward_degree;
  const auto& backward = options.backward_degree;
  // One degree for both passes is given once it is given for one.
  const bool one_knob = knobs.size() == 1 && !knobs.front().only;
  const bool given = (forward && backward) || (one_knob && (forward || backward));
  Choice choice;
  if (given || knobs.empty()) {
    const Degrees degrees{forward ? *forward : backward.value_or(1),
                          backward ? *backward : forward.value_or(1)};
    choice = choice_of(schedule, layer, cluster, degrees);
  } else {
    const Plan plan =
        search(schedule, layer, cluster, preference_of(cluster.conditions), evaluator);
    choice = plan.choice;
    for (std::size_t i = 0; i < knobs.size(); ++i) {
      const bool is_forward = knobs[i].only == Pass::Forward;
      choice[i].second = (is_forward ? forward : backward).value_or(choice[i].second);
    }
    notes = plan.not_tried;
    notes.push_back(fmt::format("chosen at network level {}: {}", to_string(evaluator.level),
                                to_string(plan.choice)));
  }
  return {build_graph(schedule, layer, cluster, choice), std::move(notes)};
}

namespace {

double number(const Conditions& conditions, const std::string& key) {
  const auto found = conditions.find(key);
  if (found == conditions.end()) return 0;
  return std::visit(Overloaded{[](bool is) { return is ? 1.0 : 0.0; },
                               [](std::int64_t value) { return static_cast<double>(value); },
                               [](double value) { return value; },
                               [&](const std::string& words) -> double {
                                 throw InputError(fmt::format(
                                     "conditions.{} is {}, must be a number", key, words));
                               }},
                    found->second);
}

}  // namespace

Preference preference_of(const Conditions& conditions) {
  Preference preference;
  preference.equal_degrees = number(conditions, "equal_degrees") != 0;
  preference.tolerance = number(conditions, "degree_tolerance");
  preference.unequal_gain = number(conditions, "unequal_degrees_gain");
  return preference;
}

std::vector<std::string> notes_of(const Preference& preference) {
  std::vector<std::string> notes;
  if (preference.tolerance > 0) {
    notes.push_back(fmt::format(
        "the fewest chunks within {:g} % of the fastest are chosen: predictions of this profile do "
        "not tell less apart",
        100 * preference.tolerance));
  }
  if (preference.equal_degrees) {
    notes.push_back(
        "unequal degrees are left out: the executor would move rows between them, which no fit "
        "covers");
  } else if (preference.unequal_gain > 0) {
    notes.push_back(fmt::format(
        "unequal degrees are chosen only where they are more than {:g} % faster than equal ones: "
        "no fit covers what they cost",
        100 * preference.unequal_gain));
  }
  return notes;
}

std::int64_t condition(const Conditions& conditions, const std::string& key,
                       std::int64_t otherwise) {
  return conditions.contains(key) ? static_cast<std::int64_t>(number(conditions, key)) : otherwise;
}

namespace {

bool needs_simulator(NetworkLevel level) {
  return level == NetworkLevel::Node || level == NetworkLevel::Gpu;
}

#ifndef PIPEMOE_WITH_SIM
[[noreturn]] void refuse_simulator(NetworkLevel level) {
  throw InputError(
      fmt::format("network level {} is not in this build: configure with -DPIPEMOE_WITH_SIM=ON",
                  to_string(level)));
}
#endif

}  // namespace

#ifdef PIPEMOE_WITH_SIM
Evaluator evaluator_for(NetworkLevel level) {
  return needs_simulator(level) ? sim::simulator_at(level) : evaluator_at(level);
}
Evaluation evaluate_for(NetworkLevel level, const Costs& costs, const ProgressCallback& progress) {
  return needs_simulator(level) ? sim::simulate(costs, level, progress)
                                : evaluation_at(level, costs, progress);
}
#else
Evaluator evaluator_for(NetworkLevel level) {
  if (needs_simulator(level)) refuse_simulator(level);
  return evaluator_at(level);
}
Evaluation evaluate_for(NetworkLevel level, const Costs& costs, const ProgressCallback& progress) {
  if (needs_simulator(level)) refuse_simulator(level);
  return evaluation_at(level, costs, progress);
}
#endif

}  // namespace pipemoe::program
