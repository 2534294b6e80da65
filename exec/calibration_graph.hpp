// Graphs that measure tasks alone, and compute against communication.
#pragma once

#include <cstdint>

#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

/// A layer in `degree` chunks, forward and backward, of which no two tasks overlap: each waits for
/// the one before, in the order D_i E_i C_i; input and weight gradients are two tasks.
TaskGraph serial_chunks(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree);

/// Forward experts of all chunks on the compute stream while the communication stream runs the
/// backward phase's first exchanges, on buffers of their own. No layer computes anything so: it is
/// there to be timed.
TaskGraph experts_under_exchanges(const MoeLayer& layer, std::int64_t num_ranks,
                                  std::int64_t degree);

}  // namespace pipemoe::exec
