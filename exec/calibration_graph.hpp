// Graphs that measure tasks alone, and compute against communication. No layer computes in such an
// order: an exchange moves what the iteration before left. They are there to be timed.
#pragma once

#include <cstdint>

#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

/// A layer in `degree` chunks, forward and backward, of which no two tasks overlap: each waits for
/// the one before, in the order D_i E_i C_i; input and weight gradients are two tasks.
TaskGraph serial_chunks(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree);

/// The same tasks, each of which waits for the one before, all exchanges right behind each other
/// and then all computations but the first two.
TaskGraph grouped_chunks(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree);

/// The computations of grouped_chunks without any exchange.
TaskGraph computations_only(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree);

/// Stages, each of which waits for the one before: forward experts on the compute stream beside the
/// backward phase's combines, input gradients beside dispatches, weight gradients beside combines.
/// Rows lie there from the iteration before; nothing that is read is being written. As in a layer,
/// something is computed nearly all the time, which near a GPU's power limit decides how fast.
/// Exchanges follow each other, so that they begin at any time of an expert: when both were given
/// together, slowdowns jumped from degree to degree.
TaskGraph experts_under_exchanges(const MoeLayer& layer, std::int64_t num_ranks,
                                  std::int64_t degree);

/// The same tasks of which no two overlap: a stage's exchanges follow its experts.
TaskGraph experts_then_exchanges(const MoeLayer& layer, std::int64_t num_ranks,
                                 std::int64_t degree);

}  // namespace pipemoe::exec
