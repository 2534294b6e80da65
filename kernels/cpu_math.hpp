// fp32 arithmetic on one CPU core: the matrix product (OpenBLAS), loops over rows, exp and erf.
//
// The loops and functions here contain neither a branch nor a call in their body, so a compiler can
// vectorise them without changing the order of additions: the optimisation level does not change a
// result.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "models/error.hpp"
#include "models/layer.hpp"

namespace pipemoe::kernels {

/// Throws InputError unless the layer's dtype is fp32, the only type that the CPU kernels compute
/// in.
void check_fp32(const MoeLayer& layer);

/// Throws std::logic_error with the message `why` unless the buffer has `size` elements.
template <class T>
void check_size(std::span<T> buffer, std::int64_t size, const char* why) {
  ensure(static_cast<std::int64_t>(buffer.size()) == size, why);
}

// ---- The matrix product ----

enum class Transpose { No, Yes };

/// c[m, n] = op(a)[m, k] * op(b)[k, n]. All matrices are dense and row-major. An operand marked
/// `Transpose::Yes` is stored transposed: a as [k, m], b as [n, k].
struct Gemm {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  Transpose transpose_a = Transpose::No;
  Transpose transpose_b = Transpose::No;
  bool accumulate = false;  ///< true: adds to c; false: overwrites c, even where it holds NaN
};

/// Computes the product on one thread, so that equal inputs produce equal bits. Any size may be 0;
/// the product is 0 if k is. Throws std::logic_error unless the spans have exactly the sizes of the
/// shape, or if a dimension exceeds 2^31 - 1.
void gemm(const Gemm& shape, std::span<const float> a, std::span<const float> b,
          std::span<float> c);

/// Throws RunError unless OpenBLAS can get its buffers for `threads` threads that call gemm.
/// Without them it tries again for ever. To be called before the first product.
void check_blas_memory(int threads);

/// OpenBLAS' version, and the kernels that it chose for this processor.
std::string blas_version();

// ---- Rows ----

/// Returns `count` rows of a [rows, width] buffer, from row `first` on.
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

/// y = factor * x. Both spans may be the same.
inline void scale(float factor, std::span<const float> x, std::span<float> y) {
  const float* in = x.data();
  float* out = y.data();
  for (std::size_t i = 0, n = x.size(); i < n; ++i) out[i] = factor * in[i];
}

/// y += factor * x.
inline void add_scaled(float factor, std::span<const float> x, std::span<float> y) {
  const float* in = x.data();
  float* out = y.data();
  for (std::size_t i = 0, n = x.size(); i < n; ++i) out[i] += factor * in[i];
}

/// Returns the sum of x[i] * y[i]. Sixteen partial sums, added pairwise at the end, are fast,
/// accurate, and always added in the same order.
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

// ---- exp and erf ----

/// exp(x), accurate to 2 units in the last place for x in [-87, 88]. Outside, x is clamped to that
/// range, so the result is never 0 or infinite. NaN stays NaN. Uses the range reduction and
/// polynomial of Cephes' expf.
inline float fast_exp(float x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves a rounded integer's bits
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const std::uint32_t exponent = (std::bit_cast<std::uint32_t>(shifted) << 23) + 0x3f800000u;
  return p * std::bit_cast<float>(exponent);
}

/// erf(x) with an absolute error below 4e-7. Clamps x to [-4, 4]. Uses Eigen's rational minimax
/// approximation.
inline float fast_erf(float x) {
  x = x < -4.0f ? -4.0f : x;
  x = x > 4.0f ? 4.0f : x;
  const float s = x * x;
  float p = -2.72614225801306e-10f;
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return x * p / q;
}

}  // namespace pipemoe::kernels
