#include "kernels/blas.hpp"

#include <catch2/catch.hpp>
#include <stdexcept>
#include <vector>

#include "kernels/vector_ops.hpp"
#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe::kernels;
using namespace pipemoe::test;
using Floats = std::vector<float>;

TEST_CASE("a matrix product, its operands transposed or not", "[kernels][blas]") {
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

TEST_CASE("a product over nothing is zero, or what was there", "[kernels][blas]") {
  Floats c = poisoned(4);
  gemm({.m = 2, .n = 2, .k = 0}, {}, {}, c);
  CHECK(c == Floats{0, 0, 0, 0});
  Floats sum{1, 2, 3, 4};
  gemm({.m = 2, .n = 2, .k = 0, .accumulate = true}, {}, {}, sum);
  CHECK(sum == Floats{1, 2, 3, 4});
  CHECK_NOTHROW(gemm({.m = 0, .n = 2, .k = 2}, {}, Floats(4), {}));
}

TEST_CASE("a product of buffers of other sizes is refused", "[kernels][blas]") {
  Floats c(4);
  CHECK_THROWS_AS(gemm({.m = 2, .n = 2, .k = 3}, Floats(5), Floats(6), c), std::logic_error);
  CHECK_THROWS_AS(gemm({.m = 2, .n = 2, .k = 3}, Floats(6), Floats(7), c), std::logic_error);
  CHECK_THROWS_AS(gemm({.m = 2, .n = 3, .k = 3}, Floats(6), Floats(9), c), std::logic_error);
}

TEST_CASE("dot products of every remainder of sixteen", "[kernels][blas]") {
  for (std::size_t n = 0; n < 50; ++n) {
    Floats x(n), y(n, 2);
    for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(i);
    // 2 * (0 + ... + n-1), whole numbers far below 2^24: exact.
    CHECK(dot(x, y) == static_cast<float>(n == 0 ? 0 : n * (n - 1)));
  }
}
