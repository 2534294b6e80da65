#include "exec/block_state.hpp"

#include <fmt/core.h>

#include <string>
#include <variant>

#include "models/error.hpp"
#include "models/schedule.hpp"

namespace pipemoe::exec {
namespace {

MoeStep forward_step(Step step) {
  switch (step) {
    case Step::Gate:
      return MoeStep::Gate;
    case Step::Permute:
      return MoeStep::Permute;
    case Step::Dispatch:
      return MoeStep::Dispatch;
    case Step::Expert:
      return MoeStep::Expert;
    case Step::Combine:
      return MoeStep::Combine;
    case Step::Unpermute:
      return MoeStep::Unpermute;
    case Step::ExpertInputGradient:
    case Step::ExpertWeightGradient:
      break;
  }
  ensure(false, "a gradient in the forward pass");
  return {};
}

MoeStep backward_step(Step step) {
  switch (step) {
    case Step::Gate:
      return MoeStep::GateBackward;
    case Step::Permute:
      return MoeStep::PermuteBackward;
    case Step::Dispatch:
      return MoeStep::DispatchBackward;
    case Step::Expert:
      return MoeStep::ExpertBackward;
    case Step::ExpertInputGradient:
      return MoeStep::ExpertInputGradient;
    case Step::ExpertWeightGradient:
      return MoeStep::ExpertWeightGradient;
    case Step::Combine:
      return MoeStep::CombineBackward;
    case Step::Unpermute:
      return MoeStep::UnpermuteBackward;
  }
  ensure(false, "a step that no MoE layer has");
  return {};
}

bool computes_with_experts(Step step) {
  switch (step) {
    case Step::Expert:
    case Step::ExpertInputGradient:
    case Step::ExpertWeightGradient:
      return true;
    case Step::Gate:
    case Step::Permute:
    case Step::Dispatch:
    case Step::Combine:
    case Step::Unpermute:
      return false;
  }
  return false;
}

bool is_all_to_all(Step step) { return step == Step::Dispatch || step == Step::Combine; }

// Says why an executor of one MoE layer cannot run a task; empty: it can.
class TaskCheck {
 public:
  TaskCheck(const MoeLayer& layer, const TaskGraph& graph)
      : layer_(layer), num_ranks_(graph.num_ranks()), degrees_(degrees_of(graph)) {}

  std::string problem(const Task& task) const {
    const TaskKey& key = task.key;
    if (key.microbatch != 0) return "is in another micro-batch than 0; the executor runs one";
    if (key.block != 0) return "is in another block than 0; the executor runs one layer";
    if (key.stage != 0) return "is a later stage of a collective; the executor runs whole ones";
    const bool gradient =
        key.step == Step::ExpertInputGradient || key.step == Step::ExpertWeightGradient;
    if (gradient && key.pass == Pass::Forward) return "is a gradient in the forward pass";
    if (differs_between_ranks(task.work)) {
      return "differs between ranks; the executor gives all ranks the same work";
    }
    return std::visit(
        Overloaded{[&](const Products&) { return unless(computes_with_experts(key.step)); },
                   [&](const MemoryTraffic&) {
                     return unless(!computes_with_experts(key.step) && !is_all_to_all(key.step));
                   },
                   [&](const Collective& collective) {
                     return unless(is_all_to_all(key.step) && is_slot_chunk(key, collective),
                                   "does not exchange one slot chunk between all ranks; the "
                                   "executor runs schedules that do");
                   },
                   [](const Timed&) -> std::string {
                     return "is a duration that was measured elsewhere; the executor cannot run it";
                   }},
        task.work);
  }

 private:
  static std::string unless(bool fits, const char* problem = "has work that its step does not do") {
    return fits ? "" : problem;
  }

  bool is_slot_chunk(const TaskKey& key, const Collective& collective) const {
    const auto degree =
        key.pass == Pass::Forward ? degrees_.forward_degree : degrees_.backward_degree;
    const auto rows = layer_.chunk_rows(degree).at(static_cast<std::size_t>(key.chunk));
    return collective == Collective{CollectiveKind::AllToAll,
                                    {num_ranks_, 1},
                                    TrafficMatrix::uniform({rows * layer_.row_bytes().count})};
  }

  const MoeLayer& layer_;
  std::int64_t num_ranks_;
  Degrees degrees_;
};

}  // namespace

MoeStep moe_step(const TaskKey& task) {
  return task.pass == Pass::Forward ? forward_step(task.step) : backward_step(task.step);
}

bool sends_to_experts(MoeStep step) {
  return step == MoeStep::Dispatch || step == MoeStep::CombineBackward;
}

void check_graph(const MoeLayer& layer, const TaskGraph& graph, int num_ranks) {
  if (graph.num_ranks() != num_ranks) {
    throw InputError(
        fmt::format("task graph is for {} ranks, {} were started", graph.num_ranks(), num_ranks));
  }
  const TaskCheck check(layer, graph);
  for (const Task& task : graph.tasks()) {
    const std::string problem = check.problem(task);
    if (problem.empty()) continue;
    throw InputError(fmt::format("schedule {}: {} {}", graph.schedule(), task.name(), problem));
  }
}

}  // namespace pipemoe::exec
