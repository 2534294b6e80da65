// Schedules: named ways to turn a layer on a cluster into a task graph. Each has knobs, for whose
// values models/search.hpp looks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/cluster.hpp"
#include "models/layer.hpp"
#include "models/pipeline_model.hpp"
#include "models/task_graph.hpp"

namespace pipemoe {

/// A knob is a number that a schedule leaves open. It lists the values that the number may have for
/// a layer on a cluster.
struct Knob {
  std::string name;                  ///< "forward_degree"
  std::vector<std::int64_t> values;  ///< ascending, at least one
  std::optional<Pass> only = {};     ///< the one pass that it changes; absent: both
};

/// Values of knobs by name, in the order of the schedule's knobs.
using Choice = std::vector<std::pair<std::string, std::int64_t>>;
/// Throws InputError when the choice lacks it.
std::int64_t value_of(const Choice& choice, const std::string& knob);
std::string to_string(const Choice& choice);  ///< "forward_degree 2, backward_degree 4"

/// How many chunks the passes of a layer have.
struct Degrees {
  std::int64_t forward_degree = 1;
  std::int64_t backward_degree = 1;
  bool operator==(const Degrees&) const = default;
};
std::string to_string(Degrees degrees);         ///< "4", or "4/2": forward's / backward's
Degrees degrees_from(const std::string& text);  ///< throws InputError ("must be ...")
/// Those that a graph has.
Degrees degrees_of(const TaskGraph& graph);

/// Largest degree that a search tries unless told otherwise: Tutel's limit, beyond which the
/// authors' system cannot run.
inline constexpr std::int64_t kDefaultMaxDegree = 32;

struct Schedule {
  std::string name;
  std::string summary;  ///< one line for --help
  /// Whether the order of its tasks depends on what they cost, so that it needs a profile.
  bool needs_costs = false;
  /// Degrees are at most max_degree.
  std::vector<Knob> (*knobs)(const MoeLayer&, const Cluster&, std::int64_t max_degree) = nullptr;
  /// Throws InputError for a choice that the schedule cannot have. Call build_graph instead.
  TaskGraph (*build)(const MoeLayer&, const Cluster&, const Choice&) = nullptr;
  /// The costs of PipeMoE's closed form, where this schedule has it on this cluster; null: never.
  std::optional<PipelineCosts> (*closed_form)(const MoeLayer&, const Cluster&) = nullptr;
};

/// All schedules; the first one is the default.
const std::vector<Schedule>& all_schedules();
/// Throws InputError naming the known ones.
const Schedule& find_schedule(const std::string& name);

/// One iteration (forward, then backward) of `layer` on the cluster's ranks.
/// Throws InputError for a choice that the layer or the schedule cannot have, or experts that do
/// not divide over the ranks.
TaskGraph build_graph(const Schedule& schedule, const MoeLayer& layer, const Cluster& cluster,
                      const Choice& choice);

/// What degrees mean to a schedule's knobs. Throws InputError when it has no knob for a degree
/// above 1, or one degree for both passes and two are given.
Choice choice_of(const Schedule& schedule, const MoeLayer& layer, const Cluster& cluster,
                 Degrees degrees);
/// Both at once, by the schedule's name.
TaskGraph build_graph(const std::string& schedule, const MoeLayer& layer, const Cluster& cluster,
                      Degrees degrees);

}  // namespace pipemoe
