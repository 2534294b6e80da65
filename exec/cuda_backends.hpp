// The one door to the CUDA backend, so that a build without it has one file to replace.
#pragma once

#include "exec/backends.hpp"

namespace pipemoe::exec {

bool built_with_cuda();
// In a build without CUDA these throw std::logic_error: check_options comes first.
void check_cuda_layer(const MoeLayer& layer, const BackendOptions& options, int num_ranks);
std::unique_ptr<LayerBackend> make_cuda_backend(const MoeLayer& layer,
                                                const BackendOptions& options, ProcessGroup& group);
CalibrationTools make_cuda_calibration_tools(const BackendOptions& options, ProcessGroup& group);

}  // namespace pipemoe::exec
