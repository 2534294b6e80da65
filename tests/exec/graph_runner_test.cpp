#include "exec/graph_runner.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "exec/calibration/measured_graphs.hpp"
#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/exec/executed_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;
using namespace std::chrono_literals;

namespace {

// A queue of every resource, and two that communicate on one.
constexpr QueueId kUp = 0, kExperts = 1, kDown = 2, kInside = 3, kCopies = 4, kHost = 5;
constexpr QueueId kNumQueues = 6;

TaskGraphBuilder builder_of_all_queues(const char* name) {
  return {name,
          1,
          {{"up", Resource::Network, 2},
           {"experts", Resource::Compute, 0},
           {"down", Resource::Network, 1},
           {"inside", Resource::NodeLinks, 1},
           {"copies", Resource::CopyEngine, 0},
           {"host", Resource::Host, 0}}};
}

// Every queue has a step of its own.
Task task(QueueId queue, int chunk) {
  const auto of = [&](Step step, Pass pass, Work work) {
    return Task{{.pass = pass, .step = step, .chunk = chunk}, queue, std::move(work)};
  };
  switch (queue) {
    case kUp:
      return of(Step::Dispatch, Pass::Forward, Collective{});
    case kExperts:
      return of(Step::Expert, Pass::Forward, Products{});
    case kDown:
      return of(Step::Combine, Pass::Forward, Collective{});
    case kInside:
      return of(Step::Dispatch, Pass::Backward, Collective{});
    case kCopies:
      return of(Step::Permute, Pass::Forward, MemoryTraffic{});
    default:
      return of(Step::Gate, Pass::Forward, Timed{});
  }
}

// `count` tasks on each queue, which wait for nothing but their queue.
TaskGraphBuilder queues_of(int count) {
  TaskGraphBuilder builder = builder_of_all_queues("test");
  for (int chunk = 0; chunk < count; ++chunk) {
    for (QueueId queue = 0; queue < kNumQueues; ++queue) builder.append(task(queue, chunk));
  }
  return builder;
}

// D0 | D1 with E0 | E1: expert i waits for dispatch i.
struct TwoChunks {
  TaskGraphBuilder builder = builder_of_all_queues("test");
  TaskId dispatch[2], expert[2];

  TwoChunks() {
    for (int i = 0; i < 2; ++i) {
      dispatch[i] = builder.append(task(kUp, i));
      expert[i] = builder.append(task(kExperts, i));
      builder.depend(dispatch[i], expert[i]);
    }
  }
};

// 40 tasks on random queues, in a random order along which some wait for others.
TaskGraph random_graph(std::mt19937& random) {
  TaskGraphBuilder builder = builder_of_all_queues("random");
  std::map<QueueId, int> chunks;
  std::vector<TaskId> ids;
  for (int i = 0; i < 40; ++i) {
    const auto queue = static_cast<QueueId>(random() % kNumQueues);
    const TaskId id = builder.append(task(queue, chunks[queue]++));
    std::set<TaskId> before;
    for (std::size_t edges = ids.empty() ? 0 : random() % 4; edges > 0; --edges) {
      before.insert(ids[random() % ids.size()]);
    }
    for (const TaskId one : before) builder.depend(one, id);
    ids.push_back(id);
  }
  return std::move(builder).build();
}

std::vector<Interval> iterate_once(const TaskGraph& graph, ThreadGraphRunner::RunTask run) {
  std::vector<Interval> intervals(graph.size());
  ThreadGraphRunner workers(graph, std::move(run));
  workers.iterate(Clock::now(), intervals);
  return intervals;
}

}  // namespace

TEST_CASE("each queue takes its tasks in order on a thread of its own", "[exec][queues]") {
  const TaskGraph graph = queues_of(20).build();
  std::mutex mutex;
  std::map<QueueId, std::vector<int>> taken;
  std::map<QueueId, std::set<std::thread::id>> threads;
  iterate_once(graph, [&](const Task& one, std::stop_token) {
    const std::lock_guard lock(mutex);
    taken[one.queue].push_back(one.key.chunk);
    threads[one.queue].insert(std::this_thread::get_id());
  });
  std::set<std::thread::id> all;
  for (QueueId queue = 0; queue < kNumQueues; ++queue) {
    REQUIRE(taken[queue].size() == 20);
    CHECK(std::is_sorted(taken[queue].begin(), taken[queue].end()));
    CHECK(threads[queue].size() == 1);
    all.insert(threads[queue].begin(), threads[queue].end());
  }
  CHECK(all.size() == kNumQueues);
  CHECK(all.count(std::this_thread::get_id()) == 0);
}

TEST_CASE("no task begins before all that it needs have ended", "[exec][queues]") {
  std::mt19937 random(1);
  for (int trial = 0; trial < 50; ++trial) {
    const TaskGraph graph = random_graph(random);
    std::map<std::string, TaskId> id_of;
    for (TaskId id = 0; id < graph.size(); ++id) id_of[graph.task(id).name()] = id;
    // A clock that ticks at every begin and end: whatever is ordered by it was ordered for real.
    std::atomic<int> tick = 1;
    std::vector<int> begin(graph.size(), 0), end(graph.size(), 0);
    iterate_once(graph, [&](const Task& one, std::stop_token) {
      const TaskId id = id_of.at(one.name());
      begin[id] = tick++;
      if (id % 3 == 0) std::this_thread::yield();
      end[id] = tick++;
    });
    for (TaskId id = 0; id < graph.size(); ++id) {
      REQUIRE(begin[id] > 0);
      for (const auto& successor : graph.successors(id)) {
        REQUIRE(end[id] < begin[successor.task]);
      }
    }
  }
}

TEST_CASE("queues overlap as the graph allows", "[exec][queues]") {
  // The second dispatch and the first experts wait for each other: one after another, whichever
  // came first would wait for ever.
  TwoChunks chunks;
  const TaskGraph graph = std::move(chunks.builder).build();
  std::vector<Interval> intervals(graph.size());
  std::array<std::atomic<bool>, 2> there{};
  const auto meet = [&](std::size_t self) {
    there[self] = true;
    const auto give_up = Clock::now() + 60s;
    while (!there[1 - self] && Clock::now() < give_up) std::this_thread::sleep_for(1ms);
    return there[1 - self].load();
  };
  std::atomic<int> met{0};
  ThreadGraphRunner workers(graph, [&](const Task& task, std::stop_token) {
    if (task == graph.task(chunks.dispatch[1])) met += meet(0);
    if (task == graph.task(chunks.expert[0])) met += meet(1);
  });
  workers.iterate(Clock::now(), intervals);
  CHECK(met == 2);
  const Interval& dispatch1 = intervals[chunks.dispatch[1]];
  const Interval& expert0 = intervals[chunks.expert[0]];
  CHECK(std::max(dispatch1.start, expert0.start) < std::min(dispatch1.end, expert0.end));
}

TEST_CASE("an interval begins when the last thing that its task waited for has ended",
          "[exec][queues]") {
  TwoChunks chunks;
  const TaskGraph graph = std::move(chunks.builder).build();
  std::vector<Interval> intervals(graph.size());
  ThreadGraphRunner workers(graph, [](const Task& one, std::stop_token) {
    std::this_thread::sleep_for(one.queue == kExperts ? 3ms : 1ms);
  });
  const auto start = Clock::now();
  workers.iterate(start, intervals);
  const auto at = [&](TaskId id) { return intervals[id]; };
  CHECK(at(chunks.dispatch[0]).start == start);
  CHECK(at(chunks.dispatch[1]).start == at(chunks.dispatch[0]).end);
  CHECK(at(chunks.expert[0]).start == at(chunks.dispatch[0]).end);
  CHECK(at(chunks.expert[1]).start ==
        std::max(at(chunks.dispatch[1]).end, at(chunks.expert[0]).end));
  for (const Interval& interval : intervals) CHECK(interval.end > interval.start);
}

TEST_CASE("an iteration does not begin before its start", "[exec][queues]") {
  const TaskGraph graph = queues_of(1).build();
  std::vector<Interval> intervals(graph.size());
  const auto start = Clock::now() + 50ms;
  std::atomic<int> early = 0;
  ThreadGraphRunner workers(graph,
                            [&](const Task&, std::stop_token) { early += Clock::now() < start; });
  workers.iterate(start, intervals);
  CHECK(early == 0);
  for (const Interval& interval : intervals) CHECK(interval.start == start);
}

TEST_CASE("a task that throws ends the iteration with its exception and stops the others",
          "[exec][queues]") {
  // Dispatch 0 fails while expert 0, on its own, would take a minute and expert 1 waits for it.
  TaskGraphBuilder builder = builder_of_all_queues("test");
  builder.append(task(kExperts, 0));
  const TaskId failing = builder.append(task(kUp, 0));
  const TaskId next = builder.append(task(kUp, 1));
  const TaskId waiting = builder.append(task(kDown, 0));
  builder.depend(failing, waiting);
  builder.depend(0, next);
  const TaskGraph graph = std::move(builder).build();
  std::atomic<int> ran = 0;
  const auto start = Clock::now();
  const auto run = [&](const Task& one, std::stop_token stop) {
    ++ran;
    if (one.queue == kUp) {
      std::this_thread::sleep_for(20ms);
      throw RunError("the link broke");
    }
    while (!stop.stop_requested() && Clock::now() < start + 60s) std::this_thread::sleep_for(1ms);
  };
  CHECK_THROWS_WITH(iterate_once(graph, run), "the link broke");
  CHECK(Clock::now() - start < 10s);
  CHECK(ran == 2);  // neither what follows on the queue nor what waits for the data
}

TEST_CASE("of several failures the first is reported", "[exec][queues]") {
  const TaskGraph graph = queues_of(1).build();
  const auto run = [](const Task& one, std::stop_token stop) {
    if (one.queue == kExperts) throw RunError("first");
    while (!stop.stop_requested()) std::this_thread::sleep_for(1ms);
    throw RunError("exchange stopped");
  };
  CHECK_THROWS_WITH(iterate_once(graph, run), "first");
}

TEST_CASE("thousands of iterations run every task once each", "[exec][queues]") {
  std::mt19937 random(2);
  const TaskGraph graph = random_graph(random);
  std::map<std::string, std::atomic<int>> runs;
  for (const Task& one : graph.tasks()) runs[one.name()] = 0;
  ThreadGraphRunner workers(graph,
                            [&](const Task& one, std::stop_token) { ++runs.at(one.name()); });
  std::vector<Interval> intervals(graph.size());
  for (int i = 1; i <= 2000; ++i) {
    const auto start = Clock::now();
    workers.iterate(start, intervals);
    REQUIRE(
        std::all_of(runs.begin(), runs.end(), [&](const auto& run) { return run.second == i; }));
    REQUIRE(std::all_of(intervals.begin(), intervals.end(), [&](const Interval& interval) {
      return start <= interval.start && interval.start <= interval.end;
    }));
  }
}

TEST_CASE("workers that never ran can be destroyed", "[exec][queues]") {
  const TaskGraph graph = queues_of(1).build();
  int runs = 0;
  {
    const ThreadGraphRunner workers(graph, [&](const Task&, std::stop_token) { ++runs; });
  }
  CHECK(runs == 0);
}

namespace {

// The exchanges that each task awaits, by name. Tasks that await none are left out.
std::map<std::string, std::vector<std::string>> named_exchanges(const TaskGraph& graph) {
  std::map<std::string, std::vector<std::string>> named;
  const auto all = awaited_exchanges(graph);
  for (TaskId id = 0; id < graph.size(); ++id) {
    for (const TaskId exchange : all[id]) {
      named[graph.task(id).name()].push_back(graph.task(exchange).name());
    }
  }
  return named;
}

}  // namespace

TEST_CASE("each chunk's experts await its exchange, the last task the last one", "[exec]") {
  const TaskGraph graph = build_graph("pipemoe", prime_layer(2, 1.0), one_node(1), {2, 2});
  const auto named = named_exchanges(graph);
  using Names = std::vector<std::string>;
  CHECK(named.at("block0.forward.expert.0") == Names{"block0.forward.dispatch.0"});
  CHECK(named.at("block0.forward.expert.1") == Names{"block0.forward.dispatch.1"});
  CHECK(named.at("block0.forward.unpermute.0") == Names{"block0.forward.combine.1"});
  CHECK(named.at("block0.backward.permute.0") == Names{"block0.backward.dispatch.1"});
  CHECK(named.size() == 6);
}

TEST_CASE("whatever a computation needs has been awaited on its queue", "[exec]") {
  const std::int64_t degree = GENERATE(1, 2, 4, 8);
  const std::string name = GENERATE(as<std::string>{}, "pipemoe", "pipemoe-deferred", "tutel");
  CAPTURE(name, degree);
  const TaskGraph graph = build_graph(name, prime_layer(2, 1.0), one_node(1), {degree, degree});
  const auto all = awaited_exchanges(graph);
  std::map<TaskId, std::size_t> place;  // the position of each exchange in its queue
  const auto num_queues = static_cast<QueueId>(graph.queues().size());
  for (QueueId queue = 0; queue < num_queues; ++queue) {
    for (const TaskId id : graph.queue_order(queue)) place.emplace(id, place.size());
  }
  for (QueueId queue = 0; queue < num_queues; ++queue) {
    std::map<QueueId, std::size_t> arrived;  // the position after the last one
    for (const TaskId id : graph.queue_order(queue)) {
      for (const TaskId exchange : all[id]) {
        std::size_t& last = arrived[graph.task(exchange).queue];
        CHECK(place[exchange] + 1 > last);  // none twice
        last = place[exchange] + 1;
      }
      for (const auto& [before, after] : graph.dependencies()) {
        if (after != id || !is_exchange(graph.task(before))) continue;
        if (is_exchange(graph.task(id))) continue;
        CHECK(place[before] < arrived[graph.task(before).queue]);
      }
    }
  }
}

TEST_CASE("a computation awaits the last exchange that it needs of each queue", "[exec]") {
  // E0 needs D0 on one queue and C0 on another; E1 needs D0 again, which has arrived, and C1.
  TaskGraphBuilder builder = builder_of_all_queues("test");
  const TaskId dispatch = builder.append(task(kUp, 0));
  const TaskId combines[] = {builder.append(task(kDown, 0)), builder.append(task(kDown, 1))};
  for (int i = 0; i < 2; ++i) {
    const TaskId expert = builder.append(task(kExperts, i));
    builder.depend(dispatch, expert);
    builder.depend(combines[i], expert);
  }
  const auto named = named_exchanges(std::move(builder).build());
  using Names = std::vector<std::string>;
  CHECK(named.at("block0.forward.expert.0") ==
        Names{"block0.forward.dispatch.0", "block0.forward.combine.0"});
  CHECK(named.at("block0.forward.expert.1") == Names{"block0.forward.combine.1"});
  CHECK(named.size() == 2);
}

TEST_CASE("an iteration begins and ends on the first queue that computes", "[exec][queues]") {
  CHECK(main_queue(queues_of(1).build()) == kExperts);
  TaskGraphBuilder builder("only moves", 1,
                           {{"host", Resource::Host, 0}, {"network", Resource::Network, 0}});
  builder.append({{.step = Step::Dispatch}, 1, Collective{}});
  CHECK(main_queue(std::move(builder).build()) == 0);
}

TEST_CASE("exchanges await nothing", "[exec]") {
  const TaskGraph graph = grouped_chunks(prime_layer(2, 1.0), 1, 3);
  const auto all = awaited_exchanges(graph);
  std::size_t count = 0;
  for (TaskId id = 0; id < graph.size(); ++id) {
    if (is_exchange(graph.task(id))) CHECK(all[id].empty());
    count += all[id].size();
  }
  CHECK(count == 1);
}
