#include "exec/peer_copy_communicator.hpp"

#include <catch2/catch.hpp>
#include <cstdint>
#include <stdexcept>

#include "kernels/small_kernels.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;

TEST_CASE("memory that ranks share is known by address and used again", "[exec][cuda]") {
  const auto group = single_process();
  const auto memory = PeerMemory::join(*group);
  const cuda::DeviceBuffer kept = memory->allocate(1000);
  CHECK(memory->of_rank(0, kept.data() + 10) == kept.data() + 10);
  const std::byte* given_back = nullptr;
  {
    const cuda::DeviceBuffer buffer = memory->allocate(3000);
    CHECK(buffer.bytes() == 3000);
    CHECK(buffer.data() != kept.data());
    given_back = buffer.data();
  }
  CHECK(memory->allocate(3000).data() == given_back);
  CHECK(memory->allocate(2000).data() != given_back);
  const cuda::DeviceBuffer elsewhere(16);
  CHECK_THROWS_AS(memory->of_rank(0, elsewhere.data()), std::logic_error);
}

TEST_CASE("a stream waits for all flags but one that another stream writes", "[exec][cuda]") {
  constexpr int kFlags = 40, kMine = 3, kDone = kFlags;
  const cuda::DeviceBuffer words((kFlags + 1) * sizeof(std::uint32_t));
  cuda::check(cudaMemset(words.data(), 0, words.bytes()));
  cuda::check(cudaDeviceSynchronize());
  const cuda::Stream first, second;
  auto* at = words.as<std::uint32_t>();
  const auto done = [&] {
    std::uint32_t here = 0;
    cuda::check(cudaMemcpyAsync(&here, at + kDone, sizeof here, cudaMemcpyDeviceToHost, second));
    second.synchronize();
    return here;
  };
  const bool captured = GENERATE(false, true);
  const auto wait = [&] {
    cuda::await_flags(at, kFlags, kMine, first);
    StreamFlags().write(at + kDone, 8).enqueue(first);
  };
  cuda::Graph graph;
  if (captured) {
    graph = cuda::Graph::capture(first, wait);
    graph.launch(first);
  } else {
    wait();
  }
  StreamFlags last, others;
  for (int i = 0; i < kFlags; ++i) {
    if (i == kMine) continue;
    (i == kFlags - 1 ? last : others).write(at + i, 7);
  }
  others.enqueue(second);
  second.synchronize();
  CHECK(done() == 0);
  CHECK(cudaStreamQuery(first) == cudaErrorNotReady);
  last.enqueue(second);
  first.synchronize();
  CHECK(done() == 8);
}
