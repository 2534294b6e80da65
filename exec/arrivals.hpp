// Which exchanges a computation must have seen arrive before it starts.
#pragma once

#include <vector>

#include "models/task_graph.hpp"

namespace pipemoe::exec {

/// For each task the exchanges that it has to wait for by itself. What exchanges of one stream
/// bring arrives in their order, so of those that a computation needs only the last of each stream
/// counts, and that only when no earlier task of the computation's stream has waited for it or for
/// a later one. Exchanges wait for none: they send what computations left.
std::vector<std::vector<TaskId>> arrivals(const TaskGraph& graph);

}  // namespace pipemoe::exec
