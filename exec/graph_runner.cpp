#include "exec/graph_runner.hpp"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

// The kernel's first version of struct sched_attr, which glibc 2.36 does not declare.
struct SchedulerAttributes {
  std::uint32_t size = sizeof(SchedulerAttributes);
  std::uint32_t policy = SCHED_OTHER;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t runtime_ns = 0;  // SCHED_OTHER reads it as the time slice
  std::uint64_t deadline_ns = 0;
  std::uint64_t period_ns = 0;
};

// Makes the calling thread's timers fire on time. By default the kernel may delay them by 50 us.
void use_precise_timers() { prctl(PR_SET_TIMERSLACK, 1); }

// Asks the scheduler for the shortest time slice, for a thread that mostly sleeps on a core where
// another thread computes. On Linux 6.12 and later a thread that wakes with a shorter slice takes
// the core at once. Older kernels ignore the request, and waking up may take milliseconds.
void become_responsive() {
  constexpr std::uint64_t kShortestSlice = 100'000;
  SchedulerAttributes attributes;
  attributes.runtime_ns = kShortestSlice;
  syscall(SYS_sched_setattr, 0, &attributes, 0);  // a kernel that refuses it changes nothing
}

QueueId num_queues(const TaskGraph& graph) { return static_cast<QueueId>(graph.queues().size()); }

// The position of each task in its queue, from 1.
std::vector<std::size_t> positions(const TaskGraph& graph) {
  std::vector<std::size_t> positions(graph.size());
  for (QueueId queue = 0; queue < num_queues(graph); ++queue) {
    std::size_t position = 0;
    for (const TaskId id : graph.queue_order(queue)) positions[id] = ++position;
  }
  return positions;
}

// The last exchange of one queue that a task needs; position 0: none.
struct LastExchange {
  std::size_t position = 0;
  TaskId id = 0;
};
using LastOfQueues = std::array<LastExchange, kMaxQueues>;

}  // namespace

Seconds GraphRunner::measure_makespan(Clock::time_point) {
  ensure(false, "measure_makespan() of a runner whose spans do not disturb");
  return {};
}

ThreadGraphRunner::ThreadGraphRunner(const TaskGraph& graph, RunTask run)
    : graph_(graph),
      run_(std::move(run)),
      num_dependencies_(graph.size()),
      dependencies_(graph.size()),
      unmet_(graph.size()) {
  for (const auto& [before, after] : graph.dependencies()) {
    ++num_dependencies_[after];
    dependencies_[after].push_back(before);
  }
  for (QueueId queue = 0; queue < num_queues(graph); ++queue) {
    if (!graph.queue_order(queue).empty()) threads_.emplace_back([this, queue] { work(queue); });
  }
}

ThreadGraphRunner::~ThreadGraphRunner() {
  quit_ = true;
  ++iteration_;
  iteration_.notify_all();
}

void ThreadGraphRunner::iterate(Clock::time_point start, std::span<Interval> intervals) {
  ensure(intervals.size() == graph_.size(), "iterate: an interval for each task");
  for (std::size_t id = 0; id < unmet_.size(); ++id) unmet_[id] = num_dependencies_[id];
  start_ = start;
  intervals_ = intervals;
  running_ = static_cast<std::uint32_t>(threads_.size());
  ++iteration_;
  iteration_.notify_all();
  for (std::uint32_t left = running_; left > 0; left = running_) running_.wait(left);
  if (error_) std::rethrow_exception(error_);
}

void ThreadGraphRunner::work(QueueId queue) {
  use_precise_timers();
  if (graph_.queues()[queue].resource != Resource::Compute) become_responsive();
  for (std::uint32_t done = 0;; ++done) {
    iteration_.wait(done);
    if (quit_) return;
    try {
      run_queue(queue);
    } catch (...) {
      fail(std::current_exception());
    }
    if (--running_ == 0) running_.notify_all();
  }
}

void ThreadGraphRunner::run_queue(QueueId queue) {
  std::this_thread::sleep_until(start_);
  Clock::time_point queue_free = start_;
  for (const TaskId id : graph_.queue_order(queue)) {
    wait_until_ready(id);
    if (stop_.stop_requested()) return;
    run_task(id, queue_free);
  }
}

void ThreadGraphRunner::wait_until_ready(TaskId id) {
  for (std::uint32_t unmet = unmet_[id]; unmet > 0 && !stop_.stop_requested(); unmet = unmet_[id]) {
    unmet_[id].wait(unmet);
  }
}

void ThreadGraphRunner::run_task(TaskId id, Clock::time_point& queue_free) {
  Clock::time_point ready = queue_free;
  for (const TaskId before : dependencies_[id]) ready = std::max(ready, intervals_[before].end);
  run_(graph_.task(id), stop_.get_token());
  queue_free = Clock::now();
  intervals_[id] = {ready, queue_free};
  for (const auto& [after, is_data] : graph_.successors(id)) {
    if (!is_data) continue;
    --unmet_[after];
    unmet_[after].notify_all();
  }
}

// Wakes every queue, no matter what it waits for.
void ThreadGraphRunner::fail(std::exception_ptr error) {
  {
    const std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::move(error);
  }
  stop_.request_stop();
  for (Counter& unmet : unmet_) {
    unmet = 0;
    unmet.notify_all();
  }
}

QueueId main_queue(const TaskGraph& graph) {
  for (QueueId queue = 0; queue < num_queues(graph); ++queue) {
    if (graph.queues()[queue].resource == Resource::Compute) return queue;
  }
  return 0;
}

bool is_exchange(const Task& task) { return collective_of(task.work) != nullptr; }

std::vector<std::vector<TaskId>> awaited_exchanges(const TaskGraph& graph) {
  const std::vector<std::size_t> position = positions(graph);
  std::vector<LastOfQueues> needed(graph.size());
  for (const auto& [before, after] : graph.dependencies()) {
    if (!is_exchange(graph.task(before)) || is_exchange(graph.task(after))) continue;
    LastExchange& last = needed[after][graph.task(before).queue];
    if (position[before] > last.position) last = {position[before], before};
  }
  std::vector<std::vector<TaskId>> awaited(graph.size());
  for (QueueId queue = 0; queue < num_queues(graph); ++queue) {
    std::array<std::size_t, kMaxQueues> arrived{};
    for (const TaskId id : graph.queue_order(queue)) {
      for (QueueId from = 0; from < num_queues(graph); ++from) {
        const LastExchange& last = needed[id][from];
        if (last.position <= arrived[from]) continue;
        arrived[from] = last.position;
        awaited[id].push_back(last.id);
      }
    }
  }
  return awaited;
}

}  // namespace pipemoe::exec
