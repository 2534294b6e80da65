// Runs one pipelined MoE layer on GPUs, one a rank (staged ranks may share one).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "exec/backend.hpp"
#include "exec/device_communicator.hpp"
#include "exec/device_graph.hpp"
#include "exec/layer_data.hpp"
#include "exec/process_group.hpp"
#include "kernels/cuda.hpp"
#include "kernels/cuda_matmul.hpp"
#include "kernels/device_layer.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

enum class DeviceExchanges {
  Elided,       ///< one rank: experts read what permute wrote
  Staged,       ///< through pinned host memory
  Nccl,         ///< grouped send and receive
  NcclZeroCta,  ///< all-to-all on symmetric windows, for which no multiprocessor is taken
  PeerCopy,     ///< copies into the other GPUs' memory, for which none is taken either
};

struct CudaOptions {
  DataOptions data;
  DeviceExchanges exchanges = DeviceExchanges::Staged;
  DeviceGraphOptions graph;
  bool tf32 = false;
  cuda::Search search = cuda::Search::Timed;  ///< Heuristic: the same bits from every backend
  std::optional<bool> packs = std::nullopt;   ///< as DeviceLayerShape::packs
  /// Multiprocessors that an exchange of Nccl may take, which experts beside it leave to it; 0:
  /// NCCL takes what it likes, and experts leave none.
  int exchange_ctas = 0;
};

class CudaBackend final : public LayerBackend {
 public:
  /// Collective over `group`, which must outlive this. Throws DeviceError, and what check() throws.
  CudaBackend(const MoeLayer& layer, const CudaOptions& options, ProcessGroup& group);

  /// Throws InputError unless the layer suits this rank's GPU and so many ranks: fp32 or bf16 where
  /// the GPU has it, rows of whole 16-byte units, experts that divide, equal parts for NcclZeroCta
  /// and PeerCopy.
  static void check(const MoeLayer& layer, const CudaOptions& options, int num_ranks);

  std::string name() const override;
  std::map<std::string, std::string> versions() const override;
  bool regroups() const override;
  /// Collective. Throws InputError for graphs that the CPU backend refuses too.
  std::unique_ptr<GraphRunner> prepare(const TaskGraph& graph) override;

  LayerResults results() const override;
  void poison() override;
  /// Device memory: planned, taken, and what the model that studies use says.
  std::vector<std::string> notes() const override;

  /// Bytes of the device that the layer of the graph prepared last plans and uses, by buffer.
  std::vector<std::pair<std::string, std::size_t>> bytes() const;

 private:
  struct Tensors;  // tokens, weights and gradients, shared by all prepared graphs
  struct Iteration;
  bool exchanges_by_expert() const;
  std::function<void(const Task&, cudaStream_t)> await_of(
      const std::shared_ptr<Iteration>& iteration);
  void give(const Task& task, cuda::DeviceLayer& layer, Iteration& iteration, cudaStream_t stream,
            const std::stop_token& stop);
  void place_dropless_rows(cuda::DeviceLayer& layer, cudaStream_t stream);

  MoeLayer layer_;
  CudaOptions options_;
  ProcessGroup& group_;
  std::shared_ptr<Tensors> tensors_;
  std::unique_ptr<DeviceCommunicator> communicator_;  // null: elided
  std::shared_ptr<cuda::DeviceLayer> prepared_last_;
  std::int64_t tensors_taken_ = 0, layer_taken_ = 0;  // bytes less free on the device
};

/// Null for Elided. Collective.
std::unique_ptr<DeviceCommunicator> communicator_for(const CudaOptions& options,
                                                     ProcessGroup& group);

/// Makes this rank's GPU the calling thread's: the ranks of a host take them in turn.
void use_device_of(ProcessGroup& group);

}  // namespace pipemoe::exec
