#include "models/schedules/layer_tasks.hpp"

#include <utility>

namespace pipemoe::schedules {

Task LayerTasks::task(Phase phase, int chunk, Stream stream, Operation operation) const {
  return {index_, chunk, phase, stream, std::move(operation)};
}

// Reads the tokens and writes fp32 logits; backward reads both gradients' inputs and writes the
// tokens' gradient.
Task LayerTasks::gate(Phase phase) const {
  const std::int64_t tokens = layer_.tokens_per_rank;
  const std::int64_t logits = tokens * layer_.num_experts * size_of(Dtype::Fp32);
  const std::int64_t passes = phase == Phase::Forward ? 1 : 2;
  const Bytes traffic{passes * tokens * layer_.row_bytes().count + logits};
  return task(phase, 0, Stream::Compute, Gate{traffic});
}

// A gather of rows; backward sums the rows of each token.
Task LayerTasks::permute(Phase phase) const {
  const std::int64_t written = phase == Phase::Forward ? layer_.rows() : layer_.tokens_per_rank;
  const Bytes traffic{(layer_.rows() + written) * layer_.row_bytes().count};
  return task(phase, 0, Stream::Compute, Permute{traffic});
}

// Backward reads the experts' outputs too: the gate's gradient is their product with the token's.
Task LayerTasks::unpermute(Phase phase) const {
  const std::int64_t rows = layer_.rows();
  const std::int64_t moved = phase == Phase::Forward ? rows + layer_.tokens_per_rank : 3 * rows;
  return task(phase, 0, Stream::Compute, Unpermute{{moved * layer_.row_bytes().count}});
}

Task LayerTasks::all_to_all(Purpose purpose, Phase phase, int chunk, std::int64_t rows) const {
  return all_to_all(purpose, phase, chunk,
                    TrafficMatrix::uniform({rows * layer_.row_bytes().count}));
}

Task LayerTasks::all_to_all(Purpose purpose, Phase phase, int chunk, TrafficMatrix traffic) const {
  return task(phase, chunk, Stream::InterNode,
              AllToAll{purpose, std::move(traffic), layer_.expert_sizes(num_ranks_)});
}

Task LayerTasks::expert(Pass pass, int chunk, std::int64_t rows) const {
  const Phase phase = pass == Pass::Forward ? Phase::Forward : Phase::Backward;
  return task(phase, chunk, Stream::Compute,
              ExpertFfn{.pass = pass,
                        .dtype = layer_.dtype,
                        .gemms = layer_.gemms(pass, rows, num_ranks_),
                        .activation = layer_.activation,
                        .activation_traffic = layer_.activation_bytes(pass, rows),
                        .layout_traffic = layer_.layout_bytes(pass, rows, num_ranks_)});
}

}  // namespace pipemoe::schedules
