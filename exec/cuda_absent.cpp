// cuda_backends.hpp in a build without CUDA.
#include "exec/cuda_backends.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {

bool built_with_cuda() { return false; }

void check_cuda_layer(const MoeLayer&, const BackendOptions&, int) {
  ensure(false, "the CUDA backend is not in this build");
}

std::unique_ptr<LayerBackend> make_cuda_backend(const MoeLayer&, const BackendOptions&,
                                                ProcessGroup&) {
  ensure(false, "the CUDA backend is not in this build");
  return nullptr;
}

CalibrationTools make_cuda_calibration_tools(const BackendOptions&, ProcessGroup&) {
  ensure(false, "the CUDA backend is not in this build");
  return {};
}

}  // namespace pipemoe::exec
