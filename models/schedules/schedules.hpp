// The policies behind schedule(), one file each. Listed rather than self-registering: a linker
// drops objects of a static library that nothing names.
#pragma once

#include "models/cluster.hpp"
#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::schedules {

using Policy = TaskGraph (*)(const MoeLayer&, const Cluster&, Degrees);

TaskGraph sequential(const MoeLayer& layer, const Cluster& cluster, Degrees degrees);
TaskGraph fastermoe(const MoeLayer& layer, const Cluster& cluster, Degrees degrees);
TaskGraph tutel(const MoeLayer& layer, const Cluster& cluster, Degrees degrees);
TaskGraph pipemoe(const MoeLayer& layer, const Cluster& cluster, Degrees degrees);
TaskGraph pipemoe_deferred(const MoeLayer& layer, const Cluster& cluster, Degrees degrees);

}  // namespace pipemoe::schedules
