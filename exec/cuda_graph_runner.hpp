// Runs a task graph on one GPU: a CUDA stream for each queue of the graph, events between them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exec/block_state.hpp"
#include "exec/cuda_communicator.hpp"
#include "exec/graph_runner.hpp"
#include "kernels/cuda.hpp"

namespace pipemoe::exec {

struct CudaGraphOptions {
  bool cuda_graph = true;  ///< replay recorded iterations; false: enqueue each task anew
  /// Streams have the priorities of their queues; false: all have the same.
  bool communication_first = true;
  /// An iteration that takes longer than its timeout waits for a rank that failed. Null: this
  /// process is alone.
  ProcessGroup* group = nullptr;
};

/// The blocks of a model on this rank, by TaskKey::block.
using CudaBlocks = std::vector<std::shared_ptr<CudaBlockState>>;

/// Enqueues a whole iteration and then waits for it. measure_makespan() times an iteration between
/// two events; iterate() records an event after each task as well. Profilers see the names of tasks
/// where tasks are enqueued, not where a CUDA graph is replayed.
class CudaGraphRunner final : public GraphRunner {
 public:
  /// Runs an iteration, and records iterations if the options say so. `communicator` may be null:
  /// then exchanges are elided. Otherwise it must be asynchronous. The graph and the communicator
  /// must outlive this. Throws what iterate() throws.
  CudaGraphRunner(const TaskGraph& graph, CudaBlocks blocks, CudaCommunicator* communicator,
                  const CudaGraphOptions& options);

  bool spans_disturb() const override { return true; }
  /// Both throw RunError when an iteration fails or does not end within the timeout. Then the
  /// communicator has given up, and nothing may run any more.
  Seconds measure_makespan(Clock::time_point start) override;
  void iterate(Clock::time_point start, std::span<Interval> intervals) override;

 private:
  void create_streams();
  void create_events();
  void find_dependencies();
  bool awaits() const { return communicator_ != nullptr && communicator_->awaits(); }
  bool waits_by_event(TaskId before, TaskId after) const;
  void enqueue_iteration(bool timed);
  void enqueue(const Task& task, cudaStream_t on);
  void await_exchanges(TaskId id, bool timed);
  void stamp(const cuda::Event& event, cudaStream_t on) const;
  cuda::Graph record(bool timed);
  void align();
  void launch(bool timed);
  void wait_for_end();
  void check_progress(Clock::time_point begun);
  void give_up();
  cudaStream_t stream(QueueId queue) { return streams_.at(queue).get(); }

  const TaskGraph& graph_;
  CudaBlocks blocks_;
  CudaCommunicator* communicator_;
  CudaGraphOptions options_;
  QueueId main_;  // where an iteration begins and ends
  std::map<QueueId, cuda::Stream> streams_;
  // By task:
  std::vector<cuda::Event> done_;               // other streams wait for it
  std::vector<cuda::Event> done_time_;          // when the task ended
  std::vector<cuda::Event> ready_time_;         // when all exchanges that it awaits had arrived
  std::vector<std::vector<TaskId>> events_;     // the tasks whose done_ it waits for
  std::vector<std::vector<TaskId>> exchanges_;  // the exchanges that it awaits
  std::vector<int> exchange_number_;            // of an exchange: its number in the iteration
  std::vector<std::string> names_;
  cuda::Event fork_;
  std::vector<cuda::Event> join_;  // one for each stream but the main queue's
  cuda::Event begin_{cuda::Event::Timing::On}, end_{cuda::Event::Timing::On};
  std::optional<cuda::Graph> plain_, timed_;
};

/// For a communicator that is not asynchronous: a thread for each queue waits for each task. The
/// graph and the communicator must outlive the runner.
std::unique_ptr<GraphRunner> synchronous_cuda_runner(const TaskGraph& graph, CudaBlocks blocks,
                                                     CudaCommunicator& communicator);

}  // namespace pipemoe::exec
