// The rows that one rank's experts get, and their order: as an exchange delivers them, by source
// rank; packed for the experts, by expert.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pipemoe::kernels {

/// Rows of a block: what one source rank sends to one local expert, in one chunk or in all.
/// Received order is [source][expert][row], packed order [expert][source][row].
class ReceivedRows {
 public:
  /// `rows`: [num_sources, local_experts]; of source rank r, its Assignment::rows of the experts
  /// that live here.
  ReceivedRows(std::int64_t num_sources, std::int64_t local_experts,
               std::vector<std::int64_t> rows);

  std::int64_t num_sources() const { return num_sources_; }
  std::int64_t local_experts() const { return local_experts_; }
  std::int64_t rows() const { return received_begin_.back(); }
  /// Whether received order is packed order: one source, or one expert.
  bool is_packed() const { return num_sources_ == 1 || local_experts_ == 1; }
  std::int64_t block_rows(std::int64_t source, std::int64_t expert) const {
    return rows_[index(source, expert)];
  }
  std::int64_t source_rows(std::int64_t source) const;
  std::int64_t expert_rows(std::int64_t expert) const;
  /// First row of a block in received order and in packed order.
  std::int64_t received_begin(std::int64_t source, std::int64_t expert) const {
    return received_begin_[index(source, expert)];
  }
  std::int64_t packed_begin(std::int64_t source, std::int64_t expert) const {
    return packed_begin_[index(source, expert)];
  }

  /// Of rows over all chunks: those of one chunk, as plan_chunks splits them on every source.
  ReceivedRows chunk(std::int64_t degree, std::int64_t chunk) const;

 private:
  std::size_t index(std::int64_t source, std::int64_t expert) const {
    return static_cast<std::size_t>(source * local_experts_ + expert);
  }

  std::int64_t num_sources_;
  std::int64_t local_experts_;
  std::vector<std::int64_t> rows_;
  std::vector<std::int64_t> received_begin_;
  std::vector<std::int64_t> packed_begin_;
};

/// Both buffers: [rows.rows(), width]. Only the rows of `expert` are touched, on either side. The
/// two may be one buffer where rows.is_packed(): then there is nothing to do.
void pack_expert(const ReceivedRows& rows, std::int64_t expert, std::int64_t width,
                 std::span<const float> received, std::span<float> packed);
void unpack_expert(const ReceivedRows& rows, std::int64_t expert, std::int64_t width,
                   std::span<const float> packed, std::span<float> received);

struct Regroup {
  std::int64_t width = 0;
  std::int64_t from_degree = 1;
  std::int64_t to_degree = 1;
  std::int64_t chunk = 0;       ///< in [0, to_degree)
  std::span<const float> from;  ///< [all.rows(), width]: from_degree chunks in order, each packed
  std::span<float> to;          ///< out: [all.chunk(to_degree, chunk).rows(), width], packed
};
/// One chunk of one degree out of all chunks of another: what forward saved, for a backward pass of
/// another degree. `all`: rows over all chunks.
void regroup(const ReceivedRows& all, const Regroup& args);

}  // namespace pipemoe::kernels
