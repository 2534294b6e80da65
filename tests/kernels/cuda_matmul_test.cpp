// Products through cuBLASLt against float64, every epilogue that the library has.
#include "kernels/cuda_matmul.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/kernels/cuda_support.hpp"
#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::cuda;
using namespace pipemoe::test;
using Floats = std::vector<float>;

namespace {

struct Operands {
  Matmul shape;
  Floats a, b, d, bias;
  DeviceBuffer a_in, b_in, d_in, bias_in, mask;

  Operands(const Matmul& of, std::mt19937_64& random) : shape(of) {
    const auto size = [&](std::int64_t rows, std::int64_t ld, std::int64_t stride) {
      return rows * ld + (of.batch - 1) * stride;
    };
    a = normal_floats(random, size(of.transpose_a ? of.k : of.m, of.lda, of.stride_a), of.in);
    b = normal_floats(random, size(of.transpose_b ? of.n : of.k, of.ldb, of.stride_b), of.in);
    d = normal_floats(random, size(of.m, of.ldd, of.stride_d), of.out);
    bias = normal_floats(random, of.n * of.batch, of.out, 3);
    a_in = to_device(std::span(a), of.in), b_in = to_device(std::span(b), of.in);
    d_in = to_device(std::span(d), of.out), bias_in = to_device(std::span(bias), of.out);
    mask = poisoned_device(of.m * of.batch * 16 * ((of.n + 127) / 128), 1);
  }
  void run(Matmuls& matmuls) {
    const Workspace workspace;
    const cuda::Stream stream;
    matmuls.run(shape, {a_in.data(), b_in.data(), d_in.data(), bias_in.data(), mask.data()},
                workspace.all(), stream);
    stream.synchronize();
  }
  double a_at(std::int64_t batch, std::int64_t i, std::int64_t l) const {
    const std::int64_t at = shape.transpose_a ? l * shape.lda + i : i * shape.lda + l;
    return double{a[static_cast<std::size_t>(batch * shape.stride_a + at)]};
  }
  double b_at(std::int64_t batch, std::int64_t l, std::int64_t j) const {
    const std::int64_t at = shape.transpose_b ? j * shape.ldb + l : l * shape.ldb + j;
    return double{b[static_cast<std::size_t>(batch * shape.stride_b + at)]};
  }
  // [batch, m, n]; before bias and activation.
  std::vector<double> product() const {
    std::vector<double> values;
    for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
      for (std::int64_t i = 0; i < shape.m; ++i) {
        for (std::int64_t j = 0; j < shape.n; ++j) {
          double sum =
              shape.accumulate
                  ? double{d[static_cast<std::size_t>(batch * shape.stride_d + i * shape.ldd + j)]}
                  : 0;
          for (std::int64_t l = 0; l < shape.k; ++l) sum += a_at(batch, i, l) * b_at(batch, l, j);
          values.push_back(sum);
        }
      }
    }
    return values;
  }
  Floats result() const {
    const Floats all = floats_of(d_in.data(), static_cast<std::int64_t>(d.size()), shape.out);
    Floats values;
    for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
      for (std::int64_t i = 0; i < shape.m; ++i) {
        const auto row = all.begin() + batch * shape.stride_d + i * shape.ldd;
        values.insert(values.end(), row, row + shape.n);
      }
    }
    return values;
  }
  Floats bias_result() const { return floats_of(bias_in.data(), shape.n * shape.batch, shape.out); }
};

Matmul shape_of(std::int64_t batch, bool transpose_a, bool transpose_b, Element element) {
  const std::int64_t m = 48, n = 72, k = 40;
  return {.m = m,
          .n = n,
          .k = k,
          .batch = batch,
          .transpose_a = transpose_a,
          .transpose_b = transpose_b,
          .lda = transpose_a ? m : k,
          .ldb = transpose_b ? k : n,
          .ldd = n,
          .stride_a = batch > 1 ? m * k + 16 * k : 0,
          .stride_b = batch > 1 ? k * n : 0,
          .stride_d = batch > 1 ? m * n : 0,
          .in = element,
          .out = element};
}

double tolerance(Element element) { return element == Element::Fp32 ? 1e-6 : 3e-3; }

}  // namespace

TEST_CASE("products of any transposition are right", "[cuda][matmul]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto batch = GENERATE(as<std::int64_t>(), 1, 3);
  const auto search = GENERATE(Search::Heuristic, Search::Timed);
  Matmuls matmuls(search);
  std::mt19937_64 random(1);
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      for (const bool accumulate : {false, true}) {
        Matmul shape = shape_of(batch, transpose_a, transpose_b, element);
        shape.accumulate = accumulate;
        CAPTURE(shape.describe());
        Operands operands(shape, random);
        operands.run(matmuls);
        REQUIRE(relative_error(operands.result(), operands.product()) <= tolerance(element));
      }
    }
  }
}

TEST_CASE("products that leave multiprocessors to others are right", "[cuda][matmul]") {
  const auto search = GENERATE(Search::Heuristic, Search::Timed);
  const int some = std::max(1, current_device().multiprocessors - 16);
  Matmuls matmuls(search);
  std::mt19937_64 random(3);
  for (const bool transpose_a : {false, true}) {
    Matmul shape = shape_of(3, transpose_a, false, Element::Bf16);
    shape.multiprocessors = some;
    CAPTURE(shape.describe());
    Operands operands(shape, random);
    operands.run(matmuls);
    REQUIRE(relative_error(operands.result(), operands.product()) <= tolerance(Element::Bf16));
  }
}

TEST_CASE("fp32 products are in fp32 unless TF32 is asked for", "[cuda][matmul]") {
  Matmul shape = shape_of(1, false, false, Element::Fp32);
  std::mt19937_64 random(2);
  Matmuls matmuls(Search::Heuristic);
  Operands exact(shape, random);
  exact.run(matmuls);
  CHECK(relative_error(exact.result(), exact.product()) <= 1e-6);
  shape.tf32 = true;
  Operands rounded_operands(shape, random);
  rounded_operands.run(matmuls);
  CHECK(relative_error(rounded_operands.result(), rounded_operands.product()) <= 2e-3);
}

TEST_CASE("epilogues that the library has do what they say", "[cuda][matmul]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto batch = GENERATE(as<std::int64_t>(), 1, 3);
  const auto search = GENERATE(Search::Heuristic, Search::Timed);
  Matmuls matmuls(search);
  std::mt19937_64 random(3);
  Matmul shape = shape_of(batch, false, false, element);
  shape.stride_bias = batch > 1 ? shape.n : 0;
  shape.mask_ld = 128;
  shape.stride_mask = batch > 1 ? shape.m * 128 : 0;
  const auto plain = [&](Matmul of, Epilogue epilogue) {
    of.epilogue = epilogue;
    return of;
  };
  const auto with_bias = [&](const Operands& operands) {
    std::vector<double> values = operands.product();
    const auto n = static_cast<std::size_t>(shape.n), m = static_cast<std::size_t>(shape.m);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] += double{operands.bias[i / (m * n) * n + i % n]};
    }
    return values;
  };
  int tried = 0;
  if (const Matmul bias = plain(shape, Epilogue::Bias); matmuls.can(bias)) {
    Operands operands(bias, random);
    operands.run(matmuls);
    REQUIRE(relative_error(operands.result(), with_bias(operands)) <= tolerance(element));
    ++tried;
  }
  if (const Matmul relu = plain(shape, Epilogue::ReluBias); matmuls.can(relu)) {
    Operands operands(relu, random);
    operands.run(matmuls);
    std::vector<double> after = with_bias(operands);
    for (double& value : after) value = std::max(value, 0.0);
    REQUIRE(relative_error(operands.result(), after) <= tolerance(element));
    ++tried;
  }
  const Matmul relu = plain(shape, Epilogue::ReluBiasMask);
  const Matmul gradient = plain(shape, Epilogue::ReluGradient);
  if (matmuls.can(relu) && matmuls.can(gradient)) {
    Operands forward(relu, random);
    forward.run(matmuls);
    std::vector<double> before = with_bias(forward), after = before;
    for (double& value : after) value = std::max(value, 0.0);
    REQUIRE(relative_error(forward.result(), after) <= tolerance(element));
    Operands backward(gradient, random);
    std::swap(backward.mask, forward.mask);
    backward.run(matmuls);
    std::vector<double> masked = backward.product();
    for (std::size_t i = 0; i < masked.size(); ++i) masked[i] = before[i] > 0 ? masked[i] : 0;
    REQUIRE(relative_error(backward.result(), masked) <= tolerance(element));
    ++tried;
  }
  Matmul transposed = shape_of(batch, true, false, element);
  transposed.stride_bias = shape.stride_bias;
  if (const Matmul sums = plain(transposed, Epilogue::BiasGradientB); matmuls.can(sums)) {
    Operands operands(sums, random);
    operands.run(matmuls);
    REQUIRE(relative_error(operands.result(), operands.product()) <= tolerance(element));
    std::vector<double> columns;
    for (std::int64_t of = 0; of < batch; ++of) {
      for (std::int64_t j = 0; j < shape.n; ++j) {
        columns.push_back(0);
        for (std::int64_t l = 0; l < shape.k; ++l) columns.back() += operands.b_at(of, l, j);
      }
    }
    REQUIRE(relative_error(operands.bias_result(), columns) <= tolerance(element));
    ++tried;
  }
  WARN((element == Element::Fp32 ? "fp32" : "bf16")
       << ", batch " << batch << ": " << tried << " of 4 kinds of epilogue tried");
  if (element == Element::Bf16 && batch == 1) CHECK(tried >= 2);
}

TEST_CASE("a product that the library lacks is an error that names it", "[cuda][matmul]") {
  Matmuls matmuls(Search::Heuristic);
  Matmul shape = shape_of(1, false, false, Element::Fp32);
  shape.out = Element::Bf16;  // fp32 operands, bf16 result
  const Workspace workspace;
  const cuda::Stream stream;
  CHECK_THROWS_WITH(matmuls.run(shape, {}, workspace.all(), stream),
                    Catch::Contains("[48, 40] * [40, 72] fp32 -> bf16"));
}
