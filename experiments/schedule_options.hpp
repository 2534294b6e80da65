// --schedule and the two degrees.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "experiments/inputs.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::program {

struct ScheduleOptions {
  std::string schedule = "pipemoe";
  std::optional<std::int64_t> forward_degree;   ///< absent: the chosen one
  std::optional<std::int64_t> backward_degree;  ///< absent: the chosen one
};

void add_schedule_options(CLI::App& command, ScheduleOptions& options);

struct Scheduled {
  TaskGraph graph;
  std::vector<std::string> notes;  ///< degrees that were not tried when one was chosen, and why
};
/// Degrees that were not given are those that `plan` chooses (1 where the schedule has none).
Scheduled make_schedule(const ScheduleOptions& options, const Inputs& inputs);

}  // namespace pipemoe::program
