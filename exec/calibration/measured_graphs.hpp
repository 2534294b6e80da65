// The graphs that a calibration runs: tasks by themselves, and computation beside communication.
// No layer computes in such an order; an exchange moves what the previous iteration left in its
// buffers. The graphs exist to be timed.
#pragma once

#include <cstdint>
#include <string>

#include "models/cluster.hpp"
#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

/// A layer in `degree` chunks, forward and backward. No two tasks overlap: each waits for the one
/// before it, in the order D_i E_i C_i. Input and weight gradients are two tasks.
TaskGraph serial_chunks(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree);

/// The same tasks. Each waits for the one before it: two computations, then all exchanges one
/// behind another, then all other computations.
TaskGraph grouped_chunks(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree);

/// The computations of grouped_chunks without any exchange.
TaskGraph computations_only(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree);

/// Three parts, each of which waits for the one before it: forward experts beside the backward
/// pass's combines, input gradients beside dispatches, weight gradients beside combines. The rows
/// come from the previous iteration, and nobody writes what is being read. As in a layer, the
/// device computes nearly all the time, which decides its speed near the power limit. The exchanges
/// of a part follow each other, so that they start at any time of an expert: when both were
/// enqueued together, slowdowns jumped from degree to degree.
TaskGraph experts_under_exchanges(const MoeLayer& layer, std::int64_t num_ranks,
                                  std::int64_t degree);

/// The same tasks without overlap: the exchanges of a part follow its experts.
TaskGraph experts_then_exchanges(const MoeLayer& layer, std::int64_t num_ranks,
                                 std::int64_t degree);

/// Whether a computation of a layer's graph waits for an exchange.
bool waits_for_exchange(const Task& task);

/// The name of a task in tables: "expert forward", ...
std::string row_name(const Task& task);

/// Which fit of a profile describes an expert's task; it has no fit yet.
ExpertFit expert_key(const Products& products);

/// Whether the task is an expert of this pass.
bool is_expert(const Task& task, Pass pass);
/// Whether the task is an exchange that runs beside such experts in experts_under_exchanges.
bool is_beside_experts(const Task& task, Pass pass);

/// The most bytes that a rank sends in one exchange of the graph.
Bytes largest_exchange(const TaskGraph& graph);

}  // namespace pipemoe::exec
