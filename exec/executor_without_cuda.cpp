// What a build without CUDA has in place of the CUDA executor.
#include "exec/calibration/calibration_tools.hpp"
#include "exec/executor.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

constexpr const char* kAbsent = "the CUDA executor is not in this build";

}  // namespace

bool built_with_cuda() { return false; }

void check_cuda_layer(const MoeLayer&, const ExecutorOptions&, int) { ensure(false, kAbsent); }

std::unique_ptr<LayerExecutor> make_cuda_executor(const MoeLayer&, const ExecutorOptions&,
                                                  ProcessGroup&) {
  ensure(false, kAbsent);
  return nullptr;
}

CalibrationTools cuda_calibration_tools(const ExecutorOptions&, ProcessGroup&) {
  ensure(false, kAbsent);
  return {};
}

}  // namespace pipemoe::exec
