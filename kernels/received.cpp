#include "kernels/received.hpp"

#include <algorithm>
#include <utility>

#include "kernels/routing.hpp"
#include "kernels/vector_ops.hpp"

namespace pipemoe::kernels {

ReceivedRows::ReceivedRows(std::int64_t num_sources, std::int64_t local_experts,
                           std::vector<std::int64_t> rows)
    : num_sources_(num_sources), local_experts_(local_experts), rows_(std::move(rows)) {
  ensure(static_cast<std::int64_t>(rows_.size()) == num_sources * local_experts,
         "ReceivedRows: not a number for each block");
  received_begin_.push_back(0);
  for (const std::int64_t block : rows_) received_begin_.push_back(received_begin_.back() + block);
  packed_begin_.resize(rows_.size());
  std::int64_t begin = 0;
  for (std::int64_t expert = 0; expert < local_experts; ++expert) {
    for (std::int64_t source = 0; source < num_sources; ++source) {
      packed_begin_[index(source, expert)] = begin;
      begin += block_rows(source, expert);
    }
  }
}

std::int64_t ReceivedRows::source_rows(std::int64_t source) const {
  return received_begin_[index(source + 1, 0)] - received_begin_[index(source, 0)];
}

std::int64_t ReceivedRows::expert_rows(std::int64_t expert) const {
  std::int64_t sum = 0;
  for (std::int64_t source = 0; source < num_sources_; ++source) sum += block_rows(source, expert);
  return sum;
}

ReceivedRows ReceivedRows::chunk(std::int64_t degree, std::int64_t chunk) const {
  std::vector<std::int64_t> rows = rows_;
  for (std::int64_t& block : rows) block = rows_in_chunk(block, degree, chunk);
  return {num_sources_, local_experts_, std::move(rows)};
}

namespace {

// Calls copy_rows(received row, packed row, number) for each block of `expert`, unless one buffer
// is both.
template <class CopyRows>
void for_each_block(const ReceivedRows& rows, std::int64_t expert, bool same_buffer,
                    CopyRows copy_rows) {
  if (rows.rows() == 0) return;  // two empty buffers look like one
  ensure(!same_buffer || rows.is_packed(), "rows in one buffer have two orders");
  if (same_buffer) return;
  for (std::int64_t source = 0; source < rows.num_sources(); ++source) {
    copy_rows(rows.received_begin(source, expert), rows.packed_begin(source, expert),
              rows.block_rows(source, expert));
  }
}

}  // namespace

void pack_expert(const ReceivedRows& rows, std::int64_t expert, std::int64_t width,
                 std::span<const float> received, std::span<float> packed) {
  for_each_block(rows, expert, received.data() == packed.data(),
                 [&](std::int64_t from, std::int64_t to, std::int64_t count) {
                   copy(rows_of(received, from, count, width), rows_of(packed, to, count, width));
                 });
}

void unpack_expert(const ReceivedRows& rows, std::int64_t expert, std::int64_t width,
                   std::span<const float> packed, std::span<float> received) {
  for_each_block(rows, expert, received.data() == packed.data(),
                 [&](std::int64_t to, std::int64_t from, std::int64_t count) {
                   copy(rows_of(packed, from, count, width), rows_of(received, to, count, width));
                 });
}

namespace {

struct Block {
  std::int64_t source;
  std::int64_t expert;
};

// Where the chunks of one degree lie when each is packed and follows the one before.
class PackedChunks {
 public:
  PackedChunks(const ReceivedRows& all, std::int64_t degree) {
    std::int64_t begin = 0;
    for (std::int64_t chunk = 0; chunk < degree; ++chunk) {
      chunks_.push_back(all.chunk(degree, chunk));
      begins_.push_back(begin);
      begin += chunks_.back().rows();
    }
  }
  std::int64_t begin(std::int64_t chunk, Block block) const {
    const auto i = static_cast<std::size_t>(chunk);
    return begins_[i] + chunks_[i].packed_begin(block.source, block.expert);
  }

 private:
  std::vector<ReceivedRows> chunks_;
  std::vector<std::int64_t> begins_;
};

// A block's rows are one sequence, which each degree cuts its own way.
void regroup_block(const PackedChunks& from, std::int64_t rows, Block block, std::int64_t to_row,
                   const Regroup& args) {
  std::int64_t row = rows_before_chunk(rows, args.to_degree, args.chunk);
  const std::int64_t end = rows_before_chunk(rows, args.to_degree, args.chunk + 1);
  while (row < end) {
    const std::int64_t chunk = chunk_of_row(row, rows, args.from_degree);
    const std::int64_t chunk_begin = rows_before_chunk(rows, args.from_degree, chunk);
    const std::int64_t chunk_end = rows_before_chunk(rows, args.from_degree, chunk + 1);
    const std::int64_t count = std::min(end, chunk_end) - row;
    copy(rows_of(args.from, from.begin(chunk, block) + row - chunk_begin, count, args.width),
         rows_of(args.to, to_row, count, args.width));
    row += count;
    to_row += count;
  }
}

}  // namespace

void regroup(const ReceivedRows& all, const Regroup& args) {
  const PackedChunks from(all, args.from_degree);
  const ReceivedRows to = all.chunk(args.to_degree, args.chunk);
  check_size(args.from, all.rows() * args.width, "regroup: from");
  check_size(args.to, to.rows() * args.width, "regroup: to");
  for (std::int64_t expert = 0; expert < all.local_experts(); ++expert) {
    for (std::int64_t source = 0; source < all.num_sources(); ++source) {
      regroup_block(from, all.block_rows(source, expert), {source, expert},
                    to.packed_begin(source, expert), args);
    }
  }
}

}  // namespace pipemoe::kernels
