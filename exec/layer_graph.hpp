// The task graphs that a layer's state can run.
#pragma once

#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

/// Degrees of a graph of one layer: how many chunks each phase has.
Degrees degrees_of(const TaskGraph& graph);

/// Throws InputError unless the graph is of one layer on so many ranks, and exchanges chunks of
/// this layer's slots between all ranks.
void check_graph(const MoeLayer& layer, const TaskGraph& graph, int num_ranks);

}  // namespace pipemoe::exec
