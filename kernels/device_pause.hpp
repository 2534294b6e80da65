// Time that a stream lets pass.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>

namespace pipemoe::cuda {

/// What the stream is given from now on begins no sooner than `time` after what it has.
void pause(std::chrono::microseconds time, cudaStream_t stream);

}  // namespace pipemoe::cuda
