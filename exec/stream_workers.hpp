// Runs task graphs on threads: one for each stream, which takes the stream's tasks in order.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

#include "exec/backend.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

class StreamWorkers final : public PreparedGraph {
 public:
  /// `run` does one task to its end on the thread of the task's stream; when `stop` is requested,
  /// another task has failed and the result matters no more. The graph must outlive this.
  using RunTask = std::function<void(const Task& task, std::stop_token stop)>;
  StreamWorkers(const TaskGraph& graph, RunTask run);
  ~StreamWorkers() override;

  /// Throws what the first failing task threw; no later iteration may follow then.
  void iterate(Clock::time_point start, std::span<Interval> intervals) override;

 private:
  using Counter = std::atomic<std::uint32_t>;

  void work(Stream stream);
  void run_stream(Stream stream);
  void run_task(TaskId id, Clock::time_point& stream_free);
  void wait_until_ready(TaskId id);
  void fail(std::exception_ptr error);

  const TaskGraph& graph_;
  RunTask run_;
  std::vector<std::uint32_t> num_dependencies_;    // data dependencies of each task
  std::vector<std::vector<TaskId>> dependencies_;  // which they are
  std::vector<Counter> unmet_;
  std::span<Interval> intervals_;
  Clock::time_point start_;
  Counter iteration_ = 0;  // workers wait for it to move on
  Counter running_ = 0;    // streams that have not ended this iteration
  std::atomic<bool> quit_ = false;
  std::stop_source stop_;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::vector<std::jthread> threads_;
};

}  // namespace pipemoe::exec
