// What chunk-pipelined schedules share: gate and permutation, chunks of all-to-all, expert and
// all-to-all, un-permutation; then the same backward.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "models/layer.hpp"
#include "models/schedules/layer_tasks.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::schedules {

/// The first all-to-all of a chunk brings rows to the experts, the second one brings them back.
enum class Direction { ToExperts, Back };

/// How a phase is cut.
struct Chunks {
  std::vector<std::int64_t> rows;  ///< of each chunk
  bool reversed = false;           ///< the last chunk goes first
  /// What a chunk's exchange moves; empty: `rows` of it uniformly between all ranks.
  std::function<TrafficMatrix(Direction, int chunk)> traffic = {};
};

/// Gate, permutation, chunks, un-permutation. Communication: all exchanges to the experts, then all
/// back; compute: the experts, each between its chunk's two exchanges. Returns the last task.
TaskId append_forward(TaskGraphBuilder& builder, const LayerTasks& tasks, const Chunks& chunks);

/// The same backward, an expert's two gradients in one task; `output` ended the forward phase.
void append_backward(TaskGraphBuilder& builder, const LayerTasks& tasks, const Chunks& chunks,
                     TaskId output);

/// A task on its stream that needs all of `before`.
TaskId append_after(TaskGraphBuilder& builder, const std::vector<TaskId>& before, Task task);

}  // namespace pipemoe::schedules
