// Words in device memory that streams write without a multiprocessor: the driver's stream memory
// operations, which the CUDA runtime has no name for.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

namespace pipemoe::exec {

/// Gathers operations and gives them to a stream in one go, in order. A CUDA graph can hold them.
class StreamFlags {
 public:
  /// What the stream was given before is visible, on every device, before the value is.
  StreamFlags& write(std::uint32_t* at, std::uint32_t value);
  /// At least one operation was gathered. Throws DeviceError.
  void give(cudaStream_t stream);

 private:
  std::vector<CUstreamBatchMemOpParams> operations_;
};

}  // namespace pipemoe::exec
