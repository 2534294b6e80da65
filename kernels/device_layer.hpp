// One MoE layer's state on one rank and one GPU, a method a task. Every method that takes a stream
// is asynchronous on it and never waits for the device, unless it says so. What one method writes
// another reads: who runs them on several streams joins these by events in the order of the task
// graph. Only read_counts and place_rows, of a dropless layer, keep an iteration out of a CUDA
// graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda.hpp"
#include "kernels/cuda_matmul.hpp"
#include "kernels/device_activation.hpp"
#include "kernels/device_rows.hpp"
#include "kernels/device_types.hpp"
#include "kernels/received.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::cuda {

struct DeviceLayerShape {
  std::int64_t tokens = 0;  ///< of this rank
  std::int64_t model_dim = 0;
  std::int64_t hidden_dim = 0;
  std::int64_t num_experts = 0;
  std::int64_t top_k = 0;
  std::int64_t capacity = -1;  ///< rows from one rank to one expert; below 0: dropless
  std::int64_t num_ranks = 1;
  Element element = Element::Bf16;  ///< of tokens, rows and expert weights; the gate's are fp32
  DeviceActivation activation = DeviceActivation::Relu;
  bool biases = true;
  bool renormalize = true;
  float auxiliary_loss_weight = 0;
  bool tf32 = false;  ///< fp32 only: products may round their operands to ten bits
  std::int64_t forward_degree = 1;
  std::int64_t backward_degree = 1;
  /// One rank without an exchange: permute writes where the experts read, and so on back.
  bool direct = false;
  Search search = Search::Timed;
  /// Whether an expert's rows from all ranks are moved together first, or read as the exchange
  /// delivers them, which needs a capacity. Absent: what is expected to be faster.
  std::optional<bool> packs = std::nullopt;
  /// This rank, where rows for its own experts are written and read where these have them, and no
  /// exchange carries them. Needs a capacity and several ranks. Absent: they are exchanged too.
  std::optional<std::int64_t> keeps_own = std::nullopt;
  /// Exchanges deliver and take rows by expert, as the products read them (ExchangeBlocks): nothing
  /// is moved. Needs a capacity.
  bool exchanges_by_expert = false;
  /// Multiprocessors for experts' products that stand beside exchanges, to which they leave the
  /// others: in a pass of several chunks, and of deferred weight gradients. 0: all.
  int multiprocessors_beside_exchanges = 0;
  bool defers_weight_gradients = false;  ///< beside the exchange of the input gradients

  std::int64_t local_experts() const { return num_experts / num_ranks; }
  std::int64_t first_width() const {
    return activation == DeviceActivation::SwiGlu ? 2 * hidden_dim : hidden_dim;
  }
  DeviceRouting routing() const { return {tokens, num_experts, top_k, capacity, renormalize}; }
};
/// Throws InputError for what these kernels or the current device cannot do: bf16 before compute
/// capability 8, rows that are no whole number of 16 bytes, too many experts or choices.
void check_runs_here(const DeviceLayerShape& shape);
/// The same for another device.
void check_runs_on(const DeviceLayerShape& shape, const Device& device);

/// Device memory of the caller, row-major as in kernels/; it stays where it is.
struct DeviceWeights {
  const float* gate = nullptr;        ///< [num_experts, model_dim]
  const void* first = nullptr;        ///< [local_experts, model_dim, first width]
  const void* first_bias = nullptr;   ///< [local_experts, first width]
  const void* second = nullptr;       ///< [local_experts, hidden_dim, model_dim]
  const void* second_bias = nullptr;  ///< [local_experts, model_dim]
};
struct DeviceGradients {
  float* gate = nullptr;  ///< of this rank's tokens
  void* first = nullptr;
  void* first_bias = nullptr;
  void* second = nullptr;
  void* second_bias = nullptr;
};
struct DeviceTokens {
  const void* input = nullptr;            ///< [tokens, model_dim]
  const void* output_gradient = nullptr;  ///< [tokens, model_dim]
  void* output = nullptr;                 ///< out: [tokens, model_dim]
  void* input_gradient = nullptr;         ///< out: [tokens, model_dim]
};

/// Blocks that lie together on both sides of an exchange, each so many bytes, one a pitch behind
/// the one before.
struct ExchangeCopy {
  std::int64_t from = 0;  ///< bytes from the sender's `send` to the first block
  std::int64_t from_pitch = 0;
  std::int64_t to = 0;  ///< bytes from the receiver's `receive`
  std::int64_t to_pitch = 0;
  std::int64_t bytes = 0;
  std::int64_t blocks = 1;
};

/// How the parts of an exchange lie on the experts' side where these read all ranks' rows together:
/// a block of each part for each expert, in pieces. On the tokens' side the blocks of a part follow
/// one another, as the pieces of a block do.
struct ExchangeBlocks {
  /// So many bytes of every rank: rank 0's begin at `begin` in the first block, the others' follow.
  struct Piece {
    std::int64_t begin = 0;
    std::int64_t bytes = 0;
  };
  std::int64_t count = 1;  ///< of each part
  std::int64_t pitch = 0;  ///< on the experts' side, from one block to the next
  std::vector<Piece> pieces;
  bool to_experts = true;  ///< whether the experts' side receives
};

/// One all-to-all of one chunk: both sides hold the ranks' parts one after another, or leave room
/// for one, unless there are blocks.
struct DeviceExchange {
  const std::byte* send = nullptr;
  std::byte* receive = nullptr;
  std::vector<std::int64_t> send_bytes;             ///< to each rank
  std::vector<std::int64_t> receive_bytes;          ///< from each rank
  std::optional<std::int64_t> kept = std::nullopt;  ///< the rank whose part does not move: this one
  std::optional<ExchangeBlocks> blocks = std::nullopt;  ///< of equal parts

  /// The size of all parts. Throws std::logic_error unless they are equally large.
  std::int64_t equal_part() const;
  /// What brings one rank's part to another one, of equal parts; none of empty ones.
  std::vector<ExchangeCopy> copies(std::int64_t from_rank, std::int64_t to_rank) const;
};

/// One launch as an observer sees it, after it was made.
struct DeviceStep {
  std::string name;
  double flops = 0;
  double bytes = 0;  ///< read and written at least, each once
  cudaStream_t stream = nullptr;
};

class DeviceLayer {
 public:
  /// Plans and allocates everything but what a dropless layer's routing decides; times algorithms
  /// if the shape says so. `exchanged` makes the buffers that dispatch() and combine_exchange()
  /// name: equally large ones in the same order on every rank of a layer with a capacity.
  /// Throws InputError (check_runs_here) and DeviceError.
  DeviceLayer(const DeviceLayerShape& shape, const DeviceWeights& weights,
              const DeviceGradients& gradients, const DeviceTokens& tokens,
              DeviceAllocator exchanged = {});
  ~DeviceLayer();
  DeviceLayer(const DeviceLayer&) = delete;
  DeviceLayer& operator=(const DeviceLayer&) = delete;

  /// Scores, choices, combine weights, load, loss; which row each choice has.
  void gate(cudaStream_t stream);
  /// Dropless only, after gate(): waits for `stream` and returns the rows of each expert,
  /// [num_experts].
  std::vector<std::int64_t> read_counts(cudaStream_t stream);
  /// Dropless only, after read_counts(): `received` are the rows of this rank's experts from all
  /// ranks. Waits for the device where a buffer must grow. Exchanges are those of these rows from
  /// now on.
  void place_rows(const std::vector<std::int64_t>& sent, const kernels::ReceivedRows& received,
                  cudaStream_t stream);
  void permute(cudaStream_t stream);
  void expert_forward(std::int64_t chunk, cudaStream_t stream);
  void combine(cudaStream_t stream);

  /// Gradients of the experts' outputs, of the combine weights and so of the logits.
  void combine_backward(cudaStream_t stream);
  void expert_input_gradient(std::int64_t chunk, cudaStream_t stream);
  /// After the same chunk's expert_input_gradient. `accumulate` is false for an iteration's first
  /// chunk; chunks in one order every time, as a sum's last bits depend on it.
  void expert_weight_gradient(std::int64_t chunk, bool accumulate, cudaStream_t stream);
  /// Any time after combine_backward and before permute_backward, which adds what it leaves.
  void gate_input_gradient(cudaStream_t stream);
  /// Any time after combine_backward. On one rank the second bias' gradient comes from here too.
  void gate_weight_gradient(cudaStream_t stream);
  /// The gradient of the tokens, the gate's part included.
  void permute_backward(cudaStream_t stream);

  /// The exchanges between the tasks; of a direct layer there are none.
  DeviceExchange dispatch(Pass pass, std::int64_t chunk) const;
  DeviceExchange combine_exchange(Pass pass, std::int64_t chunk) const;

  const DeviceLayerShape& shape() const;
  const std::int32_t* experts() const;   ///< device: [tokens, top_k]
  const float* combine_weights() const;  ///< device: [tokens, top_k]
  const float* auxiliary_loss() const;   ///< device: one value; of a layer with that loss
  /// Bytes of each of the layer's own buffers.
  std::vector<std::pair<std::string, std::size_t>> bytes() const;
  /// What the products' epilogues do, for a report.
  std::string fused() const;

  /// Fills every buffer that an iteration must write with NaN.
  void poison(cudaStream_t stream);
  /// Takes out of a recorded iteration, which begins with gate(), what that does for all tasks.
  void simplify(cudaGraph_t recorded) const;
  /// Called after each launch from now on; empty: nobody.
  void observe(std::function<void(const DeviceStep&)> observer);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pipemoe::cuda
