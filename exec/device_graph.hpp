// Runs a task graph on CUDA streams: a stream for each of the graph's, events between them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exec/backend.hpp"
#include "kernels/cuda.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

struct DeviceGraphOptions {
  bool cuda_graph = true;           ///< replay captured iterations; false: give every task anew
  bool communication_first = true;  ///< communication streams have the higher priority
  Seconds deadline{120};            ///< of an iteration: later, another rank must have failed
};

/// One iteration is given to the device as a whole; measure_makespan() times it between two events,
/// iterate() has an event after each task besides.
class DeviceGraph final : public GraphRunner {
 public:
  /// `give` hands one task to a stream without waiting for the device. It is called for each task
  /// of an iteration, in an order that respects every precedence; `begin` before the first one.
  /// `await`, where there is one, gives a stream what it waits for an exchange's arrival with: one
  /// that is done has then only sent, and what it brings may be there before.
  /// `align`, once before each iteration, gives what the ranks wait for each other with.
  /// `recorded`, where there is one, may change what was recorded for a CUDA graph.
  /// `check` throws when work that was given has failed; `give_up` ends what may never end by
  /// itself, after `check` has thrown or the deadline has passed. The graph must outlive this.
  /// Profilers see the tasks' names where tasks are given, not where a CUDA graph is replayed.
  struct Work {
    std::function<void(cudaStream_t)> align;
    std::function<void()> begin;
    std::function<void(const Task&, cudaStream_t)> give;
    std::function<void(const Task& exchange, cudaStream_t)> await;
    std::function<void(cudaGraph_t)> recorded;
    std::function<void()> check;
    std::function<void()> give_up;
  };
  /// Throws RunError, as measure_makespan() and iterate() do, when an iteration fails or does not
  /// end in time.
  DeviceGraph(const TaskGraph& graph, Work work, const DeviceGraphOptions& options);

  bool spans_disturb() const override { return true; }
  Seconds measure_makespan(Clock::time_point start) override;
  void iterate(Clock::time_point start, std::span<Interval> intervals) override;

 private:
  bool waits_by_event(TaskId before, TaskId after) const;
  void give_all(bool timed);
  void await_arrivals(TaskId id, bool timed);
  void stamp(const cuda::Event& event, cudaStream_t on) const;
  cuda::Graph capture(bool timed);
  void launch(bool timed);
  void wait_for_end();
  void check_on(Clock::time_point begun);
  void give_up();
  cudaStream_t stream(Stream which) { return streams_.at(which).get(); }

  const TaskGraph& graph_;
  Work work_;
  DeviceGraphOptions options_;
  std::map<Stream, cuda::Stream> streams_;
  std::vector<cuda::Event> done_;        // of each task, what other streams wait for
  std::vector<cuda::Event> done_time_;   // of each task, when
  std::vector<cuda::Event> ready_time_;  // of each task that awaits arrivals, when all are there
  std::vector<std::vector<TaskId>> events_;    // of each task, whose done_ it waits for
  std::vector<std::vector<TaskId>> arrivals_;  // of each task, the exchanges that it awaits
  std::vector<std::string> names_;
  cuda::Event fork_;
  std::vector<cuda::Event> join_;  // of each stream but the compute stream
  cuda::Event begin_{cuda::Event::Timing::On}, end_{cuda::Event::Timing::On};
  std::optional<cuda::Graph> plain_, timed_;
};

}  // namespace pipemoe::exec
