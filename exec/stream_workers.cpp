#include "exec/stream_workers.hpp"

#include <algorithm>
#include <utility>

#include "exec/responsive_thread.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {

StreamWorkers::StreamWorkers(const TaskGraph& graph, RunTask run)
    : graph_(graph),
      run_(std::move(run)),
      num_dependencies_(graph.size()),
      dependencies_(graph.size()),
      unmet_(graph.size()) {
  for (const auto& [before, after] : graph.dependencies()) {
    ++num_dependencies_[after];
    dependencies_[after].push_back(before);
  }
  for (const Stream stream : kStreams) {
    if (!graph.stream_order(stream).empty())
      threads_.emplace_back([this, stream] { work(stream); });
  }
}

StreamWorkers::~StreamWorkers() {
  quit_ = true;
  ++iteration_;
  iteration_.notify_all();
}

void StreamWorkers::iterate(Clock::time_point start, std::span<Interval> intervals) {
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

void StreamWorkers::work(Stream stream) {
  use_precise_timers();
  if (stream != Stream::Compute) become_responsive();
  for (std::uint32_t done = 0;; ++done) {
    iteration_.wait(done);
    if (quit_) return;
    try {
      run_stream(stream);
    } catch (...) {
      fail(std::current_exception());
    }
    if (--running_ == 0) running_.notify_all();
  }
}

void StreamWorkers::run_stream(Stream stream) {
  std::this_thread::sleep_until(start_);
  Clock::time_point stream_free = start_;
  for (const TaskId id : graph_.stream_order(stream)) {
    wait_until_ready(id);
    if (stop_.stop_requested()) return;
    run_task(id, stream_free);
  }
}

void StreamWorkers::wait_until_ready(TaskId id) {
  for (std::uint32_t unmet = unmet_[id]; unmet > 0 && !stop_.stop_requested(); unmet = unmet_[id]) {
    unmet_[id].wait(unmet);
  }
}

void StreamWorkers::run_task(TaskId id, Clock::time_point& stream_free) {
  Clock::time_point ready = stream_free;
  for (const TaskId before : dependencies_[id]) ready = std::max(ready, intervals_[before].end);
  run_(graph_.task(id), stop_.get_token());
  stream_free = Clock::now();
  intervals_[id] = {ready, stream_free};
  graph_.for_each_successor(id, [&](TaskId after, Precedence precedence) {
    if (precedence != Precedence::Data) return;
    --unmet_[after];
    unmet_[after].notify_all();
  });
}

// Wakes every stream, whatever it waits for.
void StreamWorkers::fail(std::exception_ptr error) {
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

}  // namespace pipemoe::exec
