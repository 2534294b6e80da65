// An MoE layer on one rank in host memory, computed by the CPU kernels.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "exec/block_state.hpp"
#include "exec/process_group.hpp"
#include "kernels/experts.hpp"
#include "kernels/gate.hpp"
#include "kernels/permute.hpp"
#include "kernels/routing.hpp"
#include "models/layer.hpp"
#include "models/schedule.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

/// The rows of one chunk on one rank: those that it sends, by its own routing, and those that its
/// experts receive, by the routing of all ranks.
struct ChunkRows {
  std::int64_t sent_begin = 0;  ///< the first row that this rank sends, in its ChunkPlan's order
  std::int64_t sent_rows = 0;
  std::int64_t received_begin = 0;  ///< the first row that its experts receive, chunks in order
  kernels::ReceivedRows received;
  std::vector<std::int64_t> send_counts;     ///< floats to each rank
  std::vector<std::int64_t> receive_counts;  ///< floats from each rank
};

/// The rows of all chunks of the plan. `all`: what this rank's experts receive in all of them
/// together.
std::vector<ChunkRows> rows_of_chunks(const kernels::ChunkPlan& plan,
                                      const kernels::ReceivedRows& all, std::int64_t model_dim);

class CpuMoeLayer final : public CpuBlockState {
 public:
  /// Collective over `group`, which must outlive this. The gate of a dropless layer asks all ranks
  /// for their numbers of rows; nobody else may use the group meanwhile.
  /// Throws InputError for a dtype that the kernels do not have.
  CpuMoeLayer(const MoeLayer& layer, LayerData data, const DataOptions& options,
              ProcessGroup& group, Degrees degrees);

  void run(const TaskKey& task) override;
  Exchange exchange(const TaskKey& task) override;
  LayerResults results() const override { return results_; }
  void poison() override;

 private:
  using Floats = std::vector<float>;

  const ChunkRows& chunk_of(const TaskKey& task) const;
  void gate_forward();
  void permute_forward();
  void expert_forward(const ChunkRows& chunk);
  void combine_forward();
  void combine_backward();
  void expert_input_gradient(const ChunkRows& chunk);
  void expert_weight_gradient(const ChunkRows& chunk);
  void permute_backward();
  void gate_backward();

  kernels::ReceivedRows received_rows();
  void size_buffers(std::int64_t sent_rows, std::int64_t received_rows);
  // What the forward pass saved for the rows of a backward chunk. If the degrees differ, the rows
  // are regrouped to `scratch`.
  std::span<const float> saved(const Floats& all, std::int64_t width, const ChunkRows& chunk,
                               std::int64_t index, Floats& scratch) const;
  Exchange to_experts(const ChunkRows& chunk, const Floats& rows, Floats& received) const;
  Exchange from_experts(const ChunkRows& chunk, const Floats& outputs, Floats& rows) const;

  LayerData data_;
  DataOptions options_;
  ProcessGroup& group_;
  Degrees degrees_;
  kernels::GateShape gate_shape_;
  kernels::RoutingShape routing_shape_;
  kernels::ExpertShape expert_shape_;
  kernels::RowShape row_shape_;

  LayerResults results_;
  kernels::Assignment assignment_;
  kernels::ReceivedRows all_;
  kernels::ChunkPlan forward_plan_, backward_plan_;
  std::vector<ChunkRows> forward_chunks_, backward_chunks_;
  bool weight_gradient_begun_ = false;
  bool input_gradient_begun_ = false;

  Floats probabilities_, combine_weights_, combine_weight_gradient_, load_, logit_gradient_;
  // Rows as this rank sends them and gets them back, [sent rows, model_dim].
  Floats rows_out_, rows_back_, gradient_rows_out_, gradient_rows_back_;
  // Rows of this rank's experts. Packed ones are unused if rows arrive in packed order.
  Floats received_, packed_input_, pre_activation_, hidden_, packed_output_, expert_output_;
  Floats gradient_received_, packed_gradient_, hidden_gradient_, pre_activation_gradient_;
  Floats packed_input_gradient_, expert_input_gradient_;
  Floats regrouped_input_, regrouped_pre_activation_, regrouped_hidden_;
};

}  // namespace pipemoe::exec
