#include "exec/calibration_graph.hpp"

#include <optional>
#include <utility>
#include <vector>

#include "models/schedules/layer_tasks.hpp"

namespace pipemoe::exec {
namespace {

using schedules::LayerTasks;

// Appends tasks each of which waits for the one before.
class Chain {
 public:
  explicit Chain(TaskGraphBuilder& builder) : builder_(builder) {}

  TaskId then(Task task) {
    const TaskId id = builder_.append(std::move(task));
    if (last_) builder_.depend(*last_, id);
    last_ = id;
    return id;
  }

 private:
  TaskGraphBuilder& builder_;
  std::optional<TaskId> last_;
};

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

TaskGraph experts_under_exchanges(const MoeLayer& layer, std::int64_t num_ranks,
                                  std::int64_t degree) {
  const LayerTasks tasks(layer, num_ranks);
  const std::vector<std::int64_t> rows = layer.chunk_rows(degree);
  TaskGraphBuilder builder("experts-under-exchanges", num_ranks);
  Chain chain(builder);
  chain.then(tasks.gate(Phase::Forward));
  chain.then(tasks.permute(Phase::Forward));
  TaskId arrived{};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    arrived = chain.then(
        tasks.all_to_all(Purpose::Dispatch, Phase::Forward, static_cast<int>(i), rows[i]));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const int chunk = static_cast<int>(i);
    builder.depend(arrived, builder.append(tasks.expert(Pass::Forward, chunk, rows[i])));
    builder.append(tasks.all_to_all(Purpose::Combine, Phase::Backward, chunk, rows[i]));
  }
  return std::move(builder).build();
}

}  // namespace pipemoe::exec
