#include "kernels/routing.hpp"

#include <algorithm>
#include <utility>

#include "kernels/cpu_math.hpp"

namespace pipemoe::kernels {
namespace {

void check_experts(const RoutingShape& shape, std::span<const std::int32_t> experts) {
  check_size(experts, shape.choices(), "routing: size of experts");
  for (const std::int32_t expert : experts) {
    ensure(expert >= 0 && expert < shape.num_experts, "routing: expert out of range");
  }
}

// Calls visit(choice) in the order in which choices take slots.
template <class Visit>
void for_each_choice(const RoutingShape& shape, Visit visit) {
  if (!shape.capacity) {
    for (std::int64_t choice = 0; choice < shape.choices(); ++choice) visit(choice);
    return;
  }
  for (std::int64_t rank = 0; rank < shape.top_k; ++rank) {
    for (std::int64_t token = 0; token < shape.tokens; ++token) visit(token * shape.top_k + rank);
  }
}

std::vector<std::int64_t> block_begins(const Assignment& assignment, std::int64_t degree) {
  std::vector<std::int64_t> begins{0};
  begins.reserve(static_cast<std::size_t>(degree) * assignment.rows.size() + 1);
  for (std::int64_t chunk = 0; chunk < degree; ++chunk) {
    for (const std::int64_t rows : assignment.rows) {
      begins.push_back(begins.back() + rows_in_chunk(rows, degree, chunk));
    }
  }
  return begins;
}

}  // namespace

RoutingShape routing_shape(const MoeLayer& layer) {
  check_fp32(layer);
  RoutingShape shape{
      .tokens = layer.tokens_per_rank, .num_experts = layer.num_experts, .top_k = layer.top_k};
  if (layer.capacity_factor) shape.capacity = layer.capacity();
  return shape;
}

Assignment assign(const RoutingShape& shape, std::span<const std::int32_t> experts) {
  check_experts(shape, experts);
  std::vector<std::int64_t> taken(static_cast<std::size_t>(shape.num_experts));
  std::vector<std::int64_t> slot(experts.size(), kDropped);
  for_each_choice(shape, [&](std::int64_t choice) {
    std::int64_t& next = taken[static_cast<std::size_t>(experts[static_cast<std::size_t>(choice)])];
    if (shape.capacity && next == *shape.capacity) return;
    slot[static_cast<std::size_t>(choice)] = next++;
  });
  if (shape.capacity) std::fill(taken.begin(), taken.end(), *shape.capacity);
  return {std::move(slot), std::move(taken)};
}

std::int64_t rows_before_chunk(std::int64_t rows, std::int64_t degree, std::int64_t chunk) {
  return chunk * (rows / degree) + std::min(chunk, rows % degree);
}

std::int64_t chunk_of_row(std::int64_t row, std::int64_t rows, std::int64_t degree) {
  const std::int64_t least = rows / degree, larger = rows % degree;
  const std::int64_t in_larger = larger * (least + 1);
  return row < in_larger ? row / (least + 1) : larger + (row - in_larger) / least;
}

ChunkPlan plan_chunks(const RoutingShape& shape, std::span<const std::int32_t> experts,
                      const Assignment& assignment, std::int64_t degree) {
  ensure(degree >= 1, "plan_chunks: degree");
  check_experts(shape, experts);
  ensure(assignment.slot.size() == experts.size(), "plan_chunks: size of the assignment");
  ChunkPlan plan{.degree = degree, .num_experts = shape.num_experts};
  plan.block_begin = block_begins(assignment, degree);
  plan.row_of.assign(experts.size(), kDropped);
  plan.choice_of.assign(static_cast<std::size_t>(plan.rows()), kEmpty);
  for (std::size_t choice = 0; choice < experts.size(); ++choice) {
    const std::int64_t slot = assignment.slot[choice];
    if (slot == kDropped) continue;
    const std::int64_t rows = assignment.rows[static_cast<std::size_t>(experts[choice])];
    const std::int64_t chunk = chunk_of_row(slot, rows, degree);
    const auto block = static_cast<std::size_t>(chunk * shape.num_experts + experts[choice]);
    const std::int64_t row =
        plan.block_begin[block] + slot - rows_before_chunk(rows, degree, chunk);
    plan.row_of[choice] = row;
    plan.choice_of[static_cast<std::size_t>(row)] = static_cast<std::int64_t>(choice);
  }
  return plan;
}

ReceivedRows::ReceivedRows(std::int64_t num_sources, std::int64_t local_experts,
                           std::vector<std::int64_t> rows)
    : num_sources_(num_sources), local_experts_(local_experts), rows_(std::move(rows)) {
  ensure(static_cast<std::int64_t>(rows_.size()) == num_sources * local_experts,
         "ReceivedRows: not one number per block");
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

}  // namespace pipemoe::kernels
