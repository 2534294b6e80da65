#include "exec/layer_graph.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "models/error.hpp"

namespace pipemoe::exec {

Degrees degrees_of(const TaskGraph& graph) {
  Degrees degrees;
  for (const Task& task : graph.tasks()) {
    auto& degree = task.phase == Phase::Forward ? degrees.forward_degree : degrees.backward_degree;
    degree = std::max(degree, std::int64_t{task.chunk} + 1);
  }
  return degrees;
}

void check_graph(const MoeLayer& layer, const TaskGraph& graph, int num_ranks) {
  if (graph.num_ranks() != num_ranks) {
    throw InputError(
        fmt::format("task graph is for {} ranks, {} were started", graph.num_ranks(), num_ranks));
  }
  const Degrees degrees = degrees_of(graph);
  for (const Task& task : graph.tasks()) {
    if (task.layer != 0) throw InputError("the executor runs one layer, the graph has several");
    const auto* exchange = std::get_if<AllToAll>(&task.operation);
    if (exchange == nullptr) continue;
    const auto degree =
        task.phase == Phase::Forward ? degrees.forward_degree : degrees.backward_degree;
    const auto rows = layer.chunk_rows(degree).at(static_cast<std::size_t>(task.chunk));
    if (exchange->traffic != TrafficMatrix::uniform({rows * layer.row_bytes().count})) {
      throw InputError(fmt::format(
          "schedule {}: {} does not exchange one slot chunk between all ranks; the executor runs "
          "schedules that do",
          graph.schedule(), task.name()));
    }
  }
}

}  // namespace pipemoe::exec
