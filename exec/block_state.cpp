#include "exec/block_state.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

MoeStep forward_step(OperationKind operation) {
  switch (operation) {
    case OperationKind::Gate:
      return MoeStep::Gate;
    case OperationKind::Permute:
      return MoeStep::Permute;
    case OperationKind::Dispatch:
      return MoeStep::Dispatch;
    case OperationKind::Expert:
      return MoeStep::Expert;
    case OperationKind::Combine:
      return MoeStep::Combine;
    case OperationKind::Unpermute:
      return MoeStep::Unpermute;
    case OperationKind::ExpertInputGradient:
    case OperationKind::ExpertWeightGradient:
      break;
  }
  ensure(false, "a gradient in the forward phase");
  return {};
}

MoeStep backward_step(OperationKind operation) {
  switch (operation) {
    case OperationKind::Gate:
      return MoeStep::GateBackward;
    case OperationKind::Permute:
      return MoeStep::PermuteBackward;
    case OperationKind::Dispatch:
      return MoeStep::DispatchBackward;
    case OperationKind::Expert:
      return MoeStep::ExpertBackward;
    case OperationKind::ExpertInputGradient:
      return MoeStep::ExpertInputGradient;
    case OperationKind::ExpertWeightGradient:
      return MoeStep::ExpertWeightGradient;
    case OperationKind::Combine:
      return MoeStep::CombineBackward;
    case OperationKind::Unpermute:
      return MoeStep::UnpermuteBackward;
  }
  ensure(false, "an operation without a step");
  return {};
}

}  // namespace

MoeStep moe_step(const TaskKey& task) {
  return task.phase == Phase::Forward ? forward_step(task.operation)
                                      : backward_step(task.operation);
}

bool sends_to_experts(MoeStep step) {
  return step == MoeStep::Dispatch || step == MoeStep::CombineBackward;
}

Degrees degrees_of(const TaskGraph& graph) {
  Degrees degrees;
  for (const Task& task : graph.tasks()) {
    auto& degree = task.phase == Phase::Forward ? degrees.forward_degree : degrees.backward_degree;
    degree = std::max(degree, std::int64_t{task.chunk} + 1);
  }
  return degrees;
}

void check_graph(const MoeLayer& layer, const TaskGraph& graph, int num_ranks) {
  if (graph.num_ranks() != num_ranks) {
    throw InputError(
        fmt::format("task graph is for {} ranks, {} were started", graph.num_ranks(), num_ranks));
  }
  const Degrees degrees = degrees_of(graph);
  for (const Task& task : graph.tasks()) {
    if (task.layer != 0) throw InputError("the executor runs one layer, the graph has several");
    const auto* exchange = std::get_if<AllToAll>(&task.operation);
    if (exchange == nullptr) continue;
    const auto degree =
        task.phase == Phase::Forward ? degrees.forward_degree : degrees.backward_degree;
    const auto rows = layer.chunk_rows(degree).at(static_cast<std::size_t>(task.chunk));
    if (exchange->traffic != TrafficMatrix::uniform({rows * layer.row_bytes().count})) {
      throw InputError(fmt::format(
          "schedule {}: {} does not exchange one slot chunk between all ranks; the executor runs "
          "schedules that do",
          graph.schedule(), task.name()));
    }
  }
}

}  // namespace pipemoe::exec
