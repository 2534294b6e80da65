// What a calibration needs of CPU ranks.
#pragma once

#include "exec/calibrate.hpp"
#include "exec/cpu_backend.hpp"

namespace pipemoe::exec {

/// `group` must outlive the tools.
CalibrationTools cpu_calibration_tools(const CpuOptions& options, ProcessGroup& group);

}  // namespace pipemoe::exec
