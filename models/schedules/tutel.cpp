// Tutel (MLSys 2023): the two all-to-alls and the experts in r chunks of the capacity dimension on
// a compute and one communication stream, one degree for both phases; backward takes the chunks in
// reverse order, as autograd unrolls them. Tutel pads the capacity to a multiple of the degree;
// here a degree that does not divide it is refused, so that nothing is padded unseen.
#include <fmt/core.h>

#include "models/error.hpp"
#include "models/schedules/pipelined_phase.hpp"
#include "models/schedules/schedules.hpp"

namespace pipemoe::schedules {

TaskGraph tutel(const MoeLayer& layer, const Cluster& cluster, Degrees degrees) {
  if (degrees.forward_degree != degrees.backward_degree) {
    throw InputError(fmt::format("schedule tutel has one degree for both phases: {} and {} given",
                                 degrees.forward_degree, degrees.backward_degree));
  }
  const std::vector<std::int64_t> rows = layer.chunk_rows(degrees.forward_degree);
  if (layer.slots() % degrees.forward_degree != 0) {
    throw InputError(fmt::format("{}: schedule tutel needs a degree that divides the {} slots: {}",
                                 layer.name, layer.slots(), degrees.forward_degree));
  }
  const LayerTasks tasks(layer, cluster.num_ranks());
  TaskGraphBuilder builder("tutel", cluster.num_ranks());
  const TaskId output = append_forward(builder, tasks, {.rows = rows});
  append_backward(builder, tasks, {.rows = rows, .reversed = true}, output);
  return std::move(builder).build();
}

}  // namespace pipemoe::schedules
