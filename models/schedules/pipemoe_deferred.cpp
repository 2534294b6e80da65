// PipeMoE with deferred weight gradients: backward, the second all-to-all of a chunk needs only its
// input gradient, so weight gradients are tasks of their own that fill the gaps which communication
// leaves on the compute queue, as the gate's gradients do. Their places depend on what the tasks
// cost on this cluster.
#include <cstddef>

#include "models/costs.hpp"
#include "models/schedules/deferred_order.hpp"
#include "models/schedules/layer_tasks.hpp"
#include "models/schedules/list.hpp"

namespace pipemoe::schedules {
namespace {

// Tasks of the backward chunks, by chunk.
struct ChunkTasks {
  std::vector<TaskId> arrivals, input_gradients, weight_gradients, returns;
};

ChunkTasks add_chunks(TaskGraphBuilder& builder, const LayerTasks& tasks,
                      const std::vector<std::int64_t>& rows, TaskId gradient) {
  constexpr Pass kBackward = Pass::Backward;
  ChunkTasks ids;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const int chunk = static_cast<int>(i);
    ids.arrivals.push_back(builder.add(tasks.all_to_all(Step::Combine, kBackward, chunk, rows[i])));
    ids.input_gradients.push_back(
        builder.add(tasks.expert(ProductKind::InputGradient, chunk, rows[i])));
    ids.weight_gradients.push_back(
        builder.add(tasks.expert(ProductKind::WeightGradient, chunk, rows[i])));
    ids.returns.push_back(builder.add(tasks.all_to_all(Step::Dispatch, kBackward, chunk, rows[i])));
    builder.depend(gradient, ids.arrivals[i]);
    builder.depend(ids.arrivals[i], ids.input_gradients[i]);
    builder.depend(ids.input_gradients[i], ids.weight_gradients[i]);
    builder.depend(ids.input_gradients[i], ids.returns[i]);
  }
  return ids;
}

std::vector<DeferredChunk> costs_of(const Cluster& cluster, const LayerTasks& tasks,
                                    const std::vector<std::int64_t>& rows) {
  const CostModel cost(cluster);
  const auto time = [&](const Task& task) { return cost(task.work).total(); };
  std::vector<DeferredChunk> chunks;
  for (const std::int64_t chunk_rows : rows) {
    chunks.push_back({time(tasks.all_to_all(Step::Combine, Pass::Backward, 0, chunk_rows)),
                      time(tasks.expert(ProductKind::InputGradient, 0, chunk_rows)),
                      time(tasks.expert(ProductKind::WeightGradient, 0, chunk_rows))});
  }
  return chunks;
}

TaskGraph build_pipemoe_deferred(const MoeLayer& layer, const Cluster& cluster,
                                 const Choice& choice) {
  const Degrees degrees = chosen_degrees(choice);
  const LayerTasks tasks(layer, cluster.num_ranks());
  TaskGraphBuilder builder(pipemoe_deferred.name, cluster.num_ranks(), compute_and_communication());
  const TaskId output =
      append_forward(builder, tasks, {.rows = layer.chunk_rows(degrees.forward_degree)});
  const TaskId gradient = append_after(builder, {output}, tasks.unpermute(Pass::Backward));

  const std::vector<std::int64_t> rows = layer.chunk_rows(degrees.backward_degree);
  const ChunkTasks ids = add_chunks(builder, tasks, rows, gradient);
  // The gate's gradients need nothing of the experts: they fill the wait for the first rows.
  const TaskId gate = append_after(builder, {gradient}, tasks.gate(Pass::Backward));
  for (const TaskId id : ids.arrivals) builder.enqueue(id);
  for (const TaskId id : ids.returns) builder.enqueue(id);
  for (const auto& step : deferred_order(costs_of(cluster, tasks, rows))) {
    builder.enqueue(
        (step.weight_gradient ? ids.weight_gradients : ids.input_gradients)[step.chunk]);
  }
  // Queued behind the weight gradients: it needs every chunk's return, they need nothing of it.
  const TaskId input = append_after(builder, ids.returns, tasks.permute(Pass::Backward));
  builder.depend(gate, input);
  return std::move(builder).build();
}

}  // namespace

const Schedule pipemoe_deferred{
    .name = "pipemoe-deferred",
    .summary = "the same, and weight gradients fill the gaps of the backward pass",
    .needs_costs = true,
    .knobs = both_degrees,
    .build = build_pipemoe_deferred};

}  // namespace pipemoe::schedules
