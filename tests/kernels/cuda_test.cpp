// Tests of streams, events, buffers and graphs, and of the small kernels.
#include <catch2/catch.hpp>

#include "kernels/small_kernels.hpp"
#include "tests/kernels/cuda_support.hpp"

using namespace pipemoe;
using namespace pipemoe::cuda;
using namespace pipemoe::test;

TEST_CASE("a failing CUDA call reports what failed and where", "[cuda][objects]") {
  CHECK_THROWS_WITH(check(cudaErrorInvalidValue),
                    Catch::Contains("CUDA: invalid argument") && Catch::Contains("cuda_test.cpp:"));
  CHECK_THROWS_AS(check(cudaErrorInvalidValue), RunError);
}

TEST_CASE("an event lets one stream wait for another", "[cuda][objects]") {
  const cuda::Stream writer, reader(cuda::Stream::Priority::High);
  Event written;
  const DeviceBuffer buffer(sizeof(float) << 24);
  const PinnedBuffer host(sizeof(float));
  for (int round = 0; round < 5; ++round) {
    check(cudaMemsetAsync(buffer.data(), round, buffer.bytes(), writer));
    written.record(writer);
    written.block(reader);
    check(cudaMemcpyAsync(host.data(), buffer.data() + buffer.bytes() - 4, 4,
                          cudaMemcpyDeviceToHost, reader));
    reader.synchronize();
    REQUIRE(*host.as<std::uint8_t>() == round);
  }
}

TEST_CASE("a graph replays what was recorded, and recording runs nothing", "[cuda][objects]") {
  const cuda::Stream stream;
  const DeviceBuffer one = to_device(std::vector<float>(8, 1)),
                     sum = to_device(std::vector<float>(8));
  const Graph graph = Graph::capture(stream, [&] {
    add_vectors({one.data(), sum.data(), Element::Fp32, 8}, stream);
  });
  stream.synchronize();
  CHECK(to_host<float>(sum.data(), 8) == std::vector<float>(8, 0));
  for (int i = 0; i < 3; ++i) graph.launch(stream);
  stream.synchronize();
  CHECK(to_host<float>(sum.data(), 8) == std::vector<float>(8, 3));
}

TEST_CASE("a recording that throws leaves the stream usable", "[cuda][objects]") {
  const cuda::Stream stream;
  CHECK_THROWS_AS(Graph::capture(stream, [] { throw RunError("mid-way"); }), RunError);
  const DeviceBuffer buffer(16);
  check(cudaMemsetAsync(buffer.data(), 1, 16, stream));
  CHECK_NOTHROW(stream.synchronize());
}

TEST_CASE("a buffer is empty after it was moved from", "[cuda][objects]") {
  DeviceBuffer a(64);
  const void* data = a.data();
  const DeviceBuffer b(std::move(a));
  CHECK(b.data() == data);
  CHECK(b.bytes() == 64);
  CHECK(a.data() == nullptr);  // NOLINT(bugprone-use-after-move)
}

TEST_CASE("random values repeat by seed and have variance 1", "[cuda][objects]") {
  const cuda::Stream stream;
  const auto values = [&](std::uint32_t seed) {
    const DeviceBuffer buffer = poisoned_device(100000, 4);
    fill_random({buffer.data(), 100000, Element::Fp32, seed}, stream);
    stream.synchronize();
    return to_host<float>(buffer.data(), 100000);
  };
  const std::vector<float> once = values(1);
  CHECK(once == values(1));
  CHECK(once != values(2));
  double sum = 0, squares = 0;
  for (const float x : once) sum += double{x}, squares += double{x} * double{x};
  CHECK(std::abs(sum / 1e5) < 0.02);  // six standard errors
  CHECK(squares / 1e5 == Approx(1).margin(0.03));
}

TEST_CASE("conversion rounds to nearest even", "[cuda][objects]") {
  const std::vector<float> values{1.0f, 1.00390625f, 1.01171875f, -3.14159f, 0, 1e30f};
  const DeviceBuffer from = to_device(values), to = poisoned_device(6, 2);
  const cuda::Stream stream;
  convert({from.data(), Element::Fp32, to.data(), Element::Bf16, 6}, stream);
  stream.synchronize();
  const std::vector<std::uint16_t> bits = to_host<std::uint16_t>(to.data(), 6);
  for (std::size_t i = 0; i < 6; ++i) CHECK(bits[i] == to_bf16(values[i]));
}
