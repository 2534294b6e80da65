// No pipelining: each step waits for the one before it, as in FastMoE and DeepSpeed-MoE.
#include <fmt/core.h>

#include "models/error.hpp"
#include "models/schedules/layer_tasks.hpp"
#include "models/schedules/schedules.hpp"

namespace pipemoe::schedules {

TaskGraph sequential(const MoeLayer& layer, const Cluster& cluster, Degrees degrees) {
  if (degrees != Degrees{1, 1}) {
    throw InputError(
        fmt::format("schedule sequential does not pipeline: degrees are {} and {}, "
                    "must be 1 and 1",
                    degrees.forward_degree, degrees.backward_degree));
  }
  const LayerTasks tasks(layer, cluster.num_ranks());
  const std::int64_t rows = layer.rows();
  TaskGraphBuilder builder("sequential", cluster.num_ranks());
  TaskId last = builder.append(tasks.gate(Phase::Forward));
  const auto then = [&](Task task) {
    const TaskId id = builder.append(std::move(task));
    builder.depend(last, id);
    last = id;
  };
  then(tasks.permute(Phase::Forward));
  then(tasks.all_to_all(Purpose::Dispatch, Phase::Forward, 0, rows));
  then(tasks.expert(Pass::Forward, 0, rows));
  then(tasks.all_to_all(Purpose::Combine, Phase::Forward, 0, rows));
  then(tasks.unpermute(Phase::Forward));

  then(tasks.unpermute(Phase::Backward));
  then(tasks.all_to_all(Purpose::Combine, Phase::Backward, 0, rows));
  then(tasks.expert(Pass::Backward, 0, rows));
  then(tasks.all_to_all(Purpose::Dispatch, Phase::Backward, 0, rows));
  then(tasks.permute(Phase::Backward));
  then(tasks.gate(Phase::Backward));
  return std::move(builder).build();
}

}  // namespace pipemoe::schedules
