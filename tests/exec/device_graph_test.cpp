#include "exec/device_graph.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

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
  CHECK_NOTHROW(prepared.run(Clock::now()));
  CHECK(exchange.given_up == 0);
  exchange.lost = true;
  CHECK_THROWS_WITH(prepared.run(Clock::now()),
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
  CHECK_THROWS_WITH(prepared.run(Clock::now()), "the exchange failed");
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
  LosableExchange exchange;
  DeviceGraph::Work work = exchange.work();
  int awaited = 0;
  work.await = [&](const Task&, cudaStream_t) { ++awaited; };
  work.give = [&, give = work.give](const Task& task, cudaStream_t stream) {
    give(task, stream);
    if (task.key().operation != OperationKind::Expert) return;
    const auto sent = [](void* to) { static_cast<LosableExchange*>(to)->lost = false; };
    cuda::check(cudaLaunchHostFunc(stream, sent, &exchange));
  };
  DeviceGraph prepared(tasks, work, options(cuda_graph));
  CHECK(awaited > 0);
  exchange.lost = true;
  CHECK_NOTHROW(prepared.run(Clock::now()));
  CHECK(exchange.given_up == 0);
}
