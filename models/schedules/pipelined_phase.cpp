#include "models/schedules/pipelined_phase.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

namespace pipemoe::schedules {
namespace {

std::vector<int> chunk_order(const Chunks& chunks) {
  std::vector<int> order(chunks.rows.size());
  std::iota(order.begin(), order.end(), 0);
  if (chunks.reversed) std::reverse(order.begin(), order.end());
  return order;
}

Task exchange(const LayerTasks& tasks, const Chunks& chunks, Phase phase, Direction direction,
              int chunk) {
  // Backward, rows that go to the experts are the combine's gradient.
  const bool dispatches = (phase == Phase::Forward) == (direction == Direction::ToExperts);
  const Purpose purpose = dispatches ? Purpose::Dispatch : Purpose::Combine;
  if (chunks.traffic)
    return tasks.all_to_all(purpose, phase, chunk, chunks.traffic(direction, chunk));
  return tasks.all_to_all(purpose, phase, chunk, chunks.rows[static_cast<std::size_t>(chunk)]);
}

// Returns the exchanges back.
std::vector<TaskId> append_chunks(TaskGraphBuilder& builder, const LayerTasks& tasks,
                                  const Chunks& chunks, Phase phase, TaskId input) {
  const Pass pass = phase == Phase::Forward ? Pass::Forward : Pass::Backward;
  const std::vector<int> order = chunk_order(chunks);
  std::vector<TaskId> experts, outputs;
  for (const int chunk : order) {
    const TaskId arrival =
        builder.append(exchange(tasks, chunks, phase, Direction::ToExperts, chunk));
    const std::int64_t rows = chunks.rows[static_cast<std::size_t>(chunk)];
    builder.depend(input, arrival);
    experts.push_back(append_after(builder, {arrival}, tasks.expert(pass, chunk, rows)));
  }
  for (std::size_t i = 0; i < order.size(); ++i) {
    outputs.push_back(append_after(builder, {experts[i]},
                                   exchange(tasks, chunks, phase, Direction::Back, order[i])));
  }
  return outputs;
}

}  // namespace

TaskId append_after(TaskGraphBuilder& builder, const std::vector<TaskId>& before, Task task) {
  const TaskId id = builder.append(std::move(task));
  for (const TaskId one : before) builder.depend(one, id);
  return id;
}

TaskId append_forward(TaskGraphBuilder& builder, const LayerTasks& tasks, const Chunks& chunks) {
  const TaskId gate = builder.append(tasks.gate(Phase::Forward));
  const TaskId permute = append_after(builder, {gate}, tasks.permute(Phase::Forward));
  const auto combined = append_chunks(builder, tasks, chunks, Phase::Forward, permute);
  return append_after(builder, combined, tasks.unpermute(Phase::Forward));
}

void append_backward(TaskGraphBuilder& builder, const LayerTasks& tasks, const Chunks& chunks,
                     TaskId output) {
  const TaskId gradient = append_after(builder, {output}, tasks.unpermute(Phase::Backward));
  const auto returned = append_chunks(builder, tasks, chunks, Phase::Backward, gradient);
  const TaskId input = append_after(builder, returned, tasks.permute(Phase::Backward));
  append_after(builder, {input}, tasks.gate(Phase::Backward));
}

}  // namespace pipemoe::schedules
