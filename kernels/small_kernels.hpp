// GPU kernels that know nothing of a layer: random values, conversion, sums; a pause; waiting for
// flags. All are asynchronous on their stream and throw DeviceError if the launch fails.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>

#include "kernels/cuda.hpp"

namespace pipemoe::cuda {

struct FillRandom {
  void* values = nullptr;  ///< out: [count]
  std::int64_t count = 0;
  Element element = Element::Fp32;
  std::uint32_t seed = 0;
  float scale = 1;  ///< standard deviation
};
/// Writes values with mean 0 that are nearly normally distributed, except for the tails: each is a
/// sum of four uniform values. Equal seeds produce equal values.
void fill_random(const FillRandom& args, cudaStream_t stream);

struct Convert {
  const void* from = nullptr;  ///< [count]
  Element from_element = Element::Fp32;
  void* to = nullptr;  ///< out: [count]
  Element to_element = Element::Bf16;
  std::int64_t count = 0;
};
/// Converts values and rounds to nearest even.
void convert(const Convert& args, cudaStream_t stream);

struct AddVectors {
  const void* from = nullptr;  ///< [count]
  void* to = nullptr;          ///< [count]: `from` is added to it
  Element element = Element::Fp32;
  std::int64_t count = 0;
};
void add_vectors(const AddVectors& args, cudaStream_t stream);

/// Makes the stream do nothing for `time`: work that is enqueued from now on begins at least `time`
/// after the work before it has ended.
void pause(std::chrono::microseconds time, cudaStream_t stream);

/// Makes the stream wait until each of `count` words in device memory, except number `except`, is
/// no longer 0. Other GPUs write these words. Later work on the stream sees what they wrote before
/// them. One warp polls the words. With a stream memory operation instead, a rank continued 5.6 or
/// 13.8 us after its copies, alternately, as if a flag that is not yet written is read again only
/// 8 us later (two H200, driver 580.159).
void await_flags(std::uint32_t* flags, int count, int except, cudaStream_t stream);

}  // namespace pipemoe::cuda
