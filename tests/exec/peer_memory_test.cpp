#include "exec/peer_memory.hpp"

#include <catch2/catch.hpp>
#include <cstdint>
#include <stdexcept>

#include "exec/stream_flags.hpp"

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

TEST_CASE("a stream waits for the flag that another one writes", "[exec][cuda]") {
  const cuda::DeviceBuffer flag(sizeof(std::uint32_t));
  cuda::check(cudaMemset(flag.data(), 0, flag.bytes()));
  cuda::check(cudaDeviceSynchronize());
  const cuda::Stream first, second;
  auto* at = flag.as<std::uint32_t>();
  const auto value = [&] {
    std::uint32_t here = 0;
    cuda::check(cudaMemcpy(&here, at, sizeof here, cudaMemcpyDeviceToHost));
    return here;
  };
  const bool captured = GENERATE(false, true);
  const auto wait = [&] { StreamFlags().wait_for(at, 7).write(at, 8).give(first); };
  cuda::Graph graph;
  if (captured) {
    graph = cuda::Graph::capture(first, wait);
    graph.launch(first);
  } else {
    wait();
  }
  CHECK(cudaStreamQuery(first) == cudaErrorNotReady);
  StreamFlags().write(at, 7).give(second);
  first.synchronize();
  CHECK(value() == 8);
}
