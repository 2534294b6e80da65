#include "kernels/routing.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <random>
#include <stdexcept>

#include "models/layer.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::kernels;
using Rows = std::vector<std::int64_t>;
using Experts = std::vector<std::int32_t>;

namespace {

Experts random_experts(std::mt19937_64& random, const RoutingShape& shape) {
  Experts all(static_cast<std::size_t>(shape.num_experts)), chosen;
  std::iota(all.begin(), all.end(), 0);
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    std::shuffle(all.begin(), all.end(), random);
    chosen.insert(chosen.end(), all.begin(), all.begin() + shape.top_k);
  }
  return chosen;
}

}  // namespace

TEST_CASE("a full expert drops later tokens", "[kernels][routing]") {
  const RoutingShape shape{.tokens = 4, .num_experts = 2, .top_k = 1, .capacity = 2};
  const Assignment result = assign(shape, Experts{1, 1, 0, 1});
  CHECK(result.slot == Rows{0, 1, 0, kDropped});
  CHECK(result.rows == Rows{2, 2});
}

TEST_CASE("first choices take slots before second ones", "[kernels][routing]") {
  // Expert 0: token 1's first choice comes before token 0's second one.
  const RoutingShape shape{.tokens = 2, .num_experts = 2, .top_k = 2, .capacity = 1};
  CHECK(assign(shape, Experts{1, 0, 0, 1}).slot == Rows{0, kDropped, 0, kDropped});
}

TEST_CASE("dropless rows are an expert's tokens in order", "[kernels][routing]") {
  const RoutingShape shape{.tokens = 3, .num_experts = 3, .top_k = 2};
  const Assignment result = assign(shape, Experts{1, 0, 0, 1, 0, 1});
  CHECK(result.slot == Rows{0, 0, 1, 1, 2, 2});
  CHECK(result.rows == Rows{3, 3, 0});
}

TEST_CASE("an expert out of range is refused", "[kernels][routing]") {
  const RoutingShape shape{.tokens = 1, .num_experts = 2, .top_k = 1};
  CHECK_THROWS_AS(assign(shape, Experts{2}), std::logic_error);
  CHECK_THROWS_AS(assign(shape, Experts{-1}), std::logic_error);
  CHECK_THROWS_AS(assign(shape, Experts{0, 1}), std::logic_error);
}

TEST_CASE("a chunk holds its part of every expert's rows", "[kernels][routing]") {
  // 3 rows of expert 0 and 2 of expert 1 in 2 chunks: [2 | 1] and [1 | 1], chunk after chunk:
  // rows 0 1 (expert 0), 2 (expert 1) | 3 (expert 0), 4 (expert 1).
  const RoutingShape shape{.tokens = 5, .num_experts = 2, .top_k = 1};
  const Experts experts{0, 1, 0, 1, 0};
  const ChunkPlan plan = plan_chunks(shape, experts, assign(shape, experts), 2);
  CHECK(plan.block_begin == Rows{0, 2, 3, 4, 5});
  CHECK(plan.row_of == Rows{0, 2, 1, 4, 3});
  CHECK(plan.choice_of == Rows{0, 2, 1, 4, 3});
  CHECK(plan.chunk_rows(0) == 3);
  CHECK(plan.block_rows(0, 1) == 1);
}

TEST_CASE("unfilled slots of a capacity stay in the layout", "[kernels][routing]") {
  const RoutingShape shape{.tokens = 2, .num_experts = 2, .top_k = 1, .capacity = 3};
  const Experts experts{1, 1};
  const ChunkPlan plan = plan_chunks(shape, experts, assign(shape, experts), 3);
  CHECK(plan.rows() == 6);
  CHECK(plan.row_of == Rows{1, 3});
  CHECK(plan.choice_of == Rows{kEmpty, 0, kEmpty, 1, kEmpty, kEmpty});
}

TEST_CASE("chunks of a capacity have as many rows as the layer says", "[kernels][routing]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100; ++i) {
    MoeLayer layer = test::random_layer(random, 4);
    layer.capacity_factor = 1.25;
    layer.tokens_per_rank = std::min<std::int64_t>(layer.tokens_per_rank, 64);
    layer.dtype = Dtype::Fp32;
    const RoutingShape shape = routing_shape(layer);
    const Experts experts = random_experts(random, shape);
    const std::int64_t degree = std::min<std::int64_t>(layer.slots(), 5);
    const ChunkPlan plan = plan_chunks(shape, experts, assign(shape, experts), degree);
    CAPTURE(i, degree, layer.num_experts, layer.capacity());
    for (std::int64_t chunk = 0; chunk < degree; ++chunk) {
      const std::int64_t rows = layer.chunk_rows(degree)[static_cast<std::size_t>(chunk)];
      REQUIRE(plan.chunk_rows(chunk) == rows);
      REQUIRE(plan.block_rows(chunk, 0) == rows / layer.num_experts);
    }
  }
}

TEST_CASE("plans of any degree are one to one and keep each expert's order", "[kernels][routing]") {
  std::mt19937_64 random(2);
  const auto draw_int = [&](std::int64_t least, std::int64_t most) {
    return std::uniform_int_distribution<std::int64_t>(least, most)(random);
  };
  for (int i = 0; i < 300; ++i) {
    RoutingShape shape{.tokens = draw_int(1, 40), .num_experts = draw_int(1, 9)};
    shape.top_k = draw_int(1, shape.num_experts);
    if (i % 2 == 0) shape.capacity = draw_int(1, 20);
    const Experts experts = random_experts(random, shape);
    const Assignment assignment = assign(shape, experts);
    const std::int64_t degree = draw_int(1, 12);
    const ChunkPlan plan = plan_chunks(shape, experts, assignment, degree);
    CAPTURE(i, shape.tokens, shape.num_experts, shape.top_k, degree);
    REQUIRE(plan.rows() == std::accumulate(assignment.rows.begin(), assignment.rows.end(), 0));
    std::int64_t filled = 0;
    for (std::int64_t chunk = 0; chunk < degree; ++chunk) {
      for (std::int64_t expert = 0; expert < shape.num_experts; ++expert) {
        const std::int64_t total = assignment.rows[static_cast<std::size_t>(expert)];
        for (std::int64_t n = 0; n < plan.block_rows(chunk, expert); ++n) {
          const std::int64_t row = plan.first_row(chunk, expert) + n;
          const std::int64_t choice = plan.choice_of[static_cast<std::size_t>(row)];
          if (choice == kEmpty) continue;
          ++filled;
          const auto c = static_cast<std::size_t>(choice);
          REQUIRE(plan.row_of[c] == row);
          REQUIRE(experts[c] == expert);
          REQUIRE(assignment.slot[c] == rows_before_chunk(total, degree, chunk) + n);
          REQUIRE(chunk_of_row(assignment.slot[c], total, degree) == chunk);
        }
      }
    }
    REQUIRE(filled == static_cast<std::int64_t>(experts.size()) -
                          std::count(assignment.slot.begin(), assignment.slot.end(), kDropped));
  }
}

TEST_CASE("a chunk of received rows is each block's part", "[kernels][routing]") {
  // Blocks of 1, 2, 3, 0 rows in 2 chunks: 1 1 2 0 and 0 1 1 0.
  const ReceivedRows rows(2, 2, {1, 2, 3, 0});
  const ReceivedRows first = rows.chunk(2, 0), second = rows.chunk(2, 1);
  CHECK(first.rows() == 4);
  CHECK(second.rows() == 2);
  CHECK(first.block_rows(1, 0) == 2);
  CHECK(second.block_rows(0, 0) == 0);
  CHECK(second.block_rows(1, 0) == 1);
}

TEST_CASE("received rows need one number for each block", "[kernels][routing]") {
  CHECK_THROWS_AS(ReceivedRows(2, 2, {1, 2, 3}), std::logic_error);
}
