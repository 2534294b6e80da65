// Tutel (MLSys 2023): the two all-to-alls and the experts in r chunks of the capacity dimension on
// a compute and one communication queue, one degree for both passes; backward takes the chunks in
// reverse order, as autograd unrolls them. Tutel pads the capacity to a multiple of the degree;
// here a degree that does not divide it is refused, so that nothing is padded unseen.
#include <fmt/core.h>

#include "models/error.hpp"
#include "models/schedules/layer_tasks.hpp"
#include "models/schedules/list.hpp"

namespace pipemoe::schedules {
namespace {

std::vector<Knob> knobs(const MoeLayer& layer, const Cluster&, std::int64_t max_degree) {
  std::vector<std::int64_t> divisors = degrees_up_to(layer, max_degree);
  std::erase_if(divisors, [&](std::int64_t degree) { return layer.slots() % degree != 0; });
  return {{.name = "degree", .values = divisors}};
}

TaskGraph build_tutel(const MoeLayer& layer, const Cluster& cluster, const Choice& choice) {
  const std::int64_t degree = chosen_degree(choice);
  const std::vector<std::int64_t> rows = layer.chunk_rows(degree);
  if (layer.slots() % degree != 0) {
    throw InputError(fmt::format("{}: schedule {} needs a degree that divides the {} slots: {}",
                                 layer.name, tutel.name, layer.slots(), degree));
  }
  const LayerTasks tasks(layer, cluster.num_ranks());
  TaskGraphBuilder builder(tutel.name, cluster.num_ranks(), compute_and_communication());
  const TaskId output = append_forward(builder, tasks, {.rows = rows});
  append_backward(builder, tasks, {.rows = rows, .reversed = true}, output);
  return std::move(builder).build();
}

}  // namespace

const Schedule tutel{.name = "tutel",
                     .summary = "one degree for both passes, chunks reversed backward (Tutel)",
                     .knobs = knobs,
                     .build = build_tutel};

}  // namespace pipemoe::schedules
