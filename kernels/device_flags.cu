#include <cuda/atomic>

#include "kernels/cuda.hpp"
#include "kernels/device_flags.hpp"

namespace pipemoe::cuda {
namespace {

constexpr int kThreads = 32;

__global__ void __launch_bounds__(kThreads)
    await_kernel(std::uint32_t* flags, int count, int except) {
  using SystemWide = ::cuda::atomic_ref<std::uint32_t, ::cuda::thread_scope_system>;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    if (i == except) continue;
    while (SystemWide(flags[i]).load(::cuda::memory_order_acquire) == 0) {
    }
  }
}

}  // namespace

void await_flags(std::uint32_t* flags, int count, int except, cudaStream_t stream) {
  await_kernel<<<1, kThreads, 0, stream>>>(flags, count, except);
  check(cudaGetLastError());
}

}  // namespace pipemoe::cuda
