// Tests of matrix products through cuBLASLt against float64, with every epilogue that the library
// has; and of their zeroed workspaces.
#include "kernels/cuda_matmul.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>

#include "tests/kernels/cuda_support.hpp"
#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::cuda;
using namespace pipemoe::test;
using Floats = std::vector<float>;

namespace {

struct MatmulOperands {
  Matmul shape;
  Floats a, b, d, bias;
  DeviceBuffer a_in, b_in, d_in, bias_in, mask;

  MatmulOperands(const Matmul& of, std::mt19937_64& random) : shape(of) {
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
  // Returns the product before bias and activation, [batch, m, n].
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

Matmul product_of_shape(std::int64_t batch, bool transpose_a, bool transpose_b, Element element) {
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

double product_tolerance(Element element) { return element == Element::Fp32 ? 1e-6 : 3e-3; }

void fill_bytes(std::span<std::byte> bytes, int value, cudaStream_t stream) {
  check(cudaMemsetAsync(bytes.data(), value, bytes.size(), stream));
}

std::vector<std::byte> read_bytes(std::span<const std::byte> bytes) {
  std::vector<std::byte> here(bytes.size());
  check(cudaMemcpy(here.data(), bytes.data(), bytes.size(), cudaMemcpyDeviceToHost));
  return here;
}

bool all_are(std::span<const std::byte> bytes, int value) {
  const auto here = read_bytes(bytes);
  return std::all_of(here.begin(), here.end(), [&](std::byte b) { return b == std::byte(value); });
}

std::span<std::byte> span_of(const DeviceBuffer& buffer) { return {buffer.data(), buffer.bytes()}; }

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
        Matmul shape = product_of_shape(batch, transpose_a, transpose_b, element);
        shape.accumulate = accumulate;
        CAPTURE(shape.describe());
        MatmulOperands operands(shape, random);
        operands.run(matmuls);
        REQUIRE(relative_error(operands.result(), operands.product()) <=
                product_tolerance(element));
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
    Matmul shape = product_of_shape(3, transpose_a, false, Element::Bf16);
    shape.multiprocessors = some;
    CAPTURE(shape.describe());
    MatmulOperands operands(shape, random);
    operands.run(matmuls);
    REQUIRE(relative_error(operands.result(), operands.product()) <=
            product_tolerance(Element::Bf16));
  }
}

TEST_CASE("fp32 products are in fp32 unless TF32 is asked for", "[cuda][matmul]") {
  Matmul shape = product_of_shape(1, false, false, Element::Fp32);
  std::mt19937_64 random(2);
  Matmuls matmuls(Search::Heuristic);
  MatmulOperands exact(shape, random);
  exact.run(matmuls);
  CHECK(relative_error(exact.result(), exact.product()) <= 1e-6);
  shape.tf32 = true;
  MatmulOperands rounded_operands(shape, random);
  rounded_operands.run(matmuls);
  CHECK(relative_error(rounded_operands.result(), rounded_operands.product()) <= 2e-3);
}

TEST_CASE("epilogues that the library has do what they say", "[cuda][matmul]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto batch = GENERATE(as<std::int64_t>(), 1, 3);
  const auto search = GENERATE(Search::Heuristic, Search::Timed);
  Matmuls matmuls(search);
  std::mt19937_64 random(3);
  Matmul shape = product_of_shape(batch, false, false, element);
  shape.stride_bias = batch > 1 ? shape.n : 0;
  shape.mask_ld = 128;
  shape.stride_mask = batch > 1 ? shape.m * 128 : 0;
  const auto plain = [&](Matmul of, Epilogue epilogue) {
    of.epilogue = epilogue;
    return of;
  };
  const auto with_bias = [&](const MatmulOperands& operands) {
    std::vector<double> values = operands.product();
    const auto n = static_cast<std::size_t>(shape.n), m = static_cast<std::size_t>(shape.m);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] += double{operands.bias[i / (m * n) * n + i % n]};
    }
    return values;
  };
  int tried = 0;
  if (const Matmul bias = plain(shape, Epilogue::Bias); matmuls.can(bias)) {
    MatmulOperands operands(bias, random);
    operands.run(matmuls);
    REQUIRE(relative_error(operands.result(), with_bias(operands)) <= product_tolerance(element));
    ++tried;
  }
  if (const Matmul relu = plain(shape, Epilogue::ReluBias); matmuls.can(relu)) {
    MatmulOperands operands(relu, random);
    operands.run(matmuls);
    std::vector<double> after = with_bias(operands);
    for (double& value : after) value = std::max(value, 0.0);
    REQUIRE(relative_error(operands.result(), after) <= product_tolerance(element));
    ++tried;
  }
  const Matmul relu = plain(shape, Epilogue::ReluBiasMask);
  const Matmul gradient = plain(shape, Epilogue::ReluGradient);
  if (matmuls.can(relu) && matmuls.can(gradient)) {
    MatmulOperands forward(relu, random);
    forward.run(matmuls);
    std::vector<double> before = with_bias(forward), after = before;
    for (double& value : after) value = std::max(value, 0.0);
    REQUIRE(relative_error(forward.result(), after) <= product_tolerance(element));
    MatmulOperands backward(gradient, random);
    std::swap(backward.mask, forward.mask);
    backward.run(matmuls);
    std::vector<double> masked = backward.product();
    for (std::size_t i = 0; i < masked.size(); ++i) masked[i] = before[i] > 0 ? masked[i] : 0;
    REQUIRE(relative_error(backward.result(), masked) <= product_tolerance(element));
    ++tried;
  }
  Matmul transposed = product_of_shape(batch, true, false, element);
  transposed.stride_bias = shape.stride_bias;
  if (const Matmul sums = plain(transposed, Epilogue::BiasGradientB); matmuls.can(sums)) {
    MatmulOperands operands(sums, random);
    operands.run(matmuls);
    REQUIRE(relative_error(operands.result(), operands.product()) <= product_tolerance(element));
    std::vector<double> columns;
    for (std::int64_t of = 0; of < batch; ++of) {
      for (std::int64_t j = 0; j < shape.n; ++j) {
        columns.push_back(0);
        for (std::int64_t l = 0; l < shape.k; ++l) columns.back() += operands.b_at(of, l, j);
      }
    }
    REQUIRE(relative_error(operands.bias_result(), columns) <= product_tolerance(element));
    ++tried;
  }
  WARN((element == Element::Fp32 ? "fp32" : "bf16")
       << ", batch " << batch << ": " << tried << " of 4 kinds of epilogue tried");
  if (element == Element::Bf16 && batch == 1) CHECK(tried >= 2);
}

TEST_CASE("a product that the library lacks is an error that names it", "[cuda][matmul]") {
  Matmuls matmuls(Search::Heuristic);
  Matmul shape = product_of_shape(1, false, false, Element::Fp32);
  shape.out = Element::Bf16;  // fp32 operands, bf16 result
  const Workspace workspace;
  const cuda::Stream stream;
  CHECK_THROWS_WITH(matmuls.run(shape, {}, workspace.all(), stream),
                    Catch::Contains("[48, 40] * [40, 72] fp32 -> bf16"));
}

TEST_CASE("small workspaces do not overlap, and are the same in each iteration", "[cuda][matmul]") {
  CHECK(ZeroedWorkspaces::size_of(0) == 0);
  CHECK(ZeroedWorkspaces::size_of(4) == 256);
  CHECK(ZeroedWorkspaces::size_of(257) == 512);
  CHECK(ZeroedWorkspaces::size_of(ZeroedWorkspaces::kMost + 1) == 0);
  ZeroedWorkspaces workspaces(768);
  for (int iteration = 0; iteration < 2; ++iteration) {
    workspaces.begin_iteration();
    CHECK(workspaces.take(0).empty());
    const auto first = workspaces.take(4), second = workspaces.take(300);
    CHECK(first.data() == workspaces.all().data());
    CHECK(first.size() == 256);
    CHECK(second.data() == first.data() + 256);
    CHECK(second.size() == 512);
    CHECK(workspaces.take(4).empty());
  }
  CHECK(ZeroedWorkspaces().take(4).empty());
}

TEST_CASE("only memsets of small workspaces are dropped, and the work around them keeps its order",
          "[cuda][matmul]") {
  ZeroedWorkspaces workspaces(512);
  const DeviceBuffer a(1 << 20), b(1 << 20);
  const cuda::Stream stream, aside;
  cuda::Event fork, join;
  const auto work = [&] {
    fill_bytes(span_of(a), 5, stream);
    fork.record(stream);
    fork.block(aside);
    fill_bytes(workspaces.take(4), 0, aside);  // between two streams
    join.record(aside);
    join.block(stream);
    fill_bytes(workspaces.take(4), 0, stream);
    check(cudaMemcpyAsync(b.data(), a.data(), a.bytes(), cudaMemcpyDeviceToDevice, stream));
    fill_bytes(span_of(a), 0, stream);
  };
  const Graph graph = Graph::capture(
      stream, work, [&](cudaGraph_t recorded) { workspaces.drop_memsets(recorded); });
  fill_bytes(workspaces.all(), 7, stream);
  fill_bytes(span_of(b), 1, stream);
  graph.launch(stream);
  stream.synchronize();
  CHECK(all_are(workspaces.all(), 7));
  CHECK(all_are(span_of(b), 5));
  CHECK(all_are(span_of(a), 0));
}

TEST_CASE("products without a memset of their own compute the same bits", "[cuda][matmul]") {
  const std::int64_t experts = GENERATE(1, 8, 32), rows = GENERATE(684, 1024);
  CAPTURE(experts, rows);
  constexpr std::int64_t kIn = 512, kOut = 1024;
  std::mt19937_64 random(static_cast<std::uint64_t>(experts + rows));
  const auto drawn = [&](std::int64_t count) {
    const auto values = normal_floats(random, count, Element::Bf16);
    return to_device(std::span(values), Element::Bf16);
  };
  const DeviceBuffer a = drawn(experts * rows * kIn), b = drawn(experts * kIn * kOut);
  const DeviceBuffer wanted(static_cast<std::size_t>(experts * rows * kOut * 2));
  const DeviceBuffer found(wanted.bytes());
  const Matmul shape{.m = rows,
                     .n = kOut,
                     .k = kIn,
                     .batch = experts,
                     .lda = kIn,
                     .ldb = kOut,
                     .ldd = kOut,
                     .stride_a = rows * kIn,
                     .stride_b = kIn * kOut,
                     .stride_d = rows * kOut,
                     .in = Element::Bf16,
                     .out = Element::Bf16,
                     .zeroed = true};
  Matmuls matmuls(Search::Timed);
  const Workspace workspace;
  const cuda::Stream stream;
  matmuls.run(shape, {a.data(), b.data(), wanted.data()}, workspace.all(), stream);
  const std::size_t needed = matmuls.workspace_bytes(shape);
  ZeroedWorkspaces own(2 * ZeroedWorkspaces::size_of(needed));
  std::size_t before = 0, after = 0;
  const Graph graph = Graph::capture(
      stream,
      [&] {
        for (int i = 0; i < 2; ++i) {
          const auto mine = own.take(needed);
          matmuls.run(shape, {a.data(), b.data(), found.data()},
                      mine.empty() ? workspace.all() : mine, stream);
        }
      },
      [&](cudaGraph_t recorded) {
        check(cudaGraphGetNodes(recorded, nullptr, &before));
        own.drop_memsets(recorded);
        check(cudaGraphGetNodes(recorded, nullptr, &after));
      });
  WARN(experts << " x [" << rows << ", " << kIn << "] * [" << kIn << ", " << kOut << "]: workspace "
               << needed << " bytes, " << before << " nodes recorded, " << after << " launched");
  for (int iteration = 0; iteration < 3; ++iteration) {
    fill_bytes(span_of(found), 0xff, stream);
    if (!own.all().empty()) fill_bytes(own.all(), 0, stream);
    graph.launch(stream);
    stream.synchronize();
    CHECK(read_bytes(span_of(found)) == read_bytes(span_of(wanted)));
  }
}
