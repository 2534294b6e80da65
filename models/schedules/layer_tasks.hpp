// The steps of one MoE layer as tasks with their work; schedules arrange them.
#pragma once

#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::schedules {

/// Makes the tasks of `layer`, number `index` of its model, on `num_ranks` ranks. Streams:
/// all-to-all on the inter-node stream, the rest on the compute stream.
class LayerTasks {
 public:
  LayerTasks(const MoeLayer& layer, std::int64_t num_ranks, int index = 0)
      : layer_(layer), num_ranks_(num_ranks), index_(index) {}

  Task gate(Phase phase) const;
  Task permute(Phase phase) const;
  Task unpermute(Phase phase) const;
  /// `rows` of each rank, uniformly between all ranks.
  Task all_to_all(Purpose purpose, Phase phase, int chunk, std::int64_t rows) const;
  Task all_to_all(Purpose purpose, Phase phase, int chunk, TrafficMatrix traffic) const;
  Task expert(Pass pass, int chunk, std::int64_t rows) const;

 private:
  Task task(Phase phase, int chunk, Stream stream, Operation operation) const;

  const MoeLayer& layer_;
  std::int64_t num_ranks_;
  int index_;
};

}  // namespace pipemoe::schedules
