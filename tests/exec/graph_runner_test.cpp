#include "exec/graph_runner.hpp"

#include <algorithm>
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

Task task(Stream stream, int chunk) {
  if (stream == Stream::Compute) return {0, chunk, Phase::Forward, stream, ExpertFfn{}};
  const Purpose purpose = stream == Stream::InterNode ? Purpose::Dispatch : Purpose::Combine;
  return {0, chunk, Phase::Forward, stream, AllToAll{purpose, {}}};
}

// `count` tasks on each stream, which wait for nothing but their stream.
TaskGraphBuilder streams_of(int count) {
  TaskGraphBuilder builder("test", 1);
  for (int chunk = 0; chunk < count; ++chunk) {
    for (const Stream stream : kStreams) builder.append(task(stream, chunk));
  }
  return builder;
}

// D0 | D1 with E0 | E1: expert i waits for dispatch i.
struct TwoChunks {
  TaskGraphBuilder builder{"test", 1};
  TaskId dispatch[2], expert[2];

  TwoChunks() {
    for (int i = 0; i < 2; ++i) {
      dispatch[i] = builder.append(task(Stream::InterNode, i));
      expert[i] = builder.append(task(Stream::Compute, i));
      builder.depend(dispatch[i], expert[i]);
    }
  }
};

// 40 tasks on random streams, in a random order along which some wait for others.
TaskGraph random_graph(std::mt19937& random) {
  TaskGraphBuilder builder("random", 1);
  std::map<Stream, int> chunks;
  std::vector<TaskId> ids;
  for (int i = 0; i < 40; ++i) {
    const Stream stream = kStreams[random() % kStreams.size()];
    const TaskId id = builder.append(task(stream, chunks[stream]++));
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

TEST_CASE("each stream takes its tasks in order on a thread of its own", "[exec][streams]") {
  const TaskGraph graph = streams_of(20).build();
  std::mutex mutex;
  std::map<Stream, std::vector<int>> taken;
  std::map<Stream, std::set<std::thread::id>> threads;
  iterate_once(graph, [&](const Task& one, std::stop_token) {
    const std::lock_guard lock(mutex);
    taken[one.stream].push_back(one.chunk);
    threads[one.stream].insert(std::this_thread::get_id());
  });
  std::set<std::thread::id> all;
  for (const Stream stream : kStreams) {
    REQUIRE(taken[stream].size() == 20);
    CHECK(std::is_sorted(taken[stream].begin(), taken[stream].end()));
    CHECK(threads[stream].size() == 1);
    all.insert(threads[stream].begin(), threads[stream].end());
  }
  CHECK(all.size() == kStreams.size());
  CHECK(all.count(std::this_thread::get_id()) == 0);
}

TEST_CASE("no task begins before all that it needs have ended", "[exec][streams]") {
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
      graph.for_each_successor(
          id, [&, before = id](TaskId after, Precedence) { REQUIRE(end[before] < begin[after]); });
    }
  }
}

TEST_CASE("streams overlap as the graph allows", "[exec][streams]") {
  // 100 ms each: D0 0-100, D1 100-200 with E0 100-200, E1 200-300. One after another: 400 ms, and
  // no sleep is ever shorter, so that a makespan below 400 ms cannot come without overlap.
  TwoChunks chunks;
  const TaskGraph graph = std::move(chunks.builder).build();
  std::vector<Interval> intervals(graph.size());
  ThreadGraphRunner workers(
      graph, [](const Task&, std::stop_token) { std::this_thread::sleep_for(100ms); });
  const auto start = Clock::now();
  workers.iterate(start, intervals);
  const Interval& dispatch1 = intervals[chunks.dispatch[1]];
  const Interval& expert0 = intervals[chunks.expert[0]];
  const Interval& expert1 = intervals[chunks.expert[1]];
  CHECK(expert1.end - start >= 300ms);
  CHECK(expert1.end - start < 390ms);
  CHECK(std::min(dispatch1.end, expert0.end) - std::max(dispatch1.start, expert0.start) >= 60ms);
}

TEST_CASE("an interval begins when the last thing that its task waited for has ended",
          "[exec][streams]") {
  TwoChunks chunks;
  const TaskGraph graph = std::move(chunks.builder).build();
  std::vector<Interval> intervals(graph.size());
  ThreadGraphRunner workers(graph, [](const Task& one, std::stop_token) {
    std::this_thread::sleep_for(one.stream == Stream::Compute ? 3ms : 1ms);
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

TEST_CASE("an iteration does not begin before its start", "[exec][streams]") {
  const TaskGraph graph = streams_of(1).build();
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
          "[exec][streams]") {
  // Dispatch 0 fails while expert 0, on its own, would take a minute and expert 1 waits for it.
  TaskGraphBuilder builder("test", 1);
  builder.append(task(Stream::Compute, 0));
  const TaskId failing = builder.append(task(Stream::InterNode, 0));
  const TaskId next = builder.append(task(Stream::InterNode, 1));
  const TaskId waiting = builder.append(task(Stream::IntraNode, 0));
  builder.depend(failing, waiting);
  builder.depend(0, next);
  const TaskGraph graph = std::move(builder).build();
  std::atomic<int> ran = 0;
  const auto start = Clock::now();
  const auto run = [&](const Task& one, std::stop_token stop) {
    ++ran;
    if (one.stream == Stream::InterNode) {
      std::this_thread::sleep_for(20ms);
      throw RunError("the link broke");
    }
    while (!stop.stop_requested() && Clock::now() < start + 60s) std::this_thread::sleep_for(1ms);
  };
  CHECK_THROWS_WITH(iterate_once(graph, run), "the link broke");
  CHECK(Clock::now() - start < 10s);
  CHECK(ran == 2);  // neither what follows on the stream nor what waits for the data
}

TEST_CASE("of several failures the first is reported", "[exec][streams]") {
  const TaskGraph graph = streams_of(1).build();
  const auto run = [](const Task& one, std::stop_token stop) {
    if (one.stream == Stream::Compute) throw RunError("first");
    while (!stop.stop_requested()) std::this_thread::sleep_for(1ms);
    throw RunError("exchange stopped");
  };
  CHECK_THROWS_WITH(iterate_once(graph, run), "first");
}

TEST_CASE("thousands of iterations run every task once each", "[exec][streams]") {
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

TEST_CASE("workers that never ran can be destroyed", "[exec][streams]") {
  const TaskGraph graph = streams_of(1).build();
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
  const TaskGraph graph = schedule("pipemoe", prime_layer(2, 1.0), one_node(1), {2, 2});
  const auto named = named_exchanges(graph);
  using Names = std::vector<std::string>;
  CHECK(named.at("layer0.forward.expert.0") == Names{"layer0.forward.dispatch.0"});
  CHECK(named.at("layer0.forward.expert.1") == Names{"layer0.forward.dispatch.1"});
  CHECK(named.at("layer0.forward.unpermute.0") == Names{"layer0.forward.combine.1"});
  CHECK(named.at("layer0.backward.permute.0") == Names{"layer0.backward.dispatch.1"});
  CHECK(named.size() == 6);
}

TEST_CASE("whatever a computation needs has been awaited on its stream", "[exec]") {
  const std::int64_t degree = GENERATE(1, 2, 4, 8);
  const std::string name = GENERATE(as<std::string>{}, "pipemoe", "pipemoe-deferred", "tutel");
  CAPTURE(name, degree);
  const TaskGraph graph = schedule(name, prime_layer(2, 1.0), one_node(1), {degree, degree});
  const auto all = awaited_exchanges(graph);
  std::map<TaskId, std::size_t> place;  // the position of each exchange in its stream
  for (const Stream stream : kStreams) {
    for (const TaskId id : graph.stream_order(stream)) place.emplace(id, place.size());
  }
  for (const Stream stream : kStreams) {
    std::map<Stream, std::size_t> arrived;  // the position after the last one
    for (const TaskId id : graph.stream_order(stream)) {
      for (const TaskId exchange : all[id]) {
        std::size_t& last = arrived[graph.task(exchange).stream];
        CHECK(place[exchange] + 1 > last);  // none twice
        last = place[exchange] + 1;
      }
      for (const auto& [before, after] : graph.dependencies()) {
        if (after != id || !is_exchange(graph.task(before))) continue;
        if (is_exchange(graph.task(id))) continue;
        CHECK(place[before] < arrived[graph.task(before).stream]);
      }
    }
  }
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
