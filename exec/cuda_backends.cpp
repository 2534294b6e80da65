#include "exec/cuda_backends.hpp"

#include "exec/cuda_backend.hpp"
#include "exec/cuda_calibration.hpp"

namespace pipemoe::exec {
namespace {

CudaOptions cuda_options(const BackendOptions& options) {
  const std::string communicator = options.chosen_communicator();
  return {.data = options.data,
          .exchanges = communicator == "elided"          ? DeviceExchanges::Elided
                       : communicator == "nccl"          ? DeviceExchanges::Nccl
                       : communicator == "nccl-zero-cta" ? DeviceExchanges::NcclZeroCta
                       : communicator == "peer-copy"     ? DeviceExchanges::PeerCopy
                                                         : DeviceExchanges::Staged,
          .graph = {options.cuda_graph, options.communication_first},
          .tf32 = options.tf32,
          .packs = options.pack_rows,
          .exchange_ctas = options.exchange_ctas.value_or(0)};
}

}  // namespace

bool built_with_cuda() { return true; }

void check_cuda_layer(const MoeLayer& layer, const BackendOptions& options, int num_ranks) {
  CudaBackend::check(layer, cuda_options(options), num_ranks);
}

std::unique_ptr<LayerBackend> make_cuda_backend(const MoeLayer& layer,
                                                const BackendOptions& options,
                                                ProcessGroup& group) {
  return std::make_unique<CudaBackend>(layer, cuda_options(options), group);
}

CalibrationTools make_cuda_calibration_tools(const BackendOptions& options, ProcessGroup& group) {
  return cuda_calibration_tools(cuda_options(options), group);
}

}  // namespace pipemoe::exec
