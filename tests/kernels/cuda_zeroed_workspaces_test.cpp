#include <catch2/catch.hpp>
#include <cstring>

#include "kernels/cuda_matmul.hpp"
#include "kernels/zeroed_workspaces.hpp"
#include "tests/kernels/cuda_support.hpp"
#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::cuda;
using namespace pipemoe::test;

namespace {

void fill(std::span<std::byte> bytes, int value, cudaStream_t stream) {
  check(cudaMemsetAsync(bytes.data(), value, bytes.size(), stream));
}

std::vector<std::byte> read(std::span<const std::byte> bytes) {
  std::vector<std::byte> here(bytes.size());
  check(cudaMemcpy(here.data(), bytes.data(), bytes.size(), cudaMemcpyDeviceToHost));
  return here;
}

bool all_are(std::span<const std::byte> bytes, int value) {
  const auto here = read(bytes);
  return std::all_of(here.begin(), here.end(), [&](std::byte b) { return b == std::byte(value); });
}

std::span<std::byte> span_of(const DeviceBuffer& buffer) { return {buffer.data(), buffer.bytes()}; }

}  // namespace

TEST_CASE("small workspaces are apart from each other, and the same in each iteration",
          "[cuda][matmul]") {
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

TEST_CASE(
    "only memsets of small workspaces are dropped, and what they stood between keeps its order",
    "[cuda][matmul]") {
  ZeroedWorkspaces workspaces(512);
  const DeviceBuffer a(1 << 20), b(1 << 20);
  const cuda::Stream stream, aside;
  cuda::Event fork, join;
  const auto work = [&] {
    fill(span_of(a), 5, stream);
    fork.record(stream);
    fork.block(aside);
    fill(workspaces.take(4), 0, aside);  // between two streams
    join.record(aside);
    join.block(stream);
    fill(workspaces.take(4), 0, stream);
    check(cudaMemcpyAsync(b.data(), a.data(), a.bytes(), cudaMemcpyDeviceToDevice, stream));
    fill(span_of(a), 0, stream);
  };
  const Graph graph = Graph::capture(
      stream, work, [&](cudaGraph_t recorded) { workspaces.drop_memsets(recorded); });
  fill(workspaces.all(), 7, stream);
  fill(span_of(b), 1, stream);
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
    fill(span_of(found), 0xff, stream);
    if (!own.all().empty()) fill(own.all(), 0, stream);
    graph.launch(stream);
    stream.synchronize();
    CHECK(read(span_of(found)) == read(span_of(wanted)));
  }
}
