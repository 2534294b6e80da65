// Evaluates a task graph in which compute and communication slow each other.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "models/cost_model.hpp"
#include "models/task_graph.hpp"

namespace pipemoe {

/// One evaluation, from event to event: a task's end changes the speed of those still running.
/// With slowdowns of 1 every time equals that of a longest-path evaluation to the last bit.
/// Graph and cost model must outlive it; the model must have an overlap.
class OverlapRun {
 public:
  using Visit = std::function<void(TaskId, Seconds start, Seconds end)>;

  OverlapRun(const TaskGraph& graph, const CostModel& cost);
  /// Calls visit for each task once, in the order of their ends.
  void run(const Visit& visit);

 private:
  struct Running {
    TaskId id = 0;
    Seconds start{};
    Seconds since{};  ///< when `left` was true
    Seconds left{};   ///< of the task's time alone
    double slowdown = 1;

    Seconds end() const { return since + slowdown * left; }
    void slow_to(double wanted, Seconds now);
  };

  void start_ready(const Visit& visit);
  void set_slowdowns();
  std::optional<Running>* next_to_end();
  void finish(TaskId id);

  const TaskGraph& graph_;
  const CostModel& cost_;
  Seconds now_{};
  std::array<std::optional<Running>, kStreams.size()> running_;  ///< by stream
  std::vector<std::uint32_t> waiting_for_;
  std::vector<Seconds> fed_;  ///< when what a task needs was there
  std::vector<TaskId> ready_;
};

}  // namespace pipemoe
