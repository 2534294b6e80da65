// Values to and from the device, as the tests' element type holds them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "kernels/cuda.hpp"
#include "kernels/device_types.hpp"

namespace pipemoe::test {

inline std::uint16_t to_bf16(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  if (std::isnan(x)) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float from_bf16(std::uint16_t x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x) << 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// What the element holds of a value.
inline float rounded(float x, cuda::Element element) {
  return element == cuda::Element::Fp32 ? x : from_bf16(to_bf16(x));
}

template <class T>
cuda::DeviceBuffer to_device(std::span<const T> values) {
  cuda::DeviceBuffer buffer(values.size_bytes());
  cuda::copy_to_device(buffer.data(), values.data(), values.size_bytes());
  return buffer;
}
template <class T>
cuda::DeviceBuffer to_device(const std::vector<T>& values) {
  return to_device(std::span<const T>(values));
}

inline cuda::DeviceBuffer to_device(std::span<const float> values, cuda::Element element) {
  if (element == cuda::Element::Fp32) return to_device(values);
  std::vector<std::uint16_t> rounded_values;
  for (const float value : values) rounded_values.push_back(to_bf16(value));
  return to_device(rounded_values);
}

template <class T>
std::vector<T> to_host(const void* from, std::int64_t count) {
  std::vector<T> values(static_cast<std::size_t>(count));
  if (count > 0) {
    cuda::check(cudaMemcpy(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost));
  }
  return values;
}

inline std::vector<float> floats_of(const void* from, std::int64_t count, cuda::Element element) {
  if (element == cuda::Element::Fp32) return to_host<float>(from, count);
  std::vector<float> values;
  for (const std::uint16_t value : to_host<std::uint16_t>(from, count)) {
    values.push_back(from_bf16(value));
  }
  return values;
}

/// `count` elements that must be written before they are read: NaN.
inline cuda::DeviceBuffer poisoned_device(std::int64_t count, std::int64_t element_bytes) {
  cuda::DeviceBuffer buffer(static_cast<std::size_t>(count * element_bytes));
  if (buffer.bytes() == 0) return buffer;
  cuda::check(cudaMemset(buffer.data(), 0xff, buffer.bytes()));
  cuda::check(cudaDeviceSynchronize());  // no stream of the tests' waits for it
  return buffer;
}

/// Normal values that the element holds exactly.
inline std::vector<float> normal_floats(std::mt19937_64& random, std::int64_t count,
                                        cuda::Element element, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = rounded(normal(random), element);
  return values;
}

}  // namespace pipemoe::test
