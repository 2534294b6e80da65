// Which rows each expert gets from one rank, and how a pipeline degree lays them out by chunk.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/shapes.hpp"

namespace pipemoe::kernels {

inline constexpr std::int64_t kDropped = -1;  ///< a choice without a row
inline constexpr std::int64_t kEmpty = -1;    ///< a row without a choice

/// A choice is an index into [tokens, top_k].
struct Assignment {
  std::vector<std::int64_t>
      slot;  ///< [tokens, top_k]: position among its expert's rows, or kDropped
  std::vector<std::int64_t> rows;  ///< [num_experts]: rows that the layout holds, filled or not
};

/// With a capacity, each expert takes the first choices of all tokens in token order, then the
/// second choices, and so on until it is full (GShard, algorithm 1); it has `capacity` rows however
/// many are filled. Dropless, an expert's rows are its tokens in order.
/// Requires experts in [0, num_experts), none twice for a token.
Assignment assign(const RoutingShape& shape, std::span<const std::int32_t> experts);

/// Evenly, as far as whole rows allow, larger chunks first.
std::int64_t rows_before_chunk(std::int64_t rows, std::int64_t degree, std::int64_t chunk);
inline std::int64_t rows_in_chunk(std::int64_t rows, std::int64_t degree, std::int64_t chunk) {
  return rows_before_chunk(rows, degree, chunk + 1) - rows_before_chunk(rows, degree, chunk);
}
/// The chunk that holds a row in [0, rows): the inverse of rows_before_chunk.
std::int64_t chunk_of_row(std::int64_t row, std::int64_t rows, std::int64_t degree);

/// One rank's rows, ordered [chunk][expert][slot]: a chunk is contiguous, in it what goes to one
/// rank, and in that each expert's block. Forward and backward may have plans of different degrees
/// from one assignment.
struct ChunkPlan {
  std::int64_t degree = 0;
  std::int64_t num_experts = 0;
  std::vector<std::int64_t> block_begin;  ///< [degree * num_experts + 1]: first row of each block
  std::vector<std::int64_t> row_of;       ///< [tokens, top_k]: row of a choice, or kDropped
  std::vector<std::int64_t> choice_of;    ///< [rows()]: the inverse; kEmpty for an unfilled slot

  std::int64_t rows() const { return block_begin.back(); }
  /// Of a block; expert may be num_experts: where the next chunk begins.
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

/// Each expert's rows are split by themselves: with a capacity, chunk c holds
/// MoeLayer::chunk_rows(degree)[c] / num_experts rows of every expert. A chunk may be empty.
/// Requires degree >= 1.
ChunkPlan plan_chunks(const RoutingShape& shape, std::span<const std::int32_t> experts,
                      const Assignment& assignment, std::int64_t degree);

}  // namespace pipemoe::kernels
