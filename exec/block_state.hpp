// One block of a model on one rank: its numbers, the steps that it runs, and the rows that its
// collectives move. The twins keep the numbers in host memory and in a GPU's memory.
#pragma once

#include "exec/communicator.hpp"
#include "exec/layer_data.hpp"
#include "models/layer.hpp"
#include "models/task_graph.hpp"

struct CUgraph_st;
struct CUstream_st;

namespace pipemoe::cuda {
struct DeviceExchange;
}

namespace pipemoe::exec {

class BlockState {
 public:
  virtual ~BlockState() = default;
  /// What the last iteration computed on this rank.
  virtual LayerResults results() const = 0;
  /// Fills every buffer that an iteration must write with NaN.
  virtual void poison() = 0;
};

/// A block in host memory. Runners call run() and exchange() from several threads at once, in any
/// order that the task graph allows.
class CpuBlockState : public BlockState {
 public:
  /// Runs a computation to its end on the calling thread.
  virtual void run(const TaskKey& task) = 0;
  /// Where a collective reads and writes this rank's rows, in this block's buffers. Valid until the
  /// iteration ends.
  virtual Exchange exchange(const TaskKey& task) = 0;
};

/// A block in a GPU's memory. Runners call it as they call the CPU twin; its work is asynchronous.
class CudaBlockState : public BlockState {
 public:
  /// Enqueues a computation on `stream`, a cudaStream_t. Waits for the device only in the gate of a
  /// dropless layer. Throws DeviceError.
  virtual void run(const TaskKey& task, CUstream_st* stream) = 0;
  /// As the CPU twin's.
  virtual cuda::DeviceExchange exchange(const TaskKey& task) = 0;
  /// May remove work from a recorded iteration, a cudaGraph_t, that one task does for all others.
  virtual void simplify(CUgraph_st* /*recorded*/) const {}
};

/// The steps of an MoE layer, in the order in which an iteration runs them. A backward step
/// computes or carries the gradients of the forward step of that name.
enum class MoeStep {
  Gate,
  Permute,
  Dispatch,
  Expert,
  Combine,
  Unpermute,
  UnpermuteBackward,
  CombineBackward,
  ExpertBackward,  ///< both of the next two
  ExpertInputGradient,
  ExpertWeightGradient,
  DispatchBackward,
  PermuteBackward,
  GateBackward,
};
/// The step that a task of an MoE layer runs. Throws std::logic_error for a gradient in the forward
/// pass.
MoeStep moe_step(const TaskKey& task);
/// Whether the step's all-to-all brings rows to the experts. Otherwise it brings them back.
bool sends_to_experts(MoeStep step);

/// Throws InputError, naming the task, unless the graph is for `num_ranks` ranks and an executor of
/// this layer can run every task: one micro-batch of one block, the same work on all ranks, no
/// durations that were measured elsewhere, and no collectives but all-to-alls that exchange a whole
/// chunk of this layer's slots uniformly between all ranks.
void check_graph(const MoeLayer& layer, const TaskGraph& graph, int num_ranks);

}  // namespace pipemoe::exec
