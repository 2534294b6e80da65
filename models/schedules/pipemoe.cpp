// PipeMoE (INFOCOM 2023): the all-to-alls and the experts between them run in chunks of equal size.
//   communication: D_1 .. D_r  C_1 .. C_r        D dispatch, C combine
//   compute:       gate permute E_1 .. E_r unpermute
// with D_i -> E_i -> C_i. Backward is the same with the roles reversed (the combine's gradient
// first), its own degree, and input and weight gradients of a chunk in one expert task.
#include <cstddef>
#include <vector>

#include "models/schedules/layer_tasks.hpp"
#include "models/schedules/schedules.hpp"

namespace pipemoe::schedules {
namespace {

// First all-to-all, expert, second all-to-all of every chunk; returns the last all-to-alls.
std::vector<TaskId> append_chunks(TaskGraphBuilder& builder, const LayerTasks& tasks,
                                  const std::vector<std::int64_t>& rows, Phase phase,
                                  TaskId input) {
  const bool forward = phase == Phase::Forward;
  const Purpose first = forward ? Purpose::Dispatch : Purpose::Combine;
  const Purpose second = forward ? Purpose::Combine : Purpose::Dispatch;
  const Pass pass = forward ? Pass::Forward : Pass::Backward;
  std::vector<TaskId> experts, outputs;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const int chunk = static_cast<int>(i);
    const TaskId exchange = builder.append(tasks.all_to_all(first, phase, chunk, rows[i]));
    experts.push_back(builder.append(tasks.expert(pass, chunk, rows[i])));
    builder.depend(input, exchange);
    builder.depend(exchange, experts.back());
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const int chunk = static_cast<int>(i);
    outputs.push_back(builder.append(tasks.all_to_all(second, phase, chunk, rows[i])));
    builder.depend(experts[i], outputs.back());
  }
  return outputs;
}

TaskId append_after(TaskGraphBuilder& builder, const std::vector<TaskId>& before, Task task) {
  const TaskId id = builder.append(std::move(task));
  for (const TaskId one : before) builder.depend(one, id);
  return id;
}

}  // namespace

TaskGraph pipemoe(const MoeLayer& layer, const Cluster& cluster, Degrees degrees) {
  const LayerTasks tasks(layer, cluster.num_ranks());
  TaskGraphBuilder builder("pipemoe", cluster.num_ranks());
  const TaskId gate = builder.append(tasks.gate(Phase::Forward));
  const TaskId permute = append_after(builder, {gate}, tasks.permute(Phase::Forward));
  const auto combined = append_chunks(builder, tasks, layer.chunk_rows(degrees.forward_degree),
                                      Phase::Forward, permute);
  const TaskId output = append_after(builder, combined, tasks.unpermute(Phase::Forward));

  const TaskId gradient = append_after(builder, {output}, tasks.unpermute(Phase::Backward));
  const auto returned = append_chunks(builder, tasks, layer.chunk_rows(degrees.backward_degree),
                                      Phase::Backward, gradient);
  const TaskId input = append_after(builder, returned, tasks.permute(Phase::Backward));
  append_after(builder, {input}, tasks.gate(Phase::Backward));
  return std::move(builder).build();
}

}  // namespace pipemoe::schedules
