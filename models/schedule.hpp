// Schedules: named policies that turn a layer, a cluster and degrees into a task graph.
#pragma once

#include <string>
#include <vector>

#include "models/cluster.hpp"
#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe {

/// One iteration (forward, then backward) of `layer` on the cluster's ranks.
/// Throws InputError for an unknown schedule, a degree that the layer or the schedule cannot have,
/// or experts that do not divide over the ranks.
TaskGraph schedule(const std::string& name, const MoeLayer& layer, const Cluster& cluster,
                   Degrees degrees);

/// Whether the schedule takes degrees other than 1. Throws InputError for an unknown schedule.
bool schedule_has_degrees(const std::string& name);

std::vector<std::string> schedule_names();

}  // namespace pipemoe
