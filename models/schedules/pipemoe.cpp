// PipeMoE (INFOCOM 2023): the all-to-alls and the experts between them run in chunks of equal size.
//   communication: D_1 .. D_r  C_1 .. C_r        D dispatch, C combine
//   compute:       gate permute E_1 .. E_r unpermute
// with D_i -> E_i -> C_i. Backward is the same with the roles reversed (the combine's gradient
// first), its own degree, and input and weight gradients of a chunk in one expert task.
#include "models/costs.hpp"
#include "models/schedules/layer_tasks.hpp"
#include "models/schedules/list.hpp"

namespace pipemoe::schedules {
namespace {

TaskGraph build_pipemoe(const MoeLayer& layer, const Cluster& cluster, const Choice& choice) {
  const Degrees degrees = chosen_degrees(choice);
  const LayerTasks tasks(layer, cluster.num_ranks());
  TaskGraphBuilder builder(pipemoe.name, cluster.num_ranks(), compute_and_communication());
  const TaskId output =
      append_forward(builder, tasks, {.rows = layer.chunk_rows(degrees.forward_degree)});
  append_backward(builder, tasks, {.rows = layer.chunk_rows(degrees.backward_degree)}, output);
  return std::move(builder).build();
}

// Where the costs of all-to-alls and experts are alpha-beta, none a table, tasks do not slow each
// other, and no all-to-all starts up beside another.
std::optional<PipelineCosts> closed_form(const MoeLayer& layer, const Cluster& cluster) {
  if (cluster.contention) return std::nullopt;
  const LayerTasks tasks(layer, cluster.num_ranks());
  const CostModel cost(cluster);
  const auto cost_of = [&](const Task& task) { return cost(task.work); };
  PipelineCosts costs;
  for (const Pass pass : {Pass::Forward, Pass::Backward}) {
    const bool forward = pass == Pass::Forward;
    const TaskCost all_to_all = cost_of(tasks.all_to_all(Step::Dispatch, pass, 0, layer.rows()));
    const TaskCost expert = cost_of(
        tasks.expert(forward ? ProductKind::Forward : ProductKind::BothGradients, 0, layer.rows()));
    if (!all_to_all.is_line || !expert.is_line) return std::nullopt;
    if (all_to_all.queued_saving > Seconds{}) return std::nullopt;
    const Seconds fixed = cost_of(tasks.gate(pass)).total() + cost_of(tasks.permute(pass)).total() +
                          cost_of(tasks.unpermute(pass)).total();
    (forward ? costs.forward : costs.backward) = {fixed, all_to_all.startup, all_to_all.work,
                                                  expert.startup, expert.work};
  }
  return costs;
}

}  // namespace

const Schedule pipemoe{.name = "pipemoe",
                       .summary = "chunks of all-to-alls and experts overlap (PipeMoE)",
                       .knobs = both_degrees,
                       .build = build_pipemoe,
                       .closed_form = closed_form};

}  // namespace pipemoe::schedules
