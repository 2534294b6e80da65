// The position of every row of a DeviceLayer, and what must be moved. Index arithmetic only:
// nothing here touches the device.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/device_layer.hpp"
#include "kernels/device_permute.hpp"
#include "kernels/routing.hpp"

namespace pipemoe::cuda {

/// In which order an exchange delivers the rows of a chunk, and in which order the products read
/// them.
enum class ReceivedOrder {
  AsPacked,  ///< delivered in packed order: one source, one expert, or an exchange by expert
  Packed,    ///< delivered by source, moved into packed order, and moved back after the experts
  BySource,  ///< delivered by source and read in that order, with one product for each source
};
ReceivedOrder received_order(const DeviceLayerShape& shape);
/// Whether the products read rows in expert-major order (see ExpertMajor). They do if the exchange
/// delivers rows in blocks by expert, or if rows are moved anyway. Otherwise the chunks follow one
/// another, and are regrouped if the degrees of the two passes differ.
bool is_expert_major(const DeviceLayerShape& shape);

/// The order [expert][segment][source][slot] for a layer with a capacity. Segments are the ranges
/// into which the chunks of both passes cut an expert's slots. So every chunk of either pass is one
/// range of each expert's rows.
class ExpertMajor {
 public:
  ExpertMajor(std::int64_t sources, std::int64_t capacity, std::int64_t forward_degree,
              std::int64_t backward_degree);

  /// The first slot of each segment, then the capacity.
  const std::vector<std::int64_t>& bounds() const { return bounds_; }
  std::int64_t segments() const { return static_cast<std::int64_t>(bounds_.size()) - 1; }
  std::int64_t first_slot(std::int64_t segment) const {
    return bounds_[static_cast<std::size_t>(segment)];
  }
  std::int64_t slots(std::int64_t segment) const {
    return first_slot(segment + 1) - first_slot(segment);
  }
  /// The segments of one chunk, in order. `degree`: that of the forward or the backward pass.
  std::vector<std::int64_t> of_chunk(std::int64_t degree, std::int64_t chunk) const;
  /// Number of rows of one expert.
  std::int64_t expert_rows() const { return sources_ * bounds_.back(); }
  /// First row, in the first expert, of all sources' rows from `slot` on. `slot` must be a bound.
  std::int64_t row_of_slot(std::int64_t slot) const { return sources_ * slot; }
  /// First row of a segment of one source and expert.
  std::int64_t begin(std::int64_t source, std::int64_t expert, std::int64_t segment) const {
    return expert * expert_rows() + row_of_slot(first_slot(segment)) + source * slots(segment);
  }

 private:
  std::int64_t sources_;
  std::vector<std::int64_t> bounds_;
};

/// Experts whose rows one batched product takes. Each expert has `rows` rows; the first rows of two
/// neighbouring experts are `stride` rows apart.
struct ExpertGroup {
  std::int64_t first_expert = 0;
  std::int64_t experts = 0;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t stride = 0;
  bool continues = false;       ///< an earlier group has rows of the same experts and chunk
  std::int64_t sums_begin = 0;  ///< backward: offset of its partial sums for the first bias

  std::int64_t all_rows() const { return experts * rows; }
};

/// A range of RowPlacement::moves.
struct MoveRange {
  std::int64_t begin = 0;
  std::int64_t count = 0;
  std::int64_t most_rows = 0;  ///< rows of the largest move
};

/// The position of the rows of one chunk of one pass on one rank.
struct ChunkPlacement {
  std::int64_t sent_begin = 0;              ///< first of the rows that this rank sends
  std::int64_t received_begin = 0;          ///< first of the rows that its experts receive
  std::vector<std::int64_t> sent_rows;      ///< to each rank
  std::vector<std::int64_t> received_rows;  ///< from each rank
  /// First row for each of this rank's own experts, if its own rows are kept. Empty in expert-major
  /// order.
  std::vector<std::int64_t> own_begin;
  std::vector<ExpertGroup> groups;
  MoveRange pack, unpack, regroup;
};

/// The position of every row of both passes.
struct RowPlacement {
  std::vector<ChunkPlacement> forward, backward;  ///< by chunk
  std::optional<ExpertMajor> expert_major;        ///< present if is_expert_major()
  std::vector<RowMove> moves;
  std::int64_t sent_rows = 0;
  std::int64_t received_rows = 0;
  std::int64_t first_bias_sums = 0;  ///< floats in the partial sums of all groups
};

/// `sent`: [num_experts], the rows that this rank sends to each expert; `received`: the rows that
/// its experts receive in all chunks. Throws std::logic_error if their sizes do not fit the shape.
RowPlacement place(const DeviceLayerShape& shape, const std::vector<std::int64_t>& sent,
                   const kernels::ReceivedRows& received);

/// Returns RowMap::block_begin for a layer with a capacity. `chunks`: placement.forward or
/// placement.backward. A block is a chunk, or a segment in expert-major order. Rows that are kept
/// have numbers above those of the sent rows, in the order of the experts' products.
std::vector<std::int32_t> capacity_blocks(const DeviceLayerShape& shape,
                                          const RowPlacement& placement,
                                          const std::vector<ChunkPlacement>& chunks);

}  // namespace pipemoe::cuda
