// What DeviceLayer's own files share.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "kernels/device_layer.hpp"
#include "kernels/expert_major.hpp"
#include "kernels/zeroed_workspaces.hpp"

namespace pipemoe::cuda {

/// Experts whose rows one batched product takes: `rows` of each, one expert's first row `stride`
/// rows behind that of the one before.
struct ExpertGroup {
  std::int64_t first_expert = 0;
  std::int64_t experts = 0;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t stride = 0;
  bool continues = false;       ///< a group before has rows of the same experts and chunk
  std::int64_t sums_begin = 0;  ///< backward: first of its partial sums of the first bias' gradient

  std::int64_t all_rows() const { return experts * rows; }
};

/// Part of the device's table of moves.
struct Moves {
  std::int64_t begin = 0;
  std::int64_t count = 0;
  std::int64_t most_rows = 0;
};

struct DeviceChunk {
  std::int64_t sent_begin = 0;              ///< first of the rows this rank sends
  std::int64_t received_begin = 0;          ///< first of the rows its experts get, in either order
  std::vector<std::int64_t> sent_rows;      ///< to each rank
  std::vector<std::int64_t> received_rows;  ///< from each rank
  /// First of this rank's own, by expert: with a capacity, and unless rows are expert-major.
  std::vector<std::int64_t> own_begin;
  std::vector<ExpertGroup> groups;
  Moves pack, unpack, regroup;
};

/// How the rows of a chunk lie that an exchange delivers, and how its experts read them.
enum class ReceivedOrder {
  AsPacked,  ///< delivered as packed: one source, one expert, or an exchange by expert
  Packed,    ///< moved into packed order first, and back for the exchange behind
  BySource,  ///< read as delivered, with products of their own for each source
};
ReceivedOrder received_order(const DeviceLayerShape& shape);
/// Whether experts read their rows in expert-major order: where these come there in blocks, or are
/// moved anyway. Otherwise chunks follow one another, and those of another degree are regrouped.
bool is_expert_major(const DeviceLayerShape& shape);

/// Where every row of both passes lies.
struct RowPlacement {
  std::vector<DeviceChunk> forward, backward;
  std::optional<ExpertMajor> expert_major;
  std::vector<RowMove> moves;
  std::int64_t sent_rows = 0;
  std::int64_t received_rows = 0;
  std::int64_t first_bias_sums = 0;  ///< floats of all groups' partial sums
};
/// Of a layer with a capacity: block_begin of a RowMap over `chunks`, one pass's of the
/// placement; a block for each chunk, or segment where rows are expert-major. Rows that are kept
/// follow the sent ones, in the order of the experts' products.
std::vector<std::int32_t> capacity_blocks(const DeviceLayerShape& shape,
                                          const RowPlacement& placement,
                                          const std::vector<DeviceChunk>& chunks);

/// `sent`: rows of each expert; `received`: of this rank's experts.
RowPlacement place(const DeviceLayerShape& shape, const std::vector<std::int64_t>& sent,
                   const kernels::ReceivedRows& received);

/// Which work around the products their epilogues take over, as far as the library can. Only what
/// pays: on an H200 its ReLU gradient and bias gradients cost more than a pass over memory.
struct Fusion {
  bool first_bias = false;   ///< added by the first product
  bool relu = false;         ///< by the first product
  bool second_bias = false;  ///< by the second
};

/// Shapes of the experts' products over one group.
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

/// Asks the library; `group` is one of the layer's.
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
  bool two_maps = false;  ///< forward's chunks are not backward's
  bool regroups = false;  ///< and rows do not lie so that both are ranges
  std::int64_t padded_experts = 0;
  std::int64_t gate_parts = 1;
  std::function<void(const DeviceStep&)> observer;
  Workspace expert_workspace, weight_workspace, gate_workspace, gate_weight_workspace;
  DeviceAllocator exchanged_allocator;  ///< of buffers that exchanges name
  std::map<std::string, DeviceBuffer> buffers;
  ZeroedWorkspaces zeroed;  ///< of the experts' products
  PinnedBuffer staged;      ///< counts that the host reads, then tables it writes

  State(const DeviceLayerShape& of, const DeviceWeights& with, const DeviceGradients& to,
        const DeviceTokens& on, DeviceAllocator exchanged);

  void allocate_gate();
  void write_blocks();
  void allocate_rows();
  void upload(cudaStream_t stream);
  void prepare_products();
  /// Throws std::logic_error for a name that no buffer has.
  template <class T = std::byte>
  T* at(const char* name) const {
    return buffer(name).template as<T>();
  }
  /// Row `row` of a buffer of rows `width` elements wide.
  std::byte* row(const char* name, std::int64_t row, std::int64_t width) const {
    return buffer(name).data() + row * width * size_of(shape.element);
  }
  const DeviceBuffer& buffer(const char* name) const;
  /// At least so large; what it held is lost when it grows.
  void need(const char* name, std::int64_t bytes, const DeviceAllocator& allocator = {});

  /// The second bias' gradient is a sum over this rank's own tokens: cheaper than over their rows.
  bool sums_tokens() const { return shape.biases && shape.num_ranks == 1; }
  SumTokensShape token_sums() const {
    return {shape.tokens, shape.num_experts, padded_experts, shape.model_dim, shape.element};
  }
  bool gelu_or_swiglu() const { return shape.activation != DeviceActivation::Relu; }
  /// What forward saved, as backward's chunks lie.
  const char* saved(const char* forward, const char* regrouped) const {
    return regroups ? regrouped : forward;
  }
  DeviceRows rows() const;
  /// What the tokens' side reads or writes: rows that are exchanged, and those of its own experts.
  template <class Rows>
  Rows rows_of(const char* exchanged, const char* own) const {
    if (shape.direct) return {at(own)};
    if (!shape.keeps_own) return {at(exchanged)};
    return {at(exchanged), at(own), static_cast<std::int32_t>(placement.sent_rows)};
  }
  /// Of a map over chunks of that degree: RowMap::degree.
  std::int64_t map_blocks(std::int64_t degree) const;
  RowMap map(Pass pass) const;
  const DeviceChunk& chunk(Pass pass, std::int64_t index) const;
  std::byte* experts_side(const char* name, const DeviceChunk& chunk) const;
  ExchangeBlocks blocks_of(std::int64_t degree, std::int64_t index) const;
  void note(const char* name, double flops, double bytes, cudaStream_t stream) const;
  void multiply(const char* name, const Matmul& shape_of, const MatmulArgs& args,
                const Workspace& workspace, cudaStream_t stream);
  void move(const char* name, const Moves& moves, std::int64_t row_bytes, const char* from,
            const char* to, cudaStream_t stream);

  void forward_group(const ExpertGroup& group, cudaStream_t stream);
  void gradient_group(const ExpertGroup& group, cudaStream_t stream);
  void weight_group(const ExpertGroup& group, bool accumulate, cudaStream_t stream);
  void clear_gradients(const ExpertGroup& group, cudaStream_t stream);
  void regroup(const DeviceChunk& chunk, cudaStream_t stream);
};

}  // namespace pipemoe::cuda
