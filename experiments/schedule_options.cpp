#include "experiments/schedule_options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

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

Scheduled make_schedule(const ScheduleOptions& options, const Inputs& inputs) {
  Degrees degrees{1, 1};
  std::vector<std::string> notes;
  const bool chosen = !options.forward_degree || !options.backward_degree;
  if (chosen && schedule_has_degrees(options.schedule)) {
    const bool defers = options.schedule == "pipemoe-deferred";
    Plan plan = make_plan(inputs.layer, inputs.cluster, kDefaultMaxDegree,
                          defers ? options.schedule : "pipemoe");
    degrees = plan.degrees();
    notes = std::move(plan.not_tried);
  }
  degrees.forward_degree = options.forward_degree.value_or(degrees.forward_degree);
  degrees.backward_degree = options.backward_degree.value_or(degrees.backward_degree);
  return {schedule(options.schedule, inputs.layer, inputs.cluster, degrees), std::move(notes)};
}

}  // namespace pipemoe::program
