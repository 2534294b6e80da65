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
class ChunkTaskMaker {
 public:
  ChunkTaskMaker(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree)
      : tasks(layer, num_ranks), rows_(layer.chunk_rows(degree)) {}

  std::vector<Task> exchanges(Step step, Pass pass) const {
    return of_each(
        [&](int chunk, std::int64_t rows) { return tasks.all_to_all(step, pass, chunk, rows); });
  }
  std::vector<Task> experts(ProductKind kind) const {
    return of_each([&](int chunk, std::int64_t rows) { return tasks.expert(kind, chunk, rows); });
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

// Experts, and the exchanges that run beside them.
struct ExpertsAndExchanges {
  ProductKind experts;
  Step exchanges;
  Pass pass;  // of the exchanges
};
/// No exchange writes what the experts beside it read, or sends what they write. Forward experts
/// write outputs. Input gradients read what the combines of their pass brought; weight gradients
/// also read what the dispatches brought.
constexpr std::array kParts{
    ExpertsAndExchanges{ProductKind::Forward, Step::Combine, Pass::Backward},
    ExpertsAndExchanges{ProductKind::InputGradient, Step::Dispatch, Pass::Forward},
    ExpertsAndExchanges{ProductKind::WeightGradient, Step::Combine, Pass::Forward}};

enum class Beside { No, Yes };

TaskGraph three_parts(const char* name, const ChunkTaskMaker& chunks, std::int64_t num_ranks,
                      Beside beside) {
  TaskGraphBuilder builder(name, num_ranks, compute_and_communication());
  Chain chain(builder);
  chain.then(chunks.tasks.gate(Pass::Forward));
  chain.then(chunks.tasks.permute(Pass::Forward));  // makes rows and gradients to exchange
  chain.then(chunks.tasks.unpermute(Pass::Forward));
  chain.then(chunks.tasks.unpermute(Pass::Backward));
  for (const ExpertsAndExchanges& part : kParts) {
    if (beside == Beside::No) {
      chain.then(chunks.experts(part.experts));
      chain.then(chunks.exchanges(part.exchanges, part.pass));
      continue;
    }
    // A device is given its tasks in this order. Exchanges come first, because otherwise they would
    // start only when the host has launched all experts, and their times would include that wait.
    Chain other = chain;
    other.then(chunks.exchanges(part.exchanges, part.pass));
    chain.then(chunks.experts(part.experts));
    chain.join(other);
  }
  return std::move(builder).build();
}

enum class WithExchanges { No, Yes };

TaskGraph grouped(const char* name, const ChunkTaskMaker& chunks, std::int64_t num_ranks,
                  WithExchanges exchanges) {
  TaskGraphBuilder builder(name, num_ranks, compute_and_communication());
  Chain chain(builder);
  chain.then(chunks.tasks.gate(Pass::Forward));
  chain.then(chunks.tasks.permute(Pass::Forward));
  if (exchanges == WithExchanges::Yes) {
    chain.then(chunks.exchanges(Step::Dispatch, Pass::Forward));
    chain.then(chunks.exchanges(Step::Combine, Pass::Forward));
    chain.then(chunks.exchanges(Step::Combine, Pass::Backward));
    chain.then(chunks.exchanges(Step::Dispatch, Pass::Backward));
  }
  chain.then(chunks.experts(ProductKind::Forward));
  chain.then(chunks.tasks.unpermute(Pass::Forward));
  chain.then(chunks.tasks.unpermute(Pass::Backward));
  chain.then(chunks.tasks.gate(Pass::Backward));
  chain.then(chunks.experts(ProductKind::InputGradient));
  chain.then(chunks.experts(ProductKind::WeightGradient));
  chain.then(chunks.tasks.permute(Pass::Backward));
  return std::move(builder).build();
}

}  // namespace

TaskGraph serial_chunks(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree) {
  const LayerTasks tasks(layer, num_ranks);
  const std::vector<std::int64_t> rows = layer.chunk_rows(degree);
  TaskGraphBuilder builder("serial-chunks", num_ranks, compute_and_communication());
  Chain chain(builder);
  const auto chunks = [&](Pass pass, Step first, std::vector<ProductKind> kinds, Step second) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const int chunk = static_cast<int>(i);
      chain.then(tasks.all_to_all(first, pass, chunk, rows[i]));
      for (const ProductKind kind : kinds) chain.then(tasks.expert(kind, chunk, rows[i]));
      chain.then(tasks.all_to_all(second, pass, chunk, rows[i]));
    }
  };
  chain.then(tasks.gate(Pass::Forward));
  chain.then(tasks.permute(Pass::Forward));
  chunks(Pass::Forward, Step::Dispatch, {ProductKind::Forward}, Step::Combine);
  chain.then(tasks.unpermute(Pass::Forward));
  chain.then(tasks.unpermute(Pass::Backward));
  chain.then(tasks.gate(Pass::Backward));
  chunks(Pass::Backward, Step::Combine, {ProductKind::InputGradient, ProductKind::WeightGradient},
         Step::Dispatch);
  chain.then(tasks.permute(Pass::Backward));
  return std::move(builder).build();
}

TaskGraph grouped_chunks(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree) {
  return grouped("grouped-chunks", ChunkTaskMaker(layer, num_ranks, degree), num_ranks,
                 WithExchanges::Yes);
}

TaskGraph computations_only(const MoeLayer& layer, std::int64_t num_ranks, std::int64_t degree) {
  return grouped("computations-only", ChunkTaskMaker(layer, num_ranks, degree), num_ranks,
                 WithExchanges::No);
}

TaskGraph experts_under_exchanges(const MoeLayer& layer, std::int64_t num_ranks,
                                  std::int64_t degree) {
  return three_parts("experts-under-exchanges", ChunkTaskMaker(layer, num_ranks, degree), num_ranks,
                     Beside::Yes);
}

TaskGraph experts_then_exchanges(const MoeLayer& layer, std::int64_t num_ranks,
                                 std::int64_t degree) {
  return three_parts("experts-then-exchanges", ChunkTaskMaker(layer, num_ranks, degree), num_ranks,
                     Beside::No);
}

bool waits_for_exchange(const Task& task) {
  switch (moe_step(task.key)) {
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

std::string row_name(const Task& task) {
  return to_string(task.key.step) + " " + to_string(task.key.pass);
}

ExpertFit expert_key(const Products& products) {
  return {products.dtype, products.activation, products.kind, products.shapes, {}};
}

bool is_expert(const Task& task, Pass pass) {
  return products_of(task.work) != nullptr && task.key.pass == pass;
}

bool is_beside_experts(const Task& task, Pass pass) {
  return is_exchange(task) && task.key.pass != pass;
}

Bytes largest_exchange(const TaskGraph& graph) {
  Bytes largest;
  for (const Task& task : graph.tasks()) largest = std::max(largest, collective_bytes(task.work));
  return largest;
}

}  // namespace pipemoe::exec
