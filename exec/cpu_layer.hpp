// One MoE layer's state on one rank, and its tasks on the CPU kernels.
#pragma once

#include <cstdint>
#include <stop_token>
#include <vector>

#include "exec/chunk_rows.hpp"
#include "exec/communicator.hpp"
#include "exec/layer_data.hpp"
#include "exec/layer_results.hpp"
#include "exec/process_group.hpp"
#include "kernels/permute.hpp"
#include "kernels/shapes.hpp"
#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

class CpuLayer {
 public:
  /// Collective over `group`, which must outlive this and may be used by nobody else while a
  /// dropless layer's gate runs: it asks all ranks for their numbers of rows.
  /// Throws InputError for a dtype that the kernels lack.
  CpuLayer(const MoeLayer& layer, LayerData data, const DataOptions& options, ProcessGroup& group,
           Degrees degrees);

  /// Tasks of one iteration in any order that the task graph allows; on one thread a stream.
  void run(const Task& task, Communicator& communicator, std::stop_token stop);

  const LayerResults& results() const { return results_; }
  /// Fills every buffer that an iteration must write with NaN.
  void poison();

 private:
  using Floats = std::vector<float>;

  void run_forward(const Task& task, Communicator& communicator, std::stop_token stop);
  void run_backward(const Task& task, Communicator& communicator, std::stop_token stop);
  void gate_forward();
  void permute_forward();
  void expert_forward(const Chunk& chunk);
  void combine_forward();
  void combine_backward();
  void expert_input_gradient(const Chunk& chunk);
  void expert_weight_gradient(const Chunk& chunk);
  void permute_backward();
  void gate_backward();

  kernels::ReceivedRows received_rows();
  void size_buffers(std::int64_t sent_rows, std::int64_t received_rows);
  // What the forward phase saved of a backward chunk's rows: as it lies, or regrouped to `scratch`.
  std::span<const float> saved(const Floats& all, std::int64_t width, const Chunk& chunk,
                               std::int64_t index, Floats& scratch) const;
  void send_to_experts(const Chunk& chunk, const Floats& rows, Floats& received,
                       Communicator& communicator, std::stop_token stop) const;
  void send_back(const Chunk& chunk, const Floats& outputs, Floats& rows,
                 Communicator& communicator, std::stop_token stop) const;

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
  std::vector<Chunk> forward_chunks_, backward_chunks_;
  bool weight_gradient_begun_ = false;
  bool input_gradient_begun_ = false;

  Floats probabilities_, combine_weights_, combine_weight_gradient_, load_, logit_gradient_;
  // Rows as this rank sends them and gets them back, [sent rows, model_dim].
  Floats rows_out_, rows_back_, gradient_rows_out_, gradient_rows_back_;
  // Rows of this rank's experts; packed ones are unused where the received order is the packed one.
  Floats received_, packed_input_, pre_activation_, hidden_, packed_output_, expert_output_;
  Floats gradient_received_, packed_gradient_, hidden_gradient_, pre_activation_gradient_;
  Floats packed_input_gradient_, expert_input_gradient_;
  Floats regrouped_input_, regrouped_pre_activation_, regrouped_hidden_;
};

}  // namespace pipemoe::exec
