// Test support for GPUs: values to and from the device, rounded to an element type; and an
// iteration of a layer on the GPU kernels with all ranks in one process and on one device, where
// exchanges are copies.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "kernels/cuda.hpp"
#include "kernels/device_layer.hpp"
#include "tests/kernels/whole_layer.hpp"

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

/// Rounds a value to the element type.
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

/// Returns `count` elements of NaN: a test notices if one is read before it is written.
inline cuda::DeviceBuffer poisoned_device(std::int64_t count, std::int64_t element_bytes) {
  cuda::DeviceBuffer buffer(static_cast<std::size_t>(count * element_bytes));
  if (buffer.bytes() == 0) return buffer;
  cuda::check(cudaMemset(buffer.data(), 0xff, buffer.bytes()));
  cuda::check(cudaDeviceSynchronize());  // the tests' streams do not wait for the memset
  return buffer;
}

/// Draws normally distributed values that the element type represents exactly.
inline std::vector<float> normal_floats(std::mt19937_64& random, std::int64_t count,
                                        cuda::Element element, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = rounded(normal(random), element);
  return values;
}

struct DeviceRun {
  Degrees degrees;
  cuda::Element element = cuda::Element::Fp32;
  bool direct = false;  ///< one rank only
  bool tf32 = false;
  bool graph = false;  ///< records an iteration and replays it twice; not for dropless layers
  cuda::Search search = cuda::Search::Heuristic;
  std::optional<bool> packs = std::nullopt;
  bool keeps_own = false;            ///< several ranks and a capacity only
  bool exchanges_by_expert = false;  ///< a capacity only
};

/// As draw_problem(), with values rounded to the element type; the gate's stay fp32. Draws again
/// until no near tie decides the routing.
Problem draw_device_problem(const kernels::ReferenceLayer& reference, bool biases,
                            std::uint64_t seed, cuda::Element element);

/// Runs forward and backward. Buffers and results are NaN before.
LayerResult run_device_layer(const Problem& problem, const DeviceRun& run);

}  // namespace pipemoe::test
