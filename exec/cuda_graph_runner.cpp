#include "exec/cuda_graph_runner.hpp"

#include <fmt/core.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <set>
#include <thread>
#include <utility>

#include "kernels/device_layer.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

// Shows the calls of its scope to a profiler under a name. Costs next to nothing without one.
class ProfilerRange {
 public:
  explicit ProfilerRange(const char* name) { nvtxRangePushA(name); }
  ~ProfilerRange() { nvtxRangePop(); }
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;
};

Clock::duration as_duration(Seconds time) {
  return std::chrono::duration_cast<Clock::duration>(time);
}

CudaBlockState& block_of(const CudaBlocks& blocks, const Task& task) {
  return *blocks.at(static_cast<std::size_t>(task.key.block));
}

// Queues of the lowest priority get normal streams. The highest priority is the device's highest,
// and each priority between is a level lower.
cuda::Stream stream_of_priority(const TaskGraph& graph, QueueId queue) {
  const int priority = graph.queues()[queue].priority;
  std::set<int> higher;
  bool lowest = true;
  for (const Queue& other : graph.queues()) {
    if (other.priority > priority) higher.insert(other.priority);
    if (other.priority < priority) lowest = false;
  }
  if (lowest) return cuda::Stream();
  return cuda::Stream(cuda::Stream::Priority::High, static_cast<int>(higher.size()));
}

}  // namespace

CudaGraphRunner::CudaGraphRunner(const TaskGraph& graph, CudaBlocks blocks,
                                 CudaCommunicator* communicator, const CudaGraphOptions& options)
    : graph_(graph),
      blocks_(std::move(blocks)),
      communicator_(communicator),
      options_(options),
      main_(main_queue(graph)),
      events_(graph.size()),
      exchanges_(graph.size()),
      exchange_number_(graph.size(), -1) {
  create_streams();
  create_events();
  find_dependencies();
  align();
  enqueue_iteration(/*timed=*/false);  // allocates what the first iteration allocates
  wait_for_end();
  if (!options.cuda_graph) return;
  plain_ = record(/*timed=*/false);
  timed_ = record(/*timed=*/true);
}

void CudaGraphRunner::create_streams() {
  for (std::size_t i = 0; i < graph_.queues().size(); ++i) {
    const auto queue = static_cast<QueueId>(i);
    if (graph_.queue_order(queue).empty() && queue != main_) continue;
    streams_.emplace(
        queue, options_.communication_first ? stream_of_priority(graph_, queue) : cuda::Stream());
    if (queue != main_) join_.emplace_back();
  }
}

void CudaGraphRunner::create_events() {
  for (TaskId id = 0; id < graph_.size(); ++id) {
    done_.emplace_back();
    done_time_.emplace_back(cuda::Event::Timing::On);
    ready_time_.emplace_back(cuda::Event::Timing::On);
    names_.push_back(graph_.task(id).name());
  }
}

void CudaGraphRunner::find_dependencies() {
  for (const auto& [before, after] : graph_.dependencies()) {
    if (waits_by_event(before, after)) events_[after].push_back(before);
  }
  if (awaits()) exchanges_ = awaited_exchanges(graph_);
  int next = 0;
  for (const TaskId id : graph_.topological_order()) {
    if (is_exchange(graph_.task(id))) exchange_number_[id] = next++;
  }
}

// A stream is in order, and an awaited exchange needs no event: its rows may have arrived before
// this rank's own rows have left.
bool CudaGraphRunner::waits_by_event(TaskId before, TaskId after) const {
  const Task& first = graph_.task(before);
  const Task& second = graph_.task(after);
  const bool awaited = awaits() && is_exchange(first) && !is_exchange(second);
  return first.queue != second.queue && !awaited;
}

// The other streams start at the main stream's position and end before it continues.
void CudaGraphRunner::enqueue_iteration(bool timed) {
  if (communicator_ != nullptr) communicator_->begin_iteration();
  fork_.record(stream(main_));
  for (auto& [queue, other] : streams_) {
    if (queue != main_) fork_.block(other.get());
  }
  for (const TaskId id : graph_.topological_order()) {
    const Task& task = graph_.task(id);
    const cudaStream_t on = stream(task.queue);
    for (const TaskId before : events_[id]) done_[before].block(on);
    if (!exchanges_[id].empty()) await_exchanges(id, timed);
    {
      const ProfilerRange range(names_[id].c_str());
      enqueue(task, on);
    }
    if (timed) stamp(done_time_[id], on);
    done_[id].record(on);
  }
  std::size_t next = 0;
  for (auto& [queue, other] : streams_) {
    if (queue == main_) continue;
    join_[next].record(other.get());
    join_[next++].block(stream(main_));
  }
}

void CudaGraphRunner::enqueue(const Task& task, cudaStream_t on) {
  CudaBlockState& block = block_of(blocks_, task);
  if (!is_exchange(task)) return block.run(task.key, on);
  if (communicator_ != nullptr) communicator_->exchange(block.exchange(task.key), on, {});
}

void CudaGraphRunner::await_exchanges(TaskId id, bool timed) {
  const cudaStream_t on = stream(graph_.task(id).queue);
  for (const TaskId exchange : exchanges_[id]) {
    communicator_->await(exchange_number_[exchange], on);
  }
  if (timed) stamp(ready_time_[id], on);
}

// While an iteration is recorded, an event becomes an edge of the CUDA graph. Only an external
// event becomes a time stamp.
void CudaGraphRunner::stamp(const cuda::Event& event, cudaStream_t on) const {
  const unsigned flags = options_.cuda_graph ? cudaEventRecordExternal : cudaEventRecordDefault;
  cuda::check(cudaEventRecordWithFlags(event.get(), on, flags));
}

cuda::Graph CudaGraphRunner::record(bool timed) {
  return cuda::Graph::capture(
      stream(main_), [&] { enqueue_iteration(timed); },
      [&](cudaGraph_t recorded) {
        for (const auto& block : blocks_) block->simplify(recorded);
      });
}

void CudaGraphRunner::align() {
  if (communicator_ != nullptr) communicator_->align(stream(main_));
}

void CudaGraphRunner::launch(bool timed) {
  const ProfilerRange range(graph_.schedule().c_str());
  align();
  begin_.record(stream(main_));
  if (options_.cuda_graph) {
    required(timed ? timed_ : plain_, "an iteration that is not recorded").launch(stream(main_));
  } else {
    enqueue_iteration(timed);
  }
  wait_for_end();
}

// A failed exchange never ends, so this asks the communicator while the device works.
void CudaGraphRunner::wait_for_end() {
  end_.record(stream(main_));
  const Clock::time_point begun = Clock::now();
  for (;;) {
    const cudaError_t status = cudaEventQuery(end_.get());
    if (status == cudaSuccess) return;
    if (status != cudaErrorNotReady) cuda::check(status);
    try {
      check_progress(begun);
    } catch (...) {
      give_up();
      throw;
    }
  }
}

void CudaGraphRunner::check_progress(Clock::time_point begun) {
  if (communicator_ != nullptr) communicator_->check_progress();
  if (options_.group == nullptr) return;
  const Seconds waited = Clock::now() - begun;
  if (waited > options_.group->timeout()) {
    options_.group->end_wait(fmt::format("an iteration of {} on the GPU", graph_.schedule()));
  }
  constexpr Seconds kLong{0.05};  // no iteration is slowed by what follows
  if (waited > kLong) options_.group->answer_roll_call();
}

// Ends the exchanges first: freeing device memory would wait for them. NCCL's destruction would
// wait for the CUDA graphs.
void CudaGraphRunner::give_up() {
  plain_.reset();
  timed_.reset();
  if (communicator_ != nullptr) communicator_->give_up();
}

Seconds CudaGraphRunner::measure_makespan(Clock::time_point start) {
  std::this_thread::sleep_until(start);
  launch(/*timed=*/false);
  return cuda::elapsed(begin_, end_);
}

void CudaGraphRunner::iterate(Clock::time_point start, std::span<Interval> intervals) {
  std::this_thread::sleep_until(start);
  launch(/*timed=*/true);
  const auto time_of = [&](const cuda::Event& event) {
    return start + as_duration(cuda::elapsed(begin_, event));
  };
  for (const auto& [queue, on] : streams_) {
    Clock::time_point queue_free = start;
    for (const TaskId id : graph_.queue_order(queue)) {
      const bool awaits = !exchanges_[id].empty();
      intervals[id] = {awaits ? time_of(ready_time_[id]) : queue_free, time_of(done_time_[id])};
      queue_free = intervals[id].end;
    }
  }
  for (TaskId id = 0; id < graph_.size(); ++id) {
    for (const TaskId before : events_[id]) {
      intervals[id].start = std::max(intervals[id].start, intervals[before].end);
    }
    intervals[id].start = std::min(intervals[id].start, intervals[id].end);
  }
}

std::unique_ptr<GraphRunner> synchronous_cuda_runner(const TaskGraph& graph, CudaBlocks blocks,
                                                     CudaCommunicator& communicator) {
  int device = 0;
  cuda::check(cudaGetDevice(&device));
  auto streams = std::make_shared<std::vector<cuda::Stream>>(graph.queues().size());
  const auto run = [&communicator, blocks = std::move(blocks), streams, device](
                       const Task& task, std::stop_token stop) {
    cuda::check(cudaSetDevice(device));
    const cuda::Stream& stream = streams->at(task.queue);
    const ProfilerRange range(task.name().c_str());
    CudaBlockState& block = block_of(blocks, task);
    if (is_exchange(task)) {
      communicator.exchange(block.exchange(task.key), stream.get(), std::move(stop));
    } else {
      block.run(task.key, stream.get());
    }
    stream.synchronize();
  };
  return std::make_unique<ThreadGraphRunner>(graph, run);
}

}  // namespace pipemoe::exec
