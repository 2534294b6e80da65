#include "kernels/permute.hpp"

#include <algorithm>

#include "kernels/cpu_math.hpp"

namespace pipemoe::kernels {
namespace {

void check_plan(const RowShape& shape, const ChunkPlan& plan) {
  ensure(static_cast<std::int64_t>(plan.row_of.size()) == shape.tokens * shape.top_k,
         "permute: the plan has other tokens");
}

// Calls visit(choice, row) for each choice of a token that has a row.
template <class Visit>
void for_each_row(const RowShape& shape, const ChunkPlan& plan, std::int64_t token, Visit visit) {
  for (std::int64_t choice = token * shape.top_k; choice < (token + 1) * shape.top_k; ++choice) {
    const std::int64_t row = plan.row_of[static_cast<std::size_t>(choice)];
    if (row != kDropped) visit(static_cast<std::size_t>(choice), row);
  }
}

void clear_empty_rows(const ChunkPlan& plan, std::int64_t width, std::span<float> rows) {
  for (std::int64_t row = 0; row < plan.rows(); ++row) {
    if (plan.choice_of[static_cast<std::size_t>(row)] == kEmpty) {
      fill(rows_of(rows, row, 1, width), 0);
    }
  }
}

// Calls copy_rows(received row, packed row, count) for each block of `expert`. Does nothing if
// received and packed rows are in one buffer.
template <class CopyRows>
void for_each_block_of(const ReceivedRows& rows, std::int64_t expert, bool same_buffer,
                       CopyRows copy_rows) {
  if (rows.rows() == 0) return;  // two empty buffers look like one
  ensure(!same_buffer || rows.is_packed(), "rows in one buffer have two orders");
  if (same_buffer) return;
  for (std::int64_t source = 0; source < rows.num_sources(); ++source) {
    copy_rows(rows.received_begin(source, expert), rows.packed_begin(source, expert),
              rows.block_rows(source, expert));
  }
}

struct BlockId {
  std::int64_t source;
  std::int64_t expert;
};

// The offsets of the chunks of one degree in a buffer that contains them in order, each packed.
class PackedChunkOffsets {
 public:
  PackedChunkOffsets(const ReceivedRows& all, std::int64_t degree) {
    std::int64_t begin = 0;
    for (std::int64_t chunk = 0; chunk < degree; ++chunk) {
      chunks_.push_back(all.chunk(degree, chunk));
      begins_.push_back(begin);
      begin += chunks_.back().rows();
    }
  }
  std::int64_t begin(std::int64_t chunk, BlockId block) const {
    const auto i = static_cast<std::size_t>(chunk);
    return begins_[i] + chunks_[i].packed_begin(block.source, block.expert);
  }

 private:
  std::vector<ReceivedRows> chunks_;
  std::vector<std::int64_t> begins_;
};

// Copies one block. Its rows are one sequence; the two degrees cut it at different places.
void regroup_block(const PackedChunkOffsets& from, std::int64_t rows, BlockId block,
                   std::int64_t to_row, const Regroup& args) {
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

void permute(const RowShape& shape, const ChunkPlan& plan, const Permute& args) {
  const std::int64_t width = shape.model_dim;
  check_plan(shape, plan);
  check_size(args.input, shape.tokens * width, "permute: input");
  check_size(args.rows, plan.rows() * width, "permute: rows");
  for (std::int64_t row = 0; row < plan.rows(); ++row) {
    const std::int64_t choice = plan.choice_of[static_cast<std::size_t>(row)];
    const auto to = rows_of(args.rows, row, 1, width);
    if (choice == kEmpty) {
      fill(to, 0);
    } else {
      copy(rows_of(args.input, choice / shape.top_k, 1, width), to);
    }
  }
}

void permute_backward(const RowShape& shape, const ChunkPlan& plan, const PermuteBackward& args) {
  const std::int64_t width = shape.model_dim;
  check_plan(shape, plan);
  check_size(args.row_gradient, plan.rows() * width, "permute_backward: row_gradient");
  check_size(args.input_gradient, shape.tokens * width, "permute_backward: input_gradient");
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    const auto sum = rows_of(args.input_gradient, token, 1, width);
    if (!args.accumulate) fill(sum, 0);
    for_each_row(shape, plan, token, [&](std::size_t, std::int64_t row) {
      add(rows_of(args.row_gradient, row, 1, width), sum);
    });
  }
}

void combine(const RowShape& shape, const ChunkPlan& plan, const Combine& args) {
  const std::int64_t width = shape.model_dim;
  check_plan(shape, plan);
  check_size(args.rows, plan.rows() * width, "combine: rows");
  check_size(args.combine_weights, shape.tokens * shape.top_k, "combine: combine_weights");
  check_size(args.output, shape.tokens * width, "combine: output");
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    const auto sum = rows_of(args.output, token, 1, width);
    fill(sum, 0);
    for_each_row(shape, plan, token, [&](std::size_t choice, std::int64_t row) {
      add_scaled(args.combine_weights[choice], rows_of(args.rows, row, 1, width), sum);
    });
  }
}

void combine_backward(const RowShape& shape, const ChunkPlan& forward, const ChunkPlan& backward,
                      const CombineBackward& args) {
  const std::int64_t width = shape.model_dim;
  check_plan(shape, forward);
  check_plan(shape, backward);
  check_size(args.output_gradient, shape.tokens * width, "combine_backward: output_gradient");
  check_size(args.rows, forward.rows() * width, "combine_backward: rows");
  check_size(args.combine_weights, shape.tokens * shape.top_k, "combine_backward: weights");
  check_size(args.row_gradient, backward.rows() * width, "combine_backward: row_gradient");
  check_size(args.combine_weight_gradient, shape.tokens * shape.top_k,
             "combine_backward: combine_weight_gradient");
  fill(args.combine_weight_gradient, 0);
  clear_empty_rows(backward, width, args.row_gradient);
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    const auto gradient = rows_of(args.output_gradient, token, 1, width);
    for_each_row(shape, forward, token, [&](std::size_t choice, std::int64_t row) {
      args.combine_weight_gradient[choice] = dot(gradient, rows_of(args.rows, row, 1, width));
      scale(args.combine_weights[choice], gradient,
            rows_of(args.row_gradient, backward.row_of[choice], 1, width));
    });
  }
}

void pack_expert(const ReceivedRows& rows, std::int64_t expert, std::int64_t width,
                 std::span<const float> received, std::span<float> packed) {
  for_each_block_of(rows, expert, received.data() == packed.data(),
                    [&](std::int64_t from, std::int64_t to, std::int64_t count) {
                      copy(rows_of(received, from, count, width),
                           rows_of(packed, to, count, width));
                    });
}

void unpack_expert(const ReceivedRows& rows, std::int64_t expert, std::int64_t width,
                   std::span<const float> packed, std::span<float> received) {
  for_each_block_of(rows, expert, received.data() == packed.data(),
                    [&](std::int64_t to, std::int64_t from, std::int64_t count) {
                      copy(rows_of(packed, from, count, width),
                           rows_of(received, to, count, width));
                    });
}

void regroup(const ReceivedRows& all, const Regroup& args) {
  const PackedChunkOffsets from(all, args.from_degree);
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
