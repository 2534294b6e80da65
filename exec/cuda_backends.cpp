#include "exec/cuda_backends.hpp"

#include "exec/cuda_calibration.hpp"
#include "exec/cuda_executor.hpp"

namespace pipemoe::exec {
namespace {

CudaOptions cuda_options(const BackendOptions& options) {
  const std::string communicator = options.chosen_communicator();
  return {.data = options.data,
          .communicator = communicator == "elided"          ? CudaCommunicatorKind::Elided
                          : communicator == "nccl"          ? CudaCommunicatorKind::Nccl
                          : communicator == "nccl-zero-cta" ? CudaCommunicatorKind::NcclZeroCta
                          : communicator == "peer-copy"     ? CudaCommunicatorKind::PeerCopy
                                                            : CudaCommunicatorKind::Staged,
          .graph = {options.cuda_graph, options.communication_first},
          .tf32 = options.tf32,
          .packs = options.pack_rows,
          .exchange_ctas = options.exchange_ctas.value_or(0)};
}

}  // namespace

bool built_with_cuda() { return true; }

void check_cuda_layer(const MoeLayer& layer, const BackendOptions& options, int num_ranks) {
  CudaExecutor::check(layer, cuda_options(options), num_ranks);
}

std::unique_ptr<LayerBackend> make_cuda_backend(const MoeLayer& layer,
                                                const BackendOptions& options,
                                                ProcessGroup& group) {
  return std::make_unique<CudaExecutor>(layer, cuda_options(options), group);
}

CalibrationTools make_cuda_calibration_tools(const BackendOptions& options, ProcessGroup& group) {
  return cuda_calibration_tools(cuda_options(options), group);
}

}  // namespace pipemoe::exec
