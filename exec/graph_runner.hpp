// Runs a task graph on this rank: what every runner offers, and the runner that uses threads.
#pragma once

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

#include "models/task_graph.hpp"

namespace pipemoe::exec {

using Clock = std::chrono::steady_clock;

/// When a task ran, on this rank's clock. The interval starts when everything that the task waits
/// for has ended, so the time that its queue needs to notice this is part of the task's start-up.
struct Interval {
  Clock::time_point start;
  Clock::time_point end;
};

/// A task graph that is ready to run any number of times.
class GraphRunner {
 public:
  virtual ~GraphRunner() = default;
  /// Runs one iteration that starts at `start`, a moment in the near future. Fills the interval of
  /// each task, by TaskId. Throws RunError.
  virtual void iterate(Clock::time_point start, std::span<Interval> intervals) = 0;

  /// Whether recording intervals slows an iteration. If so, measure_makespan() measures makespans.
  virtual bool spans_disturb() const { return false; }
  /// Runs one iteration that starts at `start` without recording intervals. Returns how long this
  /// rank took. Requires spans_disturb(). Throws RunError.
  virtual Seconds measure_makespan(Clock::time_point start);
};

/// Runs each queue of a graph on a thread of its own, which takes the queue's tasks in order.
class ThreadGraphRunner final : public GraphRunner {
 public:
  /// Runs one task to its end on the thread of the task's queue. Once `stop` is requested, another
  /// task has failed and nobody needs this task's result.
  using RunTask = std::function<void(const Task& task, std::stop_token stop)>;
  /// The graph must outlive this.
  ThreadGraphRunner(const TaskGraph& graph, RunTask run);
  ~ThreadGraphRunner() override;

  /// Throws what the first failing task threw; no iteration may follow a failed one.
  void iterate(Clock::time_point start, std::span<Interval> intervals) override;

 private:
  using Counter = std::atomic<std::uint32_t>;

  void work(QueueId queue);
  void run_queue(QueueId queue);
  void run_task(TaskId id, Clock::time_point& queue_free);
  void wait_until_ready(TaskId id);
  void fail(std::exception_ptr error);

  const TaskGraph& graph_;
  RunTask run_;
  std::vector<std::uint32_t> num_dependencies_;    // data dependencies of each task
  std::vector<std::vector<TaskId>> dependencies_;  // the tasks that each task depends on
  std::vector<Counter> unmet_;
  std::span<Interval> intervals_;
  Clock::time_point start_;
  Counter iteration_ = 0;  // the threads wait until it changes
  Counter running_ = 0;    // queues that have not finished this iteration
  std::atomic<bool> quit_ = false;
  std::stop_source stop_;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::vector<std::jthread> threads_;
};

/// The queue where an iteration begins and ends: the first one that computes, or the first of all
/// if none does.
QueueId main_queue(const TaskGraph& graph);

/// Whether the task is a collective.
bool is_exchange(const Task& task);

/// For each task, the exchanges whose arrival it must wait for itself. Exchanges of one queue
/// arrive in order. So a computation waits only for the last exchange of each queue that it needs,
/// and only if no earlier task of its own queue has waited for that one or a later one. Exchanges
/// wait for no arrival: they send what computations wrote.
std::vector<std::vector<TaskId>> awaited_exchanges(const TaskGraph& graph);

}  // namespace pipemoe::exec
