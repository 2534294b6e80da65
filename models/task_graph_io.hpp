// Task graphs as text: JSON (round-trips), Graphviz DOT and GraphML.
#pragma once

#include <string>
#include <string_view>

#include "models/task_graph.hpp"

namespace pipemoe {

std::string to_json(const TaskGraph& graph);
/// Throws InputError, beginning with `origin`, for text that is not a valid graph: broken JSON,
/// unknown keys or steps, a cycle (its tasks named), ...
TaskGraph task_graph_from_json(std::string_view text, const std::string& origin);

/// Data dependencies solid, queue order dashed; the tasks of a queue are one group.
std::string to_dot(const TaskGraph& graph);
std::string to_graphml(const TaskGraph& graph);

}  // namespace pipemoe
