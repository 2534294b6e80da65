#include "exec/device_graph.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdint>
#include <thread>

#include "kernels/device_flags.hpp"
#include "models/error.hpp"
#include "tests/exec/executed_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;
using Catch::Contains;

namespace {

// Stands for an exchange with a lost rank: the first task holds the device until somebody gives up.
struct LosableExchange {
  std::atomic<bool> lost = false;
  std::atomic<int> given_up = 0;
  std::atomic<bool> failed = false;

  DeviceGraph::Work work() {
    return {[](cudaStream_t) {},
            [] {},
            [this](const Task& task, cudaStream_t stream) {
              if (task.key().operation != OperationKind::Dispatch) return;
              cuda::check(cudaLaunchHostFunc(stream, wait, this));
            },
            {},
            {},
            [this] {
              if (failed) throw RunError("the exchange failed");
            },
            [this] {
              ++given_up;
              lost = false;
            }};
  }
  static void wait(void* exchange) {
    while (static_cast<LosableExchange*>(exchange)->lost) std::this_thread::yield();
  }
};

TaskGraph graph() { return schedule("pipemoe", prime_layer(2, 1.0), one_node(1), {2, 2}); }

DeviceGraphOptions options(bool cuda_graph) {
  return {.cuda_graph = cuda_graph, .deadline = Seconds{0.2}};
}

}  // namespace

TEST_CASE("an iteration that does not end is given up, and the schedule is named", "[exec][cuda]") {
  const bool cuda_graph = GENERATE(false, true);
  CAPTURE(cuda_graph);
  const TaskGraph tasks = graph();
  LosableExchange exchange;
  DeviceGraph prepared(tasks, exchange.work(), options(cuda_graph));
  CHECK_NOTHROW(prepared.measure_makespan(Clock::now()));
  CHECK(exchange.given_up == 0);
  exchange.lost = true;
  CHECK_THROWS_WITH(prepared.measure_makespan(Clock::now()),
                    Contains("schedule pipemoe") && Contains("within 0.2 s"));
  CHECK(exchange.given_up == 1);
}

TEST_CASE("a failed exchange ends the iteration before its deadline", "[exec][cuda]") {
  const bool cuda_graph = GENERATE(false, true);
  CAPTURE(cuda_graph);
  const TaskGraph tasks = graph();
  LosableExchange exchange;
  DeviceGraph prepared(tasks, exchange.work(), {.cuda_graph = cuda_graph});
  exchange.lost = exchange.failed = true;
  CHECK_THROWS_WITH(prepared.measure_makespan(Clock::now()), "the exchange failed");
  CHECK(exchange.given_up == 1);
}

TEST_CASE("tasks end after what they wait for", "[exec][cuda]") {
  const bool cuda_graph = GENERATE(false, true);
  const TaskGraph tasks = graph();
  LosableExchange exchange;
  DeviceGraph prepared(tasks, exchange.work(), {.cuda_graph = cuda_graph});
  std::vector<Interval> intervals(tasks.size());
  prepared.iterate(Clock::now(), intervals);
  for (const auto& [before, after] : tasks.dependencies()) {
    CHECK(intervals[before].end <= intervals[after].start);
  }
}

TEST_CASE("what has arrived is computed while this rank's own rows are leaving", "[exec][cuda]") {
  const bool cuda_graph = GENERATE(false, true);
  CAPTURE(cuda_graph);
  const TaskGraph tasks = graph();
  const cuda::DeviceBuffer word(sizeof(std::uint32_t));
  const cuda::Stream aside;
  const auto set = [&](int to, cudaStream_t stream) {
    cuda::check(cudaMemsetAsync(word.data(), to, word.bytes(), stream));
  };
  int awaited = 0;
  DeviceGraph::Work work{
      .align = [](cudaStream_t) {},
      .begin = [] {},
      .give =
          [&](const Task& task, cudaStream_t stream) {
            const OperationKind kind = task.key().operation;
            if (kind == OperationKind::Dispatch) {  // leaves when an expert has computed
              cuda::await_flags(word.as<std::uint32_t>(), 1, /*except=*/-1, stream);
            } else if (kind == OperationKind::Expert) {
              set(1, stream);
            }
          },
      .await = [&](const Task&, cudaStream_t) { ++awaited; },
      .check = [] {},
      .give_up = [&] { set(1, aside); }};
  set(1, aside);
  aside.synchronize();
  DeviceGraph prepared(tasks, work, options(cuda_graph));
  CHECK(awaited > 0);
  set(0, aside);
  aside.synchronize();
  CHECK_NOTHROW(prepared.measure_makespan(Clock::now()));
}
