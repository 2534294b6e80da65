#include "exec/calibration/measured_graphs.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "exec/block_state.hpp"
#include "exec/graph_runner.hpp"
#include "models/schedules/layer_tasks.hpp"

namespace pipemoe::exec {
namespace {

using schedules::LayerTasks;

// Appends tasks, each of which waits for the one before it. A copy continues from the same task.
class Chain {
 public:
  explicit Chain(TaskGraphBuilder& builder) : builder_(&builder) {}

  void then(Task task) {
    const TaskId id = builder_->append(std::move(task));
    for (const TaskId before : last_) builder_->depend(before, id);
    last_ = {id};
  }
  void then(std::vector<Task> tasks) {
    for (Task& task : tasks) then(std::move(task));
  }
  // The next task waits for the last task of the other chain too.
  void join(const Chain& other) {
    last_.insert(last_.end(), other.last_.begin(), other.last_.end());
  }

 private:
  TaskGraphBuilder* builder_;
  std::vector<TaskId> last_;
};

// Makes the tasks of one kind for all chunks.
class Chunks {
 public:
  Chunks(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree)
      : tasks(layer, num_ranks), rows_(layer.chunk_rows(degree)) {}

  std::vector<Task> exchanges(Purpose purpose, Phase phase) const {
    return of_each([&](int chunk, std::int64_t rows) {
      return tasks.all_to_all(purpose, phase, chunk, rows);
    });
  }
  std::vector<Task> experts(Pass pass) const {
    return of_each([&](int chunk, std::int64_t rows) { return tasks.expert(pass, chunk, rows); });
  }

  const LayerTasks tasks;

 private:
  template <class Make>
  std::vector<Task> of_each(Make make) const {
    std::vector<Task> all;
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      all.push_back(make(static_cast<int>(i), rows_[i]));
    }
    return all;
  }

  std::vector<std::int64_t> rows_;
};

// A pass of the experts, and the exchanges that run beside it.
struct Stage {
  Pass pass;
  Purpose purpose;
  Phase phase;
};
/// No exchange writes what the experts of its stage read, or sends what they write. Forward experts
/// write outputs. Input gradients read what the combines of their phase brought; weight gradients
/// also read what the dispatches brought.
constexpr std::array kStages{Stage{Pass::Forward, Purpose::Combine, Phase::Backward},
                             Stage{Pass::InputGradient, Purpose::Dispatch, Phase::Forward},
                             Stage{Pass::WeightGradient, Purpose::Combine, Phase::Forward}};

enum class Beside { No, Yes };

TaskGraph stages(const char* name, const Chunks& chunks, std::int64_t num_ranks, Beside beside) {
  TaskGraphBuilder builder(name, num_ranks);
  Chain chain(builder);
  chain.then(chunks.tasks.gate(Phase::Forward));
  chain.then(chunks.tasks.permute(Phase::Forward));  // makes rows and gradients to exchange
  chain.then(chunks.tasks.unpermute(Phase::Forward));
  chain.then(chunks.tasks.unpermute(Phase::Backward));
  for (const Stage& stage : kStages) {
    Chain other = chain;
    chain.then(chunks.experts(stage.pass));
    (beside == Beside::Yes ? other : chain).then(chunks.exchanges(stage.purpose, stage.phase));
    if (beside == Beside::Yes) chain.join(other);
  }
  return std::move(builder).build();
}

enum class Exchanges { None, First };

TaskGraph grouped(const char* name, const Chunks& chunks, std::int64_t num_ranks,
                  Exchanges exchanges) {
  TaskGraphBuilder builder(name, num_ranks);
  Chain chain(builder);
  chain.then(chunks.tasks.gate(Phase::Forward));
  chain.then(chunks.tasks.permute(Phase::Forward));
  if (exchanges == Exchanges::First) {
    chain.then(chunks.exchanges(Purpose::Dispatch, Phase::Forward));
    chain.then(chunks.exchanges(Purpose::Combine, Phase::Forward));
    chain.then(chunks.exchanges(Purpose::Combine, Phase::Backward));
    chain.then(chunks.exchanges(Purpose::Dispatch, Phase::Backward));
  }
  chain.then(chunks.experts(Pass::Forward));
  chain.then(chunks.tasks.unpermute(Phase::Forward));
  chain.then(chunks.tasks.unpermute(Phase::Backward));
  chain.then(chunks.tasks.gate(Phase::Backward));
  chain.then(chunks.experts(Pass::InputGradient));
  chain.then(chunks.experts(Pass::WeightGradient));
  chain.then(chunks.tasks.permute(Phase::Backward));
  return std::move(builder).build();
}

}  // namespace

TaskGraph serial_chunks(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree) {
  const LayerTasks tasks(layer, num_ranks);
  const std::vector<std::int64_t> rows = layer.chunk_rows(degree);
  TaskGraphBuilder builder("serial-chunks", num_ranks);
  Chain chain(builder);
  const auto chunks = [&](Phase phase, Purpose first, std::vector<Pass> passes, Purpose second) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const int chunk = static_cast<int>(i);
      chain.then(tasks.all_to_all(first, phase, chunk, rows[i]));
      for (const Pass pass : passes) chain.then(tasks.expert(pass, chunk, rows[i]));
      chain.then(tasks.all_to_all(second, phase, chunk, rows[i]));
    }
  };
  chain.then(tasks.gate(Phase::Forward));
  chain.then(tasks.permute(Phase::Forward));
  chunks(Phase::Forward, Purpose::Dispatch, {Pass::Forward}, Purpose::Combine);
  chain.then(tasks.unpermute(Phase::Forward));
  chain.then(tasks.unpermute(Phase::Backward));
  chain.then(tasks.gate(Phase::Backward));
  chunks(Phase::Backward, Purpose::Combine, {Pass::InputGradient, Pass::WeightGradient},
         Purpose::Dispatch);
  chain.then(tasks.permute(Phase::Backward));
  return std::move(builder).build();
}

TaskGraph grouped_chunks(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree) {
  return grouped("grouped-chunks", Chunks(layer, num_ranks, degree), num_ranks, Exchanges::First);
}

TaskGraph computations_only(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree) {
  return grouped("computations-only", Chunks(layer, num_ranks, degree), num_ranks, Exchanges::None);
}

TaskGraph experts_under_exchanges(const MoeLayer& layer, std::int64_t num_ranks,
                                  std::int64_t degree) {
  return stages("experts-under-exchanges", Chunks(layer, num_ranks, degree), num_ranks,
                Beside::Yes);
}

TaskGraph experts_then_exchanges(const MoeLayer& layer, std::int64_t num_ranks,
                                 std::int64_t degree) {
  return stages("experts-then-exchanges", Chunks(layer, num_ranks, degree), num_ranks, Beside::No);
}

bool waits_for_exchange(const Task& task) {
  switch (moe_step(task.key())) {
    case MoeStep::Expert:
    case MoeStep::ExpertBackward:
    case MoeStep::ExpertInputGradient:
    case MoeStep::Unpermute:
    case MoeStep::PermuteBackward:
      return true;
    case MoeStep::Gate:
    case MoeStep::Permute:
    case MoeStep::Dispatch:
    case MoeStep::Combine:
    case MoeStep::UnpermuteBackward:
    case MoeStep::CombineBackward:
    case MoeStep::ExpertWeightGradient:
    case MoeStep::DispatchBackward:
    case MoeStep::GateBackward:
      return false;
  }
  return false;
}

std::optional<MemoryPass> memory_pass_of(const Task& task) {
  switch (moe_step(task.key())) {
    case MoeStep::Gate:
      return MemoryPass::Gate;
    case MoeStep::Permute:
      return MemoryPass::Permute;
    case MoeStep::Unpermute:
      return MemoryPass::Unpermute;
    case MoeStep::UnpermuteBackward:
      return MemoryPass::UnpermuteBackward;
    case MoeStep::PermuteBackward:
      return MemoryPass::PermuteBackward;
    case MoeStep::GateBackward:
      return MemoryPass::GateBackward;
    case MoeStep::Dispatch:
    case MoeStep::Expert:
    case MoeStep::Combine:
    case MoeStep::CombineBackward:
    case MoeStep::ExpertBackward:
    case MoeStep::ExpertInputGradient:
    case MoeStep::ExpertWeightGradient:
    case MoeStep::DispatchBackward:
      return std::nullopt;
  }
  return std::nullopt;
}

Bytes memory_traffic(const Task& task) {
  if (const auto* gate = std::get_if<Gate>(&task.operation)) return gate->traffic;
  if (const auto* permute = std::get_if<Permute>(&task.operation)) return permute->traffic;
  return std::get<Unpermute>(task.operation).traffic;
}

std::string row_name(const Task& task) {
  return to_string(kind_of(task.operation)) + " " + to_string(task.phase);
}

std::optional<MeasuredExpert> expert_of(const Task& task) {
  const auto* expert = std::get_if<ExpertFfn>(&task.operation);
  if (expert == nullptr) return std::nullopt;
  return MeasuredExpert{
      {expert->dtype, expert->activation, expert->pass, without_rows(expert->gemms), {}},
      expert->gemms.front().rows,
      expert_flops(task.operation)};
}

bool is_expert(const Task& task, Pass pass) {
  const auto expert = expert_of(task);
  return expert && (expert->key.pass == Pass::Forward) == (pass == Pass::Forward);
}

bool is_beside_experts(const Task& task, Pass pass) {
  return is_exchange(task) && (task.phase == Phase::Backward) == (pass == Pass::Forward);
}

Bytes exchange_bytes(const Task& task) { return exchanged_bytes(task.operation); }

Bytes largest_exchange(const TaskGraph& graph) {
  Bytes largest;
  for (const Task& task : graph.tasks()) largest = std::max(largest, exchange_bytes(task));
  return largest;
}

}  // namespace pipemoe::exec
