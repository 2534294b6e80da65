// The layout of rows: which row each choice of the gate has, how a pipeline degree cuts rows into
// chunks, and in which order a rank's experts receive them. Index arithmetic only; permute.hpp
// moves the rows.
//
// A choice is an index into [tokens, top_k]. A slot is a row's position among the rows of its
// expert. A block is what one rank sends to one expert.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "models/layer.hpp"

namespace pipemoe::kernels {

inline constexpr std::int64_t kDropped = -1;  ///< a choice without a row
inline constexpr std::int64_t kEmpty = -1;    ///< a row without a choice

/// The choices of one rank's tokens, and the room for them.
struct RoutingShape {
  std::int64_t tokens = 0;
  std::int64_t num_experts = 0;
  std::int64_t top_k = 0;
  std::optional<std::int64_t> capacity;  ///< rows for each expert; absent: dropless

  std::int64_t choices() const { return tokens * top_k; }
  bool operator==(const RoutingShape&) const = default;
};
/// Throws InputError unless the layer's dtype is fp32.
RoutingShape routing_shape(const MoeLayer& layer);

// ---- Choices to slots, slots to chunks ----

struct Assignment {
  std::vector<std::int64_t> slot;  ///< [tokens, top_k]: slot of each choice, or kDropped
  std::vector<std::int64_t> rows;  ///< [num_experts]: rows in the layout, filled or not
};

/// Assigns a slot to each choice. With a capacity, an expert takes the first choices of all tokens
/// in token order, then the second choices, and so on until it is full (GShard, algorithm 1); it
/// has `capacity` rows even if some stay unfilled. Dropless, an expert takes its tokens in order.
/// `experts`: [tokens, top_k], each in [0, num_experts), none twice for one token. Throws
/// std::logic_error if an expert is out of range.
Assignment assign(const RoutingShape& shape, std::span<const std::int32_t> experts);

/// Number of rows in the chunks before `chunk` if `degree` chunks share `rows` rows: evenly as far
/// as whole rows allow, larger chunks first.
std::int64_t rows_before_chunk(std::int64_t rows, std::int64_t degree, std::int64_t chunk);
inline std::int64_t rows_in_chunk(std::int64_t rows, std::int64_t degree, std::int64_t chunk) {
  return rows_before_chunk(rows, degree, chunk + 1) - rows_before_chunk(rows, degree, chunk);
}
/// The chunk that contains `row`. Requires 0 <= row < rows.
std::int64_t chunk_of_row(std::int64_t row, std::int64_t rows, std::int64_t degree);

/// The layout of the rows that one rank sends: [chunk][expert][slot]. So a chunk is contiguous,
/// within it all rows for one rank, and within these each block. The forward and the backward pass
/// may have plans of different degrees, made from one assignment.
struct ChunkPlan {
  std::int64_t degree = 0;
  std::int64_t num_experts = 0;
  std::vector<std::int64_t> block_begin;  ///< [degree * num_experts + 1]: first row of each block
  std::vector<std::int64_t> row_of;       ///< [tokens, top_k]: row of a choice, or kDropped
  std::vector<std::int64_t> choice_of;    ///< [rows()]: the inverse; kEmpty for an unfilled slot

  std::int64_t rows() const { return block_begin.back(); }
  /// First row of a block. `expert` may be num_experts: the result is where the next chunk begins.
  std::int64_t first_row(std::int64_t chunk, std::int64_t expert) const {
    return block_begin[static_cast<std::size_t>(chunk * num_experts + expert)];
  }
  std::int64_t block_rows(std::int64_t chunk, std::int64_t expert) const {
    return first_row(chunk, expert + 1) - first_row(chunk, expert);
  }
  std::int64_t chunk_rows(std::int64_t chunk) const {
    return first_row(chunk, num_experts) - first_row(chunk, 0);
  }
};

/// Splits each expert's rows separately. With a capacity, chunk c contains
/// MoeLayer::chunk_rows(degree)[c] / num_experts rows of every expert. A chunk may be empty.
/// Requires degree >= 1.
ChunkPlan plan_chunks(const RoutingShape& shape, std::span<const std::int32_t> experts,
                      const Assignment& assignment, std::int64_t degree);

// ---- What a rank's experts receive ----

/// The rows that one rank's experts receive, in one chunk or in all chunks. Two orders exist:
/// received order, [source][expert][row], is how an exchange delivers the rows; packed order,
/// [expert][source][row], is how the experts' products read them.
class ReceivedRows {
 public:
  /// `rows`: [num_sources, local_experts], the rows of each block. For source rank r these are its
  /// Assignment::rows for the experts of this rank. Throws std::logic_error for another size.
  ReceivedRows(std::int64_t num_sources, std::int64_t local_experts,
               std::vector<std::int64_t> rows);

  std::int64_t num_sources() const { return num_sources_; }
  std::int64_t local_experts() const { return local_experts_; }
  std::int64_t rows() const { return received_begin_.back(); }
  /// True if both orders are the same: there is one source, or one expert.
  bool is_packed() const { return num_sources_ == 1 || local_experts_ == 1; }
  std::int64_t block_rows(std::int64_t source, std::int64_t expert) const {
    return rows_[index(source, expert)];
  }
  std::int64_t source_rows(std::int64_t source) const;
  std::int64_t expert_rows(std::int64_t expert) const;
  /// First row of a block in received order.
  std::int64_t received_begin(std::int64_t source, std::int64_t expert) const {
    return received_begin_[index(source, expert)];
  }
  /// First row of a block in packed order.
  std::int64_t packed_begin(std::int64_t source, std::int64_t expert) const {
    return packed_begin_[index(source, expert)];
  }

  /// The rows of one chunk, if this object describes all chunks. plan_chunks splits the blocks in
  /// the same way on every source.
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

}  // namespace pipemoe::kernels
