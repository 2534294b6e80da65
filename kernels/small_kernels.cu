#include <cuda/atomic>

#include "kernels/device_common.cuh"
#include "kernels/small_kernels.hpp"

namespace pipemoe::cuda {
namespace {

constexpr int kThreads = 256;

__device__ std::uint32_t mix(std::uint32_t x) {  // two rounds of Wang's integer hash
  for (int round = 0; round < 2; ++round) {
    x = (x ^ 61u) ^ (x >> 16);
    x *= 9u;
    x ^= x >> 4;
    x *= 0x27d4eb2du;
    x ^= x >> 15;
  }
  return x;
}

template <class T>
__global__ void fill_random_kernel(T* values, std::int64_t count, std::uint32_t seed, float scale) {
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const std::uint32_t high = mix(static_cast<std::uint32_t>(i >> 32) + seed);
    std::uint32_t bits = mix(static_cast<std::uint32_t>(i) ^ high);
    float sum = 0;
    for (int part = 0; part < 4; ++part) {
      sum += static_cast<float>(bits >> 8) * (1.0f / 16777216.0f) - 0.5f;
      bits = mix(bits + 0x9e3779b9u);
    }
    values[i] = from_float<T>(sum * scale * 1.7320508f);
  }
}

template <class From, class To>
__global__ void convert_kernel(const From* from, To* to, std::int64_t count) {
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    to[i] = from_float<To>(to_float(from[i]));
  }
}

template <class T>
__global__ void add_vectors_kernel(const T* from, T* to, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) to[i] = from_float<T>(to_float(to[i]) + to_float(from[i]));
}

__device__ std::uint64_t now_ns() {
  std::uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

__global__ void pause_kernel(std::uint64_t time) {
  const std::uint64_t begin = now_ns();
  while (now_ns() - begin < time) __nanosleep(200);
}

constexpr int kWarpThreads = 32;

__global__ void __launch_bounds__(kWarpThreads)
    await_kernel(std::uint32_t* flags, int count, int except) {
  using SystemWide = ::cuda::atomic_ref<std::uint32_t, ::cuda::thread_scope_system>;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kWarpThreads) {
    if (i == except) continue;
    while (SystemWide(flags[i]).load(::cuda::memory_order_acquire) == 0) {
    }
  }
}

}  // namespace

void fill_random(const FillRandom& args, cudaStream_t stream) {
  with_type(args.element, [&]<class T>(T) {
    fill_random_kernel<<<blocks_for(args.count, kThreads, 4096), kThreads, 0, stream>>>(
        static_cast<T*>(args.values), args.count, args.seed, args.scale);
  });
  check(cudaGetLastError());
}

void convert(const Convert& args, cudaStream_t stream) {
  with_type(args.from_element, [&]<class From>(From) {
    with_type(args.to_element, [&]<class To>(To) {
      convert_kernel<<<blocks_for(args.count, kThreads, 4096), kThreads, 0, stream>>>(
          static_cast<const From*>(args.from), static_cast<To*>(args.to), args.count);
    });
  });
  check(cudaGetLastError());
}

void add_vectors(const AddVectors& args, cudaStream_t stream) {
  with_type(args.element, [&]<class T>(T) {
    add_vectors_kernel<<<blocks_for(args.count, kThreads), kThreads, 0, stream>>>(
        static_cast<const T*>(args.from), static_cast<T*>(args.to), args.count);
  });
  check(cudaGetLastError());
}

void pause(std::chrono::microseconds time, cudaStream_t stream) {
  const std::chrono::nanoseconds exact = time;
  pause_kernel<<<1, 1, 0, stream>>>(static_cast<std::uint64_t>(exact.count()));
  check(cudaGetLastError());
}

void await_flags(std::uint32_t* flags, int count, int except, cudaStream_t stream) {
  await_kernel<<<1, kWarpThreads, 0, stream>>>(flags, count, except);
  check(cudaGetLastError());
}

}  // namespace pipemoe::cuda
