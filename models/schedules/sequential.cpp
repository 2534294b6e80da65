// No pipelining: each step waits for the one before it, as in FastMoE and DeepSpeed-MoE.
#include "models/schedules/layer_tasks.hpp"
#include "models/schedules/list.hpp"

namespace pipemoe::schedules {
namespace {

TaskGraph build_sequential(const MoeLayer& layer, const Cluster& cluster, const Choice&) {
  const LayerTasks tasks(layer, cluster.num_ranks());
  const std::int64_t rows = layer.rows();
  TaskGraphBuilder builder(sequential.name, cluster.num_ranks(), compute_and_communication());
  TaskId last = builder.append(tasks.gate(Pass::Forward));
  const auto then = [&](Task task) {
    const TaskId id = builder.append(std::move(task));
    builder.depend(last, id);
    last = id;
  };
  then(tasks.permute(Pass::Forward));
  then(tasks.all_to_all(Step::Dispatch, Pass::Forward, 0, rows));
  then(tasks.expert(ProductKind::Forward, 0, rows));
  then(tasks.all_to_all(Step::Combine, Pass::Forward, 0, rows));
  then(tasks.unpermute(Pass::Forward));

  then(tasks.unpermute(Pass::Backward));
  then(tasks.all_to_all(Step::Combine, Pass::Backward, 0, rows));
  then(tasks.expert(ProductKind::BothGradients, 0, rows));
  then(tasks.all_to_all(Step::Dispatch, Pass::Backward, 0, rows));
  then(tasks.permute(Pass::Backward));
  then(tasks.gate(Pass::Backward));
  return std::move(builder).build();
}

}  // namespace

const Schedule sequential{.name = "sequential",
                          .summary = "each step waits for the one before",
                          .knobs = no_knobs,
                          .build = build_sequential};

}  // namespace pipemoe::schedules
