// One MoE layer on one rank's GPU: a method for each task of the task graph. Start here.
//
// A method that takes a stream is asynchronous on it and never waits for the device, unless its
// comment says so. A method may read what another one wrote, so a caller that uses several streams
// must order them with events as the task graph does. An iteration can be recorded as a CUDA graph,
// except that of a dropless layer, because of read_counts() and place_rows(). Methods throw
// DeviceError if CUDA or cuBLASLt fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda.hpp"
#include "kernels/cuda_matmul.hpp"
#include "kernels/device_activation.hpp"
#include "kernels/device_routing.hpp"
#include "kernels/routing.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::cuda {

struct DeviceLayerShape {
  std::int64_t tokens = 0;  ///< of this rank
  std::int64_t model_dim = 0;
  std::int64_t hidden_dim = 0;
  std::int64_t num_experts = 0;
  std::int64_t top_k = 0;
  std::int64_t capacity = -1;  ///< rows that one rank sends to one expert; negative: dropless
  std::int64_t num_ranks = 1;
  Element element = Element::Bf16;  ///< tokens, rows and expert weights; the gate's weight is fp32
  DeviceActivation activation = DeviceActivation::Relu;
  bool biases = true;
  bool renormalize = true;
  float auxiliary_loss_weight = 0;
  bool tf32 = false;  ///< fp32 only: lets products round their operands to ten bits of mantissa
  std::int64_t forward_degree = 1;
  std::int64_t backward_degree = 1;
  /// One rank without an exchange: permute() writes the rows where the experts read them, and so on
  /// for the other tasks.
  bool direct = false;
  Search search = Search::Timed;
  /// True: an expert's rows from all ranks are first moved together. False: the products read them
  /// in the order in which the exchange delivers them; this needs a capacity. Absent: the order
  /// that is expected to be faster.
  std::optional<bool> packs = std::nullopt;
  /// The number of this rank, if rows for its own experts are written and read in the experts'
  /// buffers, and not exchanged. Needs a capacity and several ranks. Absent: they are exchanged
  /// like all others.
  std::optional<std::int64_t> keeps_own = std::nullopt;
  /// Exchanges deliver and fetch rows by expert (ExchangeBlocks), in the order in which the
  /// products read them. So nothing is packed. Needs a capacity.
  bool exchanges_by_expert = false;
  /// Multiprocessors for products that run beside exchanges, which use the others: the products of
  /// a pass with several chunks, and deferred weight gradients. 0: all.
  int multiprocessors_beside_exchanges = 0;
  /// Weight gradients run beside the exchange of the input gradients.
  bool defers_weight_gradients = false;

  std::int64_t local_experts() const { return num_experts / num_ranks; }
  /// Columns of the first product, as ExpertShape::first_width.
  std::int64_t first_width() const {
    return activation == DeviceActivation::SwiGlu ? 2 * hidden_dim : hidden_dim;
  }
  DeviceRouting routing() const { return {tokens, num_experts, top_k, capacity, renormalize}; }
};
/// Throws InputError for what these kernels or the current device cannot do: bf16 before compute
/// capability 8, rows that are not a multiple of 16 bytes, too many experts or choices.
void check_runs_here(const DeviceLayerShape& shape);
/// As check_runs_here, but for another device.
void check_runs_on(const DeviceLayerShape& shape, const Device& device);

// The caller's device memory, dense and row-major. It must outlive the layer.
struct DeviceWeights {
  const float* gate = nullptr;        ///< [num_experts, model_dim]
  const void* first = nullptr;        ///< [local_experts, model_dim, first width]
  const void* first_bias = nullptr;   ///< [local_experts, first width]
  const void* second = nullptr;       ///< [local_experts, hidden_dim, model_dim]
  const void* second_bias = nullptr;  ///< [local_experts, model_dim]
};
struct DeviceGradients {  ///< shapes as in DeviceWeights
  float* gate = nullptr;  ///< from this rank's tokens only
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

// ---- Exchanges ----

/// A strided copy: `blocks` blocks of `bytes` bytes. On either side, consecutive blocks are one
/// pitch apart.
struct ExchangeCopy {
  std::int64_t from = 0;  ///< byte offset of the first block in the sender's `send`
  std::int64_t from_pitch = 0;
  std::int64_t to = 0;  ///< byte offset of the first block in the receiver's `receive`
  std::int64_t to_pitch = 0;
  std::int64_t bytes = 0;
  std::int64_t blocks = 1;
};

/// How the experts' side of an exchange is laid out if the experts read the rows of all ranks
/// together. A rank's part then consists of one block for each expert, and a block of one or
/// several pieces. On the tokens' side, blocks and pieces are contiguous.
struct ExchangeBlocks {
  /// The same number of bytes from every rank. In the first block, rank 0's piece is at byte offset
  /// `begin`; the other ranks' pieces follow it.
  struct Piece {
    std::int64_t begin = 0;
    std::int64_t bytes = 0;
  };
  std::int64_t count = 1;  ///< blocks in each part
  std::int64_t pitch = 0;  ///< bytes from one block to the next on the experts' side
  std::vector<Piece> pieces;
  bool to_experts = true;  ///< true: the experts' side receives; false: it sends
};

/// One all-to-all of one chunk. Without `blocks`, both sides hold one part for each rank, in order
/// of the ranks. The part that does not move (`kept`) has its place there too.
struct DeviceExchange {
  const std::byte* send = nullptr;
  std::byte* receive = nullptr;
  std::vector<std::int64_t> send_bytes;                 ///< to each rank
  std::vector<std::int64_t> receive_bytes;              ///< from each rank
  std::optional<std::int64_t> kept = std::nullopt;      ///< this rank, if its own part stays
  std::optional<ExchangeBlocks> blocks = std::nullopt;  ///< only if all parts are equally large

  /// Returns the size of a part in bytes. Throws std::logic_error unless all are equally large.
  std::int64_t equal_part() const;
  /// Returns the copies that bring one rank's part to another rank; none if parts are empty.
  /// Requires equally large parts.
  std::vector<ExchangeCopy> copies(std::int64_t from_rank, std::int64_t to_rank) const;
};

// ---- The layer ----

/// One launch, as reported to an observer after it was made.
struct DeviceStep {
  std::string name;
  double flops = 0;
  double bytes = 0;  ///< least number of bytes that it reads and writes
  cudaStream_t stream = nullptr;
};

class DeviceLayer {
 public:
  /// Plans and allocates everything, except what depends on the routing of a dropless layer. With
  /// Search::Timed it also times algorithms. `exchanged` allocates the buffers that dispatch() and
  /// combine_exchange() return. With a capacity, every rank asks for the same sizes in the same
  /// order. Throws InputError (see check_runs_here) and DeviceError.
  DeviceLayer(const DeviceLayerShape& shape, const DeviceWeights& weights,
              const DeviceGradients& gradients, const DeviceTokens& tokens,
              DeviceAllocator exchanged = {});
  ~DeviceLayer();
  DeviceLayer(const DeviceLayer&) = delete;
  DeviceLayer& operator=(const DeviceLayer&) = delete;

  // Forward.

  /// Computes scores, choices, combine weights, load and loss, and the row of each choice.
  void gate(cudaStream_t stream);
  /// Dropless only, after gate(). Waits for `stream` and returns the number of rows of each expert,
  /// [num_experts].
  std::vector<std::int64_t> read_counts(cudaStream_t stream);
  /// Dropless only, after read_counts(). `sent`: what it returned; `received`: the rows that this
  /// rank's experts receive from all ranks. From now on, exchanges are those of these rows. Waits
  /// for the device if a buffer must grow.
  void place_rows(const std::vector<std::int64_t>& sent, const kernels::ReceivedRows& received,
                  cudaStream_t stream);
  void permute(cudaStream_t stream);
  void expert_forward(std::int64_t chunk, cudaStream_t stream);
  void combine(cudaStream_t stream);

  // Backward.

  /// Computes the gradients of the experts' outputs, of the combine weights and of the logits.
  void combine_backward(cudaStream_t stream);
  void expert_input_gradient(std::int64_t chunk, cudaStream_t stream);
  /// Call it after expert_input_gradient() of the same chunk, with `accumulate` false for the first
  /// chunk of an iteration. The last bits of a sum depend on the order of the chunks.
  void expert_weight_gradient(std::int64_t chunk, bool accumulate, cudaStream_t stream);
  /// Call it after combine_backward() and before permute_backward(), which adds its result.
  void gate_input_gradient(cudaStream_t stream);
  /// Call it after combine_backward(). On one rank it also computes the second bias' gradient.
  void gate_weight_gradient(cudaStream_t stream);
  /// Computes the gradient of the tokens, including the gate's part.
  void permute_backward(cudaStream_t stream);

  /// The exchange before the experts of a chunk. Not for direct layers, which have none.
  DeviceExchange dispatch(Pass pass, std::int64_t chunk) const;
  /// The exchange after the experts of a chunk. Not for direct layers, which have none.
  DeviceExchange combine_exchange(Pass pass, std::int64_t chunk) const;

  const DeviceLayerShape& shape() const;
  const std::int32_t* experts() const;   ///< device: [tokens, top_k]
  const float* combine_weights() const;  ///< device: [tokens, top_k]
  const float* auxiliary_loss() const;   ///< device: one value; only for a layer with that loss
  /// Returns the name and the bytes of each of the layer's own buffers.
  std::vector<std::pair<std::string, std::size_t>> bytes() const;
  /// Returns what the products' epilogues do, as text for a report.
  std::string fused() const;

  /// Fills every buffer that an iteration must write with NaN.
  void poison(cudaStream_t stream);
  /// Removes memsets from a recorded iteration that begins with gate(), which does their work for
  /// all tasks.
  void simplify(cudaGraph_t recorded) const;
  /// Calls `observer` after each launch from now on. An empty function ends this.
  void observe(std::function<void(const DeviceStep&)> observer);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pipemoe::cuda
