// The private parts of DeviceLayer: device_layer.cpp plans, allocates and answers questions;
// device_layer_tasks.cpp enqueues the tasks.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kernels/device_layer.hpp"
#include "kernels/device_permute.hpp"
#include "kernels/row_placement.hpp"

namespace pipemoe::cuda {

/// Which work the epilogues of the products do. ReLU's gradient and the biases' gradients are never
/// fused: on an H200 these epilogues cost more than a pass over memory.
struct Fusion {
  bool first_bias = false;   ///< the first product adds its bias
  bool relu = false;         ///< the first product applies ReLU
  bool second_bias = false;  ///< the second product adds its bias
};

/// The shapes of the experts' products over one group.
class ExpertProducts {
 public:
  ExpertProducts() = default;
  ExpertProducts(const DeviceLayerShape& shape, const Fusion& fusion)
      : shape_(shape), fusion_(fusion) {}

  Matmul first(const ExpertGroup& group) const;
  Matmul second(const ExpertGroup& group) const;
  Matmul hidden_gradient(const ExpertGroup& group) const;
  Matmul input_gradient(const ExpertGroup& group) const;
  Matmul first_weight(const ExpertGroup& group, bool accumulate) const;
  Matmul second_weight(const ExpertGroup& group, bool accumulate) const;

 private:
  Matmul on_rows(const ExpertGroup& group, std::int64_t n, std::int64_t k,
                 std::int64_t degree) const;
  Matmul over_rows(const ExpertGroup& group, std::int64_t m, std::int64_t n, bool accumulate) const;

  int multiprocessors(bool beside_exchanges) const;

  DeviceLayerShape shape_;
  Fusion fusion_;
};

/// Returns what the library can fuse. `group`: one of the layer's groups.
Fusion choose_fusion(const DeviceLayerShape& shape, const ExpertGroup& group,
                     const Matmuls& matmuls);

struct DeviceLayer::State {
  DeviceLayerShape shape;
  DeviceWeights weights;
  DeviceGradients gradients;
  DeviceTokens tokens;
  Matmuls matmuls;
  Fusion fusion;
  ExpertProducts products;
  RowPlacement placement;
  bool packs = false;     ///< rows are moved into packed order
  bool two_maps = false;  ///< the chunks of the two passes differ
  bool regroups = false;  ///< saved rows must be moved for the backward pass's chunks
  std::int64_t padded_experts = 0;
  std::int64_t gate_parts = 1;
  std::function<void(const DeviceStep&)> observer;
  Workspace expert_workspace, weight_workspace, gate_workspace, gate_weight_workspace;
  DeviceAllocator exchanged_allocator;  ///< for the buffers that exchanges use
  std::map<std::string, DeviceBuffer> buffers;
  ZeroedWorkspaces zeroed;  ///< for the experts' products
  PinnedBuffer staged;      ///< first the counts that the host reads, then the moves

  State(const DeviceLayerShape& of, const DeviceWeights& with, const DeviceGradients& to,
        const DeviceTokens& on, DeviceAllocator exchanged);

  void allocate_gate();
  void write_blocks();  ///< for a layer with a capacity
  void allocate_rows();
  void upload_moves(cudaStream_t stream);
  void prepare_products();
  /// Throws std::logic_error if no buffer has that name.
  template <class T = std::byte>
  T* at(const char* name) const {
    return buffer(name).template as<T>();
  }
  /// Returns row `row` of a buffer whose rows are `width` elements wide.
  std::byte* row(const char* name, std::int64_t row, std::int64_t width) const {
    return buffer(name).data() + row * width * size_of(shape.element);
  }
  const DeviceBuffer& buffer(const char* name) const;
  /// Makes a buffer at least `bytes` large. A buffer that must grow loses its contents.
  void need(const char* name, std::int64_t bytes, const DeviceAllocator& allocator = {});

  /// Whether the second bias' gradient is summed over this rank's tokens. On one rank this is
  /// cheaper than summing over their rows.
  bool sums_tokens() const { return shape.biases && shape.num_ranks == 1; }
  SumTokensShape token_sums() const {
    return {shape.tokens, shape.num_experts, padded_experts, shape.model_dim, shape.element};
  }
  bool gelu_or_swiglu() const { return shape.activation != DeviceActivation::Relu; }
  /// Returns the name of the buffer with what the forward pass saved, laid out for the backward
  /// pass.
  const char* saved(const char* forward, const char* regrouped) const {
    return regroups ? regrouped : forward;
  }
  DeviceRows rows() const;
  /// Returns the rows that permute() and combine() access: those that are exchanged, and those that
  /// are kept in the experts' buffer.
  template <class Rows>
  Rows rows_of(const char* exchanged, const char* own) const {
    if (shape.direct) return {at(own)};
    if (!shape.keeps_own) return {at(exchanged)};
    return {at(exchanged), at(own), static_cast<std::int32_t>(placement.sent_rows)};
  }
  /// Returns RowMap::degree for a pass of that pipeline degree.
  std::int64_t map_blocks(std::int64_t degree) const;
  RowMap map(Pass pass) const;
  const ChunkPlacement& chunk(Pass pass, std::int64_t index) const;
  /// Where an exchange of that chunk reads or writes rows on the experts' side.
  std::byte* experts_side(const char* name, const ChunkPlacement& chunk) const;
  ExchangeBlocks blocks_of(std::int64_t degree, std::int64_t index) const;
  /// Reports a launch to the observer.
  void note(const char* name, double flops, double bytes, cudaStream_t stream) const;
  void multiply(const char* name, const Matmul& shape_of, const MatmulArgs& args,
                const Workspace& workspace, cudaStream_t stream);
  void move(const char* name, const MoveRange& moves, std::int64_t row_bytes, const char* from,
            const char* to, cudaStream_t stream);

  void forward_group(const ExpertGroup& group, cudaStream_t stream);
  void gradient_group(const ExpertGroup& group, cudaStream_t stream);
  void weight_group(const ExpertGroup& group, bool accumulate, cudaStream_t stream);
  void clear_gradients(const ExpertGroup& group, cudaStream_t stream);
  void regroup(const ChunkPlacement& chunk, cudaStream_t stream);
};

}  // namespace pipemoe::cuda
