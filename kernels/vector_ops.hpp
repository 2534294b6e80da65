// Loops over rows of floats, written so that a compiler vectorises them without reordering what the
// source says: results do not depend on the optimisation level's licence.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "models/error.hpp"

namespace pipemoe::kernels {

template <class T>
void check_size(std::span<T> buffer, std::int64_t size, const char* why) {
  ensure(static_cast<std::int64_t>(buffer.size()) == size, why);
}

/// `count` rows from row `first` of a [rows, width] buffer.
template <class T>
std::span<T> rows_of(std::span<T> buffer, std::int64_t first, std::int64_t count,
                     std::int64_t width) {
  return buffer.subspan(static_cast<std::size_t>(first * width),
                        static_cast<std::size_t>(count * width));
}

inline void copy(std::span<const float> from, std::span<float> to) {
  std::copy(from.begin(), from.end(), to.begin());
}

inline void fill(std::span<float> values, float value) {
  std::fill(values.begin(), values.end(), value);
}

/// sum += x.
inline void add(std::span<const float> x, std::span<float> sum) {
  const float* in = x.data();
  float* out = sum.data();
  for (std::size_t i = 0, n = x.size(); i < n; ++i) out[i] += in[i];
}

/// y = scale * x.
inline void scale(float factor, std::span<const float> x, std::span<float> y) {
  const float* in = x.data();
  float* out = y.data();
  for (std::size_t i = 0, n = x.size(); i < n; ++i) out[i] = factor * in[i];
}

/// y += scale * x.
inline void add_scaled(float factor, std::span<const float> x, std::span<float> y) {
  const float* in = x.data();
  float* out = y.data();
  for (std::size_t i = 0, n = x.size(); i < n; ++i) out[i] += factor * in[i];
}

/// Sixteen partial sums, added pairwise at the end: fast, accurate and of one fixed order.
inline float dot(std::span<const float> x, std::span<const float> y) {
  using Lanes [[gnu::vector_size(16)]] = float;  // stays in a register; an array of sums does not
  const auto load = [](const float* from) {
    Lanes lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
  };
  Lanes sum0{}, sum1{}, sum2{}, sum3{};
  const float *a = x.data(), *b = y.data();
  const std::size_t n = x.size(), whole = n - n % 16;
  for (std::size_t i = 0; i < whole; i += 16) {
    sum0 += load(a + i) * load(b + i);
    sum1 += load(a + i + 4) * load(b + i + 4);
    sum2 += load(a + i + 8) * load(b + i + 8);
    sum3 += load(a + i + 12) * load(b + i + 12);
  }
  const Lanes lanes = (sum0 + sum2) + (sum1 + sum3);
  float sum = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
  for (std::size_t i = whole; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace pipemoe::kernels
