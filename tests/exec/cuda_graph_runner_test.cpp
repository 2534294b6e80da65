#include "exec/cuda_graph_runner.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "kernels/small_kernels.hpp"
#include "models/error.hpp"
#include "tests/exec/executed_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;
using Catch::Contains;

namespace {

// Calls `on_expert` when an expert is enqueued, and nothing else.
class FakeBlock final : public CudaBlockState {
 public:
  std::function<void(cudaStream_t)> on_expert;

  void run(const TaskKey& task, cudaStream_t stream) override {
    if (on_expert && task.step == Step::Expert) on_expert(stream);
  }
  cuda::DeviceExchange exchange(const TaskKey&) override { return {}; }
  LayerResults results() const override { return {}; }
  void poison() override {}
};

CudaBlocks fake_blocks() { return {std::make_shared<FakeBlock>()}; }

// Acts as if a rank were lost: while `lost`, exchanges hold the device until somebody gives up.
class LosableExchanges final : public CudaCommunicator {
 public:
  std::atomic<bool> lost = false;
  std::atomic<int> given_up = 0;
  std::atomic<bool> failed = false;

  std::string name() const override { return "losable"; }
  bool asynchronous() const override { return true; }
  void exchange(const cuda::DeviceExchange&, cudaStream_t stream, std::stop_token) override {
    cuda::check(cudaLaunchHostFunc(stream, wait, this));
  }
  void check_progress() override {
    if (failed) throw RunError("the exchange failed");
  }
  void give_up() override {
    ++given_up;
    lost = false;
  }

 private:
  static void wait(void* exchanges) {
    while (static_cast<LosableExchanges*>(exchanges)->lost) std::this_thread::yield();
  }
};

// Exchanges end when an expert has set a word, but their rows have arrived at once.
class ExchangesThatLeaveLate final : public CudaCommunicator {
 public:
  int awaited = 0;

  std::string name() const override { return "late"; }
  bool asynchronous() const override { return true; }
  bool awaits() const override { return true; }
  void await(int, cudaStream_t) override { ++awaited; }
  void exchange(const cuda::DeviceExchange&, cudaStream_t stream, std::stop_token) override {
    cuda::await_flags(word_.as<std::uint32_t>(), 1, /*except=*/-1, stream);
  }
  void give_up() override { set(1, aside_); }
  void set(int to, cudaStream_t stream) const {
    cuda::check(cudaMemsetAsync(word_.data(), to, word_.bytes(), stream));
  }
  void set_now(int to) const {
    set(to, aside_);
    aside_.synchronize();
  }

 private:
  cuda::DeviceBuffer word_{sizeof(std::uint32_t)};
  cuda::Stream aside_;
};

TaskGraph graph() { return build_graph("pipemoe", prime_layer(2, 1.0), one_node(1), {2, 2}); }

CudaGraphOptions options(bool cuda_graph) {
  static const auto group = single_process(Seconds{0.2});
  return {.cuda_graph = cuda_graph, .group = group.get()};
}

}  // namespace

TEST_CASE("an iteration that does not end is given up, and the schedule is named", "[exec][cuda]") {
  const bool cuda_graph = GENERATE(false, true);
  CAPTURE(cuda_graph);
  const TaskGraph tasks = graph();
  LosableExchanges exchanges;
  CudaGraphRunner runner(tasks, fake_blocks(), &exchanges, options(cuda_graph));
  CHECK_NOTHROW(runner.measure_makespan(Clock::now()));
  CHECK(exchanges.given_up == 0);
  exchanges.lost = true;
  CHECK_THROWS_WITH(runner.measure_makespan(Clock::now()),
                    Contains("iteration of pipemoe") && Contains("within 0.2 s"));
  CHECK(exchanges.given_up == 1);
}

TEST_CASE("a failed exchange ends the iteration before the time limit", "[exec][cuda]") {
  const bool cuda_graph = GENERATE(false, true);
  CAPTURE(cuda_graph);
  const TaskGraph tasks = graph();
  LosableExchanges exchanges;
  CudaGraphRunner runner(tasks, fake_blocks(), &exchanges, {.cuda_graph = cuda_graph});
  exchanges.lost = exchanges.failed = true;
  CHECK_THROWS_WITH(runner.measure_makespan(Clock::now()), "the exchange failed");
  CHECK(exchanges.given_up == 1);
}

TEST_CASE("tasks end after what they wait for", "[exec][cuda]") {
  const bool cuda_graph = GENERATE(false, true);
  const TaskGraph tasks = graph();
  LosableExchanges exchanges;
  CudaGraphRunner runner(tasks, fake_blocks(), &exchanges, {.cuda_graph = cuda_graph});
  std::vector<Interval> intervals(tasks.size());
  runner.iterate(Clock::now(), intervals);
  for (const auto& [before, after] : tasks.dependencies()) {
    CHECK(intervals[before].end <= intervals[after].start);
  }
}

TEST_CASE("queues of any number and priority run on streams of their own", "[exec][cuda]") {
  const bool cuda_graph = GENERATE(false, true);
  const bool communication_first = GENERATE(false, true);
  CAPTURE(cuda_graph, communication_first);
  const TaskGraph from = graph();
  TaskGraphBuilder builder("own queues", 1,
                           {{"to experts", Resource::Network, 2},
                            {"idle", Resource::Host, 0},
                            {"back", Resource::NodeLinks, 1},
                            {"experts", Resource::Compute, 0},
                            {"gradients", Resource::Compute, -3}});
  for (Task task : from.tasks()) {
    const bool backward = task.key.pass == Pass::Backward;
    task.queue = !is_exchange(task) ? (backward ? 4 : 3) : task.key.step == Step::Dispatch ? 0 : 2;
    builder.add(std::move(task));
  }
  for (const auto& [before, after] : from.dependencies()) builder.depend(before, after);
  for (const TaskId id : from.topological_order()) builder.enqueue(id);
  const TaskGraph tasks = std::move(builder).build();
  LosableExchanges exchanges;
  CudaGraphRunner runner(tasks, fake_blocks(), &exchanges,
                         {.cuda_graph = cuda_graph, .communication_first = communication_first});
  CHECK(runner.measure_makespan(Clock::now()) > Seconds{});
  std::vector<Interval> intervals(tasks.size());
  const auto start = Clock::now();
  runner.iterate(start, intervals);
  for (const Interval& interval : intervals) CHECK(start <= interval.start);
  for (const auto& [before, after] : tasks.dependencies()) {
    CHECK(intervals[before].end <= intervals[after].start);
  }
}

TEST_CASE("what has arrived is computed while this rank's own rows are leaving", "[exec][cuda]") {
  const bool cuda_graph = GENERATE(false, true);
  CAPTURE(cuda_graph);
  const TaskGraph tasks = graph();
  ExchangesThatLeaveLate exchanges;
  const auto block = std::make_shared<FakeBlock>();
  block->on_expert = [&](cudaStream_t stream) { exchanges.set(1, stream); };
  exchanges.set_now(1);
  CudaGraphRunner runner(tasks, {block}, &exchanges, options(cuda_graph));
  CHECK(exchanges.awaited > 0);
  exchanges.set_now(0);
  CHECK_NOTHROW(runner.measure_makespan(Clock::now()));
}
