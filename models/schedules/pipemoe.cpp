// PipeMoE (INFOCOM 2023): the all-to-alls and the experts between them run in chunks of equal size.
//   communication: D_1 .. D_r  C_1 .. C_r        D dispatch, C combine
//   compute:       gate permute E_1 .. E_r unpermute
// with D_i -> E_i -> C_i. Backward is the same with the roles reversed (the combine's gradient
// first), its own degree, and input and weight gradients of a chunk in one expert task.
#include "models/schedules/pipelined_phase.hpp"
#include "models/schedules/schedules.hpp"

namespace pipemoe::schedules {

TaskGraph pipemoe(const MoeLayer& layer, const Cluster& cluster, Degrees degrees) {
  const LayerTasks tasks(layer, cluster.num_ranks());
  TaskGraphBuilder builder("pipemoe", cluster.num_ranks());
  const TaskId output =
      append_forward(builder, tasks, {.rows = layer.chunk_rows(degrees.forward_degree)});
  append_backward(builder, tasks, {.rows = layer.chunk_rows(degrees.backward_degree)}, output);
  return std::move(builder).build();
}

}  // namespace pipemoe::schedules
