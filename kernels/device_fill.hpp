// Small kernels over whole buffers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/device_types.hpp"

namespace pipemoe::cuda {

struct FillRandom {
  void* values = nullptr;  ///< out
  std::int64_t count = 0;
  Element element = Element::Fp32;
  std::uint32_t seed = 0;
  float scale = 1;  ///< standard deviation
};
/// Normally distributed but for the tails (a sum of four uniform values), and centred on 0. The
/// same seed gives the same values. Asynchronous.
void fill_random(const FillRandom& args, cudaStream_t stream);

struct Convert {
  const void* from = nullptr;
  Element from_element = Element::Fp32;
  void* to = nullptr;
  Element to_element = Element::Bf16;
  std::int64_t count = 0;
};
/// Rounds to nearest even. Asynchronous.
void convert(const Convert& args, cudaStream_t stream);

struct AddVectors {
  const void* from = nullptr;
  void* to = nullptr;  ///< added to
  Element element = Element::Fp32;
  std::int64_t count = 0;
};
void add_vectors(const AddVectors& args, cudaStream_t stream);

}  // namespace pipemoe::cuda
