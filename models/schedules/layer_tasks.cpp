#include "models/schedules/layer_tasks.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

namespace pipemoe::schedules {

Task LayerTasks::task(Pass pass, Step step, int chunk, Work work) const {
  const bool moves = step == Step::Dispatch || step == Step::Combine;
  return {{.block = block_, .pass = pass, .step = step, .chunk = chunk},
          moves ? kCommunicationQueue : kComputeQueue,
          std::move(work)};
}

// Reads the tokens and writes fp32 logits; backward reads both gradients' inputs and writes the
// tokens' gradient.
Task LayerTasks::gate(Pass pass) const {
  const std::int64_t tokens = layer_.tokens_per_rank;
  const std::int64_t logits = tokens * layer_.num_experts * size_of(Dtype::Fp32);
  const bool forward = pass == Pass::Forward;
  const Bytes bytes{(forward ? 1 : 2) * tokens * layer_.row_bytes().count + logits};
  const MemoryKernel kernel = forward ? MemoryKernel::Gate : MemoryKernel::GateBackward;
  return task(pass, Step::Gate, 0, MemoryTraffic{kernel, bytes});
}

// A gather of rows; backward sums the rows of each token.
Task LayerTasks::permute(Pass pass) const {
  const bool forward = pass == Pass::Forward;
  const std::int64_t written = forward ? layer_.rows() : layer_.tokens_per_rank;
  const Bytes bytes{(layer_.rows() + written) * layer_.row_bytes().count};
  const MemoryKernel kernel = forward ? MemoryKernel::Permute : MemoryKernel::PermuteBackward;
  return task(pass, Step::Permute, 0, MemoryTraffic{kernel, bytes});
}

// Backward reads the experts' outputs too: the gate's gradient is their product with the token's.
Task LayerTasks::unpermute(Pass pass) const {
  const std::int64_t rows = layer_.rows();
  const bool forward = pass == Pass::Forward;
  const Bytes bytes{(forward ? rows + layer_.tokens_per_rank : 3 * rows) *
                    layer_.row_bytes().count};
  const MemoryKernel kernel = forward ? MemoryKernel::Unpermute : MemoryKernel::UnpermuteBackward;
  return task(pass, Step::Unpermute, 0, MemoryTraffic{kernel, bytes});
}

Task LayerTasks::all_to_all(Step step, Pass pass, int chunk, std::int64_t rows) const {
  const Bytes bytes{rows * layer_.row_bytes().count};
  return all_to_all(step, pass, chunk,
                    {CollectiveKind::AllToAll, {num_ranks_, 1}, TrafficMatrix::uniform(bytes)});
}

Task LayerTasks::all_to_all(Step step, Pass pass, int chunk, Collective collective) const {
  return task(pass, step, chunk, std::move(collective));
}

Task LayerTasks::expert(ProductKind kind, int chunk, PerRank<std::int64_t> rows) const {
  const Pass pass = kind == ProductKind::Forward ? Pass::Forward : Pass::Backward;
  const Step step = kind == ProductKind::InputGradient    ? Step::ExpertInputGradient
                    : kind == ProductKind::WeightGradient ? Step::ExpertWeightGradient
                                                          : Step::Expert;
  return task(pass, step, chunk, layer_.products(kind, std::move(rows), num_ranks_));
}

namespace {

Task chunk_all_to_all(const LayerTasks& tasks, const Chunks& chunks, Step step, Pass pass,
                      int chunk) {
  if (chunks.collective) {
    return tasks.all_to_all(step, pass, chunk, chunks.collective(step, pass, chunk));
  }
  return tasks.all_to_all(step, pass, chunk, chunks.rows[static_cast<std::size_t>(chunk)]);
}

// Returns the all-to-alls back.
std::vector<TaskId> append_chunks(TaskGraphBuilder& builder, const LayerTasks& tasks,
                                  const Chunks& chunks, Pass pass, TaskId input) {
  const ProductKind kind =
      pass == Pass::Forward ? ProductKind::Forward : ProductKind::BothGradients;
  const auto count = static_cast<int>(chunks.rows.size());
  const auto at = [&](int i) { return chunks.reversed ? count - 1 - i : i; };
  Task expert = tasks.expert(kind, 0, 0);  // all chunks' are alike but for their rows
  std::vector<TaskId> experts, outputs;
  experts.reserve(chunks.rows.size());
  outputs.reserve(chunks.rows.size());
  for (int i = 0; i < count; ++i) {
    const int chunk = at(i);
    const TaskId arrival =
        builder.append(chunk_all_to_all(tasks, chunks, step_to_experts(pass), pass, chunk));
    builder.depend(input, arrival);
    expert.key.chunk = chunk;
    std::get<Products>(expert.work).rows = chunks.rows[static_cast<std::size_t>(chunk)];
    experts.push_back(builder.append(expert));
    builder.depend(arrival, experts.back());
  }
  for (int i = 0; i < count; ++i) {
    outputs.push_back(
        builder.append(chunk_all_to_all(tasks, chunks, step_back(pass), pass, at(i))));
    builder.depend(experts[static_cast<std::size_t>(i)], outputs.back());
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
  const TaskId gate = builder.append(tasks.gate(Pass::Forward));
  const TaskId permute = append_after(builder, {gate}, tasks.permute(Pass::Forward));
  const auto combined = append_chunks(builder, tasks, chunks, Pass::Forward, permute);
  return append_after(builder, combined, tasks.unpermute(Pass::Forward));
}

void append_backward(TaskGraphBuilder& builder, const LayerTasks& tasks, const Chunks& chunks,
                     TaskId output) {
  const TaskId gradient = append_after(builder, {output}, tasks.unpermute(Pass::Backward));
  const auto returned = append_chunks(builder, tasks, chunks, Pass::Backward, gradient);
  const TaskId input = append_after(builder, returned, tasks.permute(Pass::Backward));
  append_after(builder, {input}, tasks.gate(Pass::Backward));
}

}  // namespace pipemoe::schedules
