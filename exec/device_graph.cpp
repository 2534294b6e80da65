#include "exec/device_graph.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "exec/graph_runner.hpp"
#include "exec/profiler_range.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

constexpr Stream kMain = Stream::Compute;  // where an iteration begins and ends

Clock::duration as_duration(Seconds time) {
  return std::chrono::duration_cast<Clock::duration>(time);
}

}  // namespace

DeviceGraph::DeviceGraph(const TaskGraph& graph, Work work, const DeviceGraphOptions& options)
    : graph_(graph),
      work_(std::move(work)),
      options_(options),
      events_(graph.size()),
      arrivals_(graph.size()) {
  using Priority = cuda::Stream::Priority;
  for (const Stream which : kStreams) {
    if (graph.stream_order(which).empty() && which != kMain) continue;
    const bool high = options.communication_first && which != kMain;
    streams_.emplace(which, cuda::Stream(high ? Priority::High : Priority::Normal));
    if (which != kMain) join_.emplace_back();
  }
  for (TaskId id = 0; id < graph.size(); ++id) {
    done_.emplace_back();
    done_time_.emplace_back(cuda::Event::Timing::On);
    ready_time_.emplace_back(cuda::Event::Timing::On);
    names_.push_back(graph.task(id).name());
  }
  for (const auto& [before, after] : graph.dependencies()) {
    if (waits_by_event(before, after)) events_[after].push_back(before);
  }
  if (work_.await) arrivals_ = awaited_exchanges(graph);
  work_.align(stream(kMain));
  give_all(/*timed=*/false);  // allocates what the first iteration allocates
  wait_for_end();
  if (!options.cuda_graph) return;
  plain_ = capture(false);
  timed_ = capture(true);
}

// A stream is in order; and what an exchange brings is awaited, whether or not what this rank sends
// has left.
bool DeviceGraph::waits_by_event(TaskId before, TaskId after) const {
  const Task& first = graph_.task(before);
  const Task& second = graph_.task(after);
  const bool awaited = work_.await && is_exchange(first) && !is_exchange(second);
  return first.stream != second.stream && !awaited;
}

// The other streams begin where the main one is and end before it goes on.
void DeviceGraph::give_all(bool timed) {
  work_.begin();
  fork_.record(stream(kMain));
  for (auto& [which, other] : streams_) {
    if (which != kMain) fork_.block(other.get());
  }
  for (const TaskId id : graph_.topological_order()) {
    const Task& task = graph_.task(id);
    const cudaStream_t on = stream(task.stream);
    for (const TaskId before : events_[id]) done_[before].block(on);
    if (!arrivals_[id].empty()) await_arrivals(id, timed);
    {
      const ProfilerRange range(names_[id].c_str());
      work_.give(task, on);
    }
    if (timed) stamp(done_time_[id], on);
    done_[id].record(on);
  }
  std::size_t next = 0;
  for (auto& [which, other] : streams_) {
    if (which == kMain) continue;
    join_[next].record(other.get());
    join_[next++].block(stream(kMain));
  }
}

void DeviceGraph::await_arrivals(TaskId id, bool timed) {
  const cudaStream_t on = stream(graph_.task(id).stream);
  for (const TaskId exchange : arrivals_[id]) work_.await(graph_.task(exchange), on);
  if (timed) stamp(ready_time_[id], on);
}

// Inside a capture an event marks an edge, unless it is external: then it is a time stamp.
void DeviceGraph::stamp(const cuda::Event& event, cudaStream_t on) const {
  const unsigned flags = options_.cuda_graph ? cudaEventRecordExternal : cudaEventRecordDefault;
  cuda::check(cudaEventRecordWithFlags(event.get(), on, flags));
}

cuda::Graph DeviceGraph::capture(bool timed) {
  return cuda::Graph::capture(
      stream(kMain), [&] { give_all(timed); }, work_.recorded);
}

void DeviceGraph::launch(bool timed) {
  const ProfilerRange range(graph_.schedule().c_str());
  work_.align(stream(kMain));
  begin_.record(stream(kMain));
  if (options_.cuda_graph) {
    (timed ? timed_ : plain_)->launch(stream(kMain));
  } else {
    give_all(timed);
  }
  wait_for_end();
}

// An exchange that failed never ends: the communicator is asked while the device works.
void DeviceGraph::wait_for_end() {
  end_.record(stream(kMain));
  const Clock::time_point begun = Clock::now();
  for (;;) {
    const cudaError_t status = cudaEventQuery(end_.get());
    if (status == cudaSuccess) return;
    if (status != cudaErrorNotReady) cuda::check(status);
    try {
      check_on(begun);
    } catch (...) {
      give_up();
      throw;
    }
  }
}

void DeviceGraph::check_on(Clock::time_point begun) {
  work_.check();
  if (Clock::now() - begun <= options_.deadline) return;
  throw RunError(
      fmt::format("schedule {}: an iteration has not ended on the GPU within {:g} s: another rank "
                  "may have failed",
                  graph_.schedule(), options_.deadline.count()));
}

// Freeing device memory would wait for the exchanges, and NCCL's end for the CUDA graphs.
void DeviceGraph::give_up() {
  plain_.reset();
  timed_.reset();
  work_.give_up();
}

Seconds DeviceGraph::measure_makespan(Clock::time_point start) {
  std::this_thread::sleep_until(start);
  launch(/*timed=*/false);
  return cuda::elapsed(begin_, end_);
}

void DeviceGraph::iterate(Clock::time_point start, std::span<Interval> intervals) {
  std::this_thread::sleep_until(start);
  launch(/*timed=*/true);
  const auto time_of = [&](const cuda::Event& event) {
    return start + as_duration(cuda::elapsed(begin_, event));
  };
  for (const Stream which : kStreams) {
    Clock::time_point stream_free = start;
    for (const TaskId id : graph_.stream_order(which)) {
      const bool awaits = !arrivals_[id].empty();
      intervals[id] = {awaits ? time_of(ready_time_[id]) : stream_free, time_of(done_time_[id])};
      stream_free = intervals[id].end;
    }
  }
  for (TaskId id = 0; id < graph_.size(); ++id) {
    for (const TaskId before : events_[id]) {
      intervals[id].start = std::max(intervals[id].start, intervals[before].end);
    }
    intervals[id].start = std::min(intervals[id].start, intervals[id].end);
  }
}

}  // namespace pipemoe::exec
