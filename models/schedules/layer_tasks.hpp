// The steps of one MoE layer as tasks with their work, and the chunks that pipelined schedules
// share; schedules arrange them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::schedules {

/// Makes the tasks of `layer`, block number `block` of its model, on `num_ranks` ranks: collectives
/// for kCommunicationQueue, the rest for kComputeQueue.
class LayerTasks {
 public:
  LayerTasks(const MoeLayer& layer, std::int64_t num_ranks, int block = 0)
      : layer_(layer), num_ranks_(num_ranks), block_(block) {}

  Task gate(Pass pass) const;
  Task permute(Pass pass) const;
  Task unpermute(Pass pass) const;
  /// `step`: Dispatch or Combine. `rows` of each rank, uniformly between all ranks.
  Task all_to_all(Step step, Pass pass, int chunk, std::int64_t rows) const;
  Task all_to_all(Step step, Pass pass, int chunk, Collective collective) const;
  Task expert(ProductKind kind, int chunk, PerRank<std::int64_t> rows) const;

 private:
  Task task(Pass pass, Step step, int chunk, Work work) const;

  const MoeLayer& layer_;
  std::int64_t num_ranks_;
  int block_;
};

/// The all-to-all that brings rows to the experts: the dispatch, or backward the combine's
/// gradient.
constexpr Step step_to_experts(Pass pass) {
  return pass == Pass::Forward ? Step::Dispatch : Step::Combine;
}
/// The one that brings them back.
constexpr Step step_back(Pass pass) {
  return pass == Pass::Forward ? Step::Combine : Step::Dispatch;
}

/// How a pass is cut.
struct Chunks {
  std::vector<std::int64_t> rows;  ///< of each chunk
  bool reversed = false;           ///< the last chunk goes first
  /// What a chunk's two all-to-alls move; empty: `rows` of it uniformly between all ranks.
  std::function<Collective(Step, Pass, int chunk)> collective = {};
};

/// Gate, permutation, chunks, un-permutation. Communication: all all-to-alls to the experts, then
/// all back; compute: the experts, each between its chunk's two. Returns the last task.
TaskId append_forward(TaskGraphBuilder& builder, const LayerTasks& tasks, const Chunks& chunks);

/// The same backward, an expert's two gradients in one task; `output` ended the forward pass.
void append_backward(TaskGraphBuilder& builder, const LayerTasks& tasks, const Chunks& chunks,
                     TaskId output);

/// A task on its queue that needs all of `before`.
TaskId append_after(TaskGraphBuilder& builder, const std::vector<TaskId>& before, Task task);

}  // namespace pipemoe::schedules
