// Runs the task graphs of one MoE layer on GPUs, one a rank (staged ranks may share one).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "exec/cuda_communicator.hpp"
#include "exec/cuda_graph_runner.hpp"
#include "exec/cuda_moe_layer.hpp"
#include "exec/executor.hpp"
#include "exec/layer_data.hpp"
#include "exec/process_group.hpp"
#include "kernels/cuda_matmul.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

struct CudaOptions {
  DataOptions data;
  CudaCommunicatorKind communicator = CudaCommunicatorKind::Staged;
  CudaGraphOptions graph;
  bool tf32 = false;
  cuda::Search search = cuda::Search::Timed;  ///< Heuristic: every executor computes the same bits
  std::optional<bool> packs = std::nullopt;   ///< as DeviceLayerShape::packs
  /// The most multiprocessors that an exchange of Nccl may take; the experts that run beside it
  /// leave that many idle. 0: no limit; no multiprocessor is reserved.
  int exchange_ctas = 0;
};

/// What the user's options say for CUDA. Requires check_options.
CudaOptions cuda_options(const ExecutorOptions& options);

class CudaExecutor final : public LayerExecutor {
 public:
  /// Collective over `group`, which must outlive this. Throws DeviceError, and what check() throws.
  CudaExecutor(const MoeLayer& layer, const CudaOptions& options, ProcessGroup& group);

  /// Throws InputError unless this rank's GPU can run the layer on `num_ranks` ranks: the dtype is
  /// fp32, or bf16 where the GPU has it; rows are whole units of 16 bytes; the experts divide
  /// evenly over the ranks; NcclZeroCta and PeerCopy get equal parts.
  static void check(const MoeLayer& layer, const CudaOptions& options, int num_ranks);

  std::string name() const override;
  std::map<std::string, std::string> versions() const override;
  bool regroups() const override;
  /// Collective. Throws what check_graph() throws.
  std::unique_ptr<GraphRunner> prepare(const TaskGraph& graph) override;

  LayerResults results() const override { return prepared_last_->results(); }
  void poison() override { prepared_last_->poison(); }
  /// The device memory that was planned, that the device gave, and that plans and studies expect.
  std::vector<std::string> notes() const override;

 private:
  bool exchanges_by_expert() const;
  cuda::DeviceLayerShape shape_for(const TaskGraph& graph) const;

  MoeLayer layer_;
  CudaOptions options_;
  ProcessGroup& group_;
  std::shared_ptr<CudaTensors> tensors_;
  std::unique_ptr<CudaCommunicator> communicator_;  // null: elided
  std::shared_ptr<CudaMoeLayer> prepared_last_;
  std::int64_t tensors_taken_ = 0, layer_taken_ = 0;  // bytes by which free device memory shrank
};

/// Makes this rank's GPU the current one of the calling thread. The ranks of a host take its GPUs
/// in turn.
void use_device_of(ProcessGroup& group);

}  // namespace pipemoe::exec
