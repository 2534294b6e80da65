// What a calibration needs of GPUs.
#pragma once

#include "exec/calibrate.hpp"
#include "exec/cuda_executor.hpp"

namespace pipemoe::exec {

/// `group` must outlive the tools. Collective.
CalibrationTools cuda_calibration_tools(const CudaOptions& options, ProcessGroup& group);

}  // namespace pipemoe::exec
