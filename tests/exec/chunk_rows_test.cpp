#include "exec/chunk_rows.hpp"

#include <catch2/catch.hpp>

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::kernels;
using Counts = std::vector<std::int64_t>;

namespace {

ChunkPlan plan(const RoutingShape& shape, const std::vector<std::int32_t>& experts,
               std::int64_t degree) {
  return plan_chunks(shape, experts, assign(shape, experts), degree);
}

}  // namespace

TEST_CASE("with a capacity every rank sends and receives the same", "[exec][chunks]") {
  // 4 experts on 2 ranks, 3 slots each: chunks of 2 and 1 slots, 8 and 4 rows, half to each rank.
  const RoutingShape shape{.tokens = 3, .num_experts = 4, .top_k = 1, .capacity = 3};
  const auto chunks = chunks_of(plan(shape, {0, 0, 3}, 2), {2, 2, {3, 3, 3, 3}}, 5);
  REQUIRE(chunks.size() == 2);
  CHECK(chunks[0].sent_begin == 0);
  CHECK(chunks[0].sent_rows == 8);
  CHECK(chunks[0].received_begin == 0);
  CHECK(chunks[0].received.rows() == 8);
  CHECK(chunks[0].send_counts == Counts{20, 20});
  CHECK(chunks[0].receive_counts == Counts{20, 20});
  CHECK(chunks[1].sent_begin == 8);
  CHECK(chunks[1].sent_rows == 4);
  CHECK(chunks[1].received_begin == 8);
  CHECK(chunks[1].send_counts == Counts{10, 10});
  CHECK(chunks[1].receive_counts == Counts{10, 10});
}

TEST_CASE("without a capacity counts are what the routings say", "[exec][chunks]") {
  // Sent: 3 rows to expert 0 and 1 to expert 3, so 2 + 1 and 1 + 0 to ranks 0 and 1 (larger chunks
  // first, each expert by itself). Received of rank 0: 3 and 0 rows for the two experts here, of
  // rank 1: 1 and 5, so 2 and 1 + 3 in chunk 0, 1 and 0 + 2 in chunk 1.
  const RoutingShape shape{.tokens = 4, .num_experts = 4, .top_k = 1};
  const auto chunks = chunks_of(plan(shape, {0, 3, 0, 0}, 2), {2, 2, {3, 0, 1, 5}}, 1);
  REQUIRE(chunks.size() == 2);
  CHECK(chunks[0].send_counts == Counts{2, 1});
  CHECK(chunks[0].receive_counts == Counts{2, 4});
  CHECK(chunks[1].sent_begin == 3);
  CHECK(chunks[1].received_begin == 6);
  CHECK(chunks[1].send_counts == Counts{1, 0});
  CHECK(chunks[1].receive_counts == Counts{1, 2});
}

TEST_CASE("chunks beyond the rows are empty", "[exec][chunks]") {
  const RoutingShape shape{.tokens = 1, .num_experts = 2, .top_k = 1};
  const auto chunks = chunks_of(plan(shape, {1}, 3), {1, 2, {0, 1}}, 7);
  REQUIRE(chunks.size() == 3);
  CHECK(chunks[0].send_counts == Counts{7});
  for (const std::size_t empty : {1U, 2U}) {
    CHECK(chunks[empty].sent_rows == 0);
    CHECK(chunks[empty].sent_begin == 1);
    CHECK(chunks[empty].received_begin == 1);
    CHECK(chunks[empty].send_counts == Counts{0});
    CHECK(chunks[empty].receive_counts == Counts{0});
  }
}
