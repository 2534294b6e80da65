#include <cstdint>

#include "kernels/cuda.hpp"
#include "kernels/device_pause.hpp"

namespace pipemoe::cuda {
namespace {

__device__ std::uint64_t nanoseconds() {
  std::uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

__global__ void pause_kernel(std::uint64_t time) {
  const std::uint64_t begin = nanoseconds();
  while (nanoseconds() - begin < time) __nanosleep(200);
}

}  // namespace

void pause(std::chrono::microseconds time, cudaStream_t stream) {
  const std::chrono::nanoseconds exact = time;
  pause_kernel<<<1, 1, 0, stream>>>(static_cast<std::uint64_t>(exact.count()));
  check(cudaGetLastError());
}

}  // namespace pipemoe::cuda
