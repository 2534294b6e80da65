#include "kernels/cpu_math.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe::kernels;
using namespace pipemoe::test;
using Floats = std::vector<float>;

TEST_CASE("a matrix product takes its operands transposed or not", "[kernels][math]") {
  // [1 2 3; 4 5 6] * [1 0; 2 1; 0 3] = [5 11; 14 23].
  const Floats a{1, 2, 3, 4, 5, 6}, a_transposed{1, 4, 2, 5, 3, 6};
  const Floats b{1, 0, 2, 1, 0, 3}, b_transposed{1, 2, 0, 0, 1, 3};
  for (const Transpose ta : {Transpose::No, Transpose::Yes}) {
    for (const Transpose tb : {Transpose::No, Transpose::Yes}) {
      Floats c = poisoned(4);
      gemm({.m = 2, .n = 2, .k = 3, .transpose_a = ta, .transpose_b = tb},
           ta == Transpose::Yes ? a_transposed : a, tb == Transpose::Yes ? b_transposed : b, c);
      CHECK(c == Floats{5, 11, 14, 23});
    }
  }
  Floats sum{1, 1, 1, 1};
  gemm({.m = 2, .n = 2, .k = 3, .accumulate = true}, a, b, sum);
  CHECK(sum == Floats{6, 12, 15, 24});
}

TEST_CASE("a product over k = 0 is zero, or leaves the accumulated values", "[kernels][math]") {
  Floats c = poisoned(4);
  gemm({.m = 2, .n = 2, .k = 0}, {}, {}, c);
  CHECK(c == Floats{0, 0, 0, 0});
  Floats sum{1, 2, 3, 4};
  gemm({.m = 2, .n = 2, .k = 0, .accumulate = true}, {}, {}, sum);
  CHECK(sum == Floats{1, 2, 3, 4});
  CHECK_NOTHROW(gemm({.m = 0, .n = 2, .k = 2}, {}, Floats(4), {}));
}

TEST_CASE("a product refuses buffers of other sizes", "[kernels][math]") {
  Floats c(4);
  CHECK_THROWS_AS(gemm({.m = 2, .n = 2, .k = 3}, Floats(5), Floats(6), c), std::logic_error);
  CHECK_THROWS_AS(gemm({.m = 2, .n = 2, .k = 3}, Floats(6), Floats(7), c), std::logic_error);
  CHECK_THROWS_AS(gemm({.m = 2, .n = 3, .k = 3}, Floats(6), Floats(9), c), std::logic_error);
}

TEST_CASE("dot products are right for every length modulo sixteen", "[kernels][math]") {
  for (std::size_t n = 0; n < 50; ++n) {
    Floats x(n), y(n, 2);
    for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(i);
    // 2 * (0 + ... + n-1): whole numbers far below 2^24, so the sum is exact.
    CHECK(dot(x, y) == static_cast<float>(n == 0 ? 0 : n * (n - 1)));
  }
}

TEST_CASE("fast_exp is within 2 units in the last place", "[kernels][math]") {
  double worst = 0;
  for (double x = -87; x <= 88; x += 0.0009765625) {  // 2^-10: exact in fp32
    const double exact = std::exp(x);
    worst =
        std::max(worst, std::abs(static_cast<double>(fast_exp(static_cast<float>(x))) / exact - 1));
  }
  CHECK(worst < 2 * 0x1p-23);
  CHECK(fast_exp(0) == 1);
  CHECK(fast_exp(-1e30f) == fast_exp(-87));
  CHECK(fast_exp(1e30f) == fast_exp(88));
  CHECK(std::isnan(fast_exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("fast_erf is within 4e-7", "[kernels][math]") {
  double worst = 0;
  for (double x = -6; x <= 6; x += 0.0009765625) {
    const auto y = static_cast<double>(fast_erf(static_cast<float>(x)));
    worst = std::max(worst, std::abs(y - std::erf(x)));
  }
  CHECK(worst < 4e-7);
  CHECK(fast_erf(0) == 0);
  CHECK(std::isnan(fast_erf(std::numeric_limits<float>::quiet_NaN())));
}
