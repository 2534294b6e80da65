// Matrix products and the row operations around them, in fp32 on OpenBLAS.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace pipemoe::kernels {

enum class Transpose { No, Yes };

/// c[m, n] = op(a)[m, k] * op(b)[k, n], all row-major and dense; a transposed operand is stored as
/// the transpose of what enters the product.
struct Gemm {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  Transpose transpose_a = Transpose::No;
  Transpose transpose_b = Transpose::No;
  bool accumulate = false;  ///< adds to c; otherwise what c held does not matter, NaN included
};

/// Any size may be 0: with k == 0 the product is 0. Requires spans of exactly the sizes that the
/// shape gives, none above 2^31 - 1 in one dimension.
/// One thread: the same inputs give the same bits.
void gemm(const Gemm& shape, std::span<const float> a, std::span<const float> b,
          std::span<float> c);

/// The library, its version and the kernels it chose for this processor.
std::string blas_version();

}  // namespace pipemoe::kernels
