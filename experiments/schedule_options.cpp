#include "experiments/schedule_options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "models/plan.hpp"
#include "models/schedule.hpp"

namespace pipemoe::program {

void add_schedule_options(CLI::App& command, ScheduleOptions& options) {
  command
      .add_option("--schedule", options.schedule,
                  fmt::format("{}", fmt::join(schedule_names(), ", ")))
      ->capture_default_str();
  command.add_option("--forward-degree", options.forward_degree,
                     "Chunks of the forward pass [chosen as plan does]");
  command.add_option("--backward-degree", options.backward_degree,
                     "Chunks of the backward pass [chosen as plan does]");
}

TaskGraph make_schedule(const ScheduleOptions& options, const Inputs& inputs) {
  Degrees degrees{1, 1};
  const bool chosen = !options.forward_degree || !options.backward_degree;
  if (chosen && schedule_has_degrees(options.schedule)) {
    const bool defers = options.schedule == "pipemoe-deferred";
    degrees = make_plan(inputs.layer, inputs.cluster, kDefaultMaxDegree,
                        defers ? options.schedule : "pipemoe")
                  .degrees();
  }
  degrees.forward_degree = options.forward_degree.value_or(degrees.forward_degree);
  degrees.backward_degree = options.backward_degree.value_or(degrees.backward_degree);
  return schedule(options.schedule, inputs.layer, inputs.cluster, degrees);
}

}  // namespace pipemoe::program
