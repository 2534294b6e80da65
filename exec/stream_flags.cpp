#include "exec/stream_flags.hpp"

#include <fmt/core.h>

#include <cstdint>

#include "kernels/cuda.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

CUdeviceptr address(const std::uint32_t* at) { return reinterpret_cast<CUdeviceptr>(at); }

}  // namespace

StreamFlags& StreamFlags::write(std::uint32_t* at, std::uint32_t value) {
  operations_.emplace_back().writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32,
                                           .address = address(at),
                                           .value = value,
                                           .flags = CU_STREAM_WRITE_VALUE_DEFAULT,
                                           .alias = 0};
  return *this;
}

void StreamFlags::give(cudaStream_t stream) {
  static const auto give_batch = reinterpret_cast<decltype(&cuStreamBatchMemOp)>(
      cuda::driver_function("cuStreamBatchMemOp", 12000));
  const CUresult status = give_batch(stream, static_cast<unsigned>(operations_.size()),
                                     operations_.data(), /*flags=*/0);
  operations_.clear();
  if (status == CUDA_SUCCESS) return;
  // The runtime's errors have the driver's numbers.
  throw DeviceError(fmt::format("CUDA: stream memory operations: {}",
                                cudaGetErrorString(static_cast<cudaError_t>(status))),
                    Where::here());
}

}  // namespace pipemoe::exec
