#include "kernels/permute.hpp"

#include <catch2/catch.hpp>
#include <stdexcept>

#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe::kernels;
using namespace pipemoe::test;
using Floats = std::vector<float>;
using Experts = std::vector<std::int32_t>;

namespace {

// Tokens 0 and 1 choose experts (1, 0) and (1, 2). Each expert has room for one row, so the first
// choice of token 1 is dropped. The rows are token 0, token 0, token 1.
const RoutingShape kOneRowEach{.tokens = 2, .num_experts = 3, .top_k = 2, .capacity = 1};
const Experts kChosen{1, 0, 1, 2};
const RowShape kTwoTokens{.tokens = 2, .top_k = 2, .model_dim = 2};

ChunkPlan plan_of(const RoutingShape& shape, const Experts& experts, std::int64_t degree) {
  return plan_chunks(shape, experts, assign(shape, experts), degree);
}

// Two sources, two experts: source 0 sends 1 and 2 rows, source 1 sends 3 and none.
ReceivedRows uneven() { return {2, 2, {1, 2, 3, 0}}; }

Floats packed_rows(const ReceivedRows& rows, const Floats& received) {
  Floats result = poisoned(rows.rows());
  for (std::int64_t expert = 0; expert < rows.local_experts(); ++expert) {
    pack_expert(rows, expert, 1, received, result);
  }
  return result;
}

}  // namespace

TEST_CASE("permute copies tokens to their rows and clears the rest", "[kernels][permute]") {
  Floats rows = poisoned(6);
  permute(kTwoTokens, plan_of(kOneRowEach, kChosen, 1), {Floats{1, 2, 3, 4}, rows});
  CHECK(rows == Floats{1, 2, 1, 2, 3, 4});
  // No token chooses expert 2, and both tokens keep only their first choice.
  permute(kTwoTokens, plan_of(kOneRowEach, Experts{1, 0, 0, 1}, 1), {Floats{1, 2, 3, 4}, rows});
  CHECK(rows == Floats{3, 4, 1, 2, 0, 0});
}

TEST_CASE("permute's gradient sums the rows of a token", "[kernels][permute]") {
  Floats gradient = poisoned(4);
  permute_backward(kTwoTokens, plan_of(kOneRowEach, kChosen, 1),
                   {Floats{1, 2, 10, 20, 100, 200}, gradient});
  CHECK(gradient == Floats{11, 22, 100, 200});
}

TEST_CASE("combine sums weighted rows and skips dropped choices", "[kernels][permute]") {
  Floats output = poisoned(4);
  const Floats weights{0.5, 0.25, 8, 2};
  combine(kTwoTokens, plan_of(kOneRowEach, kChosen, 1),
          {Floats{4, 8, 10, 20, 100, 200}, weights, output});
  // Token 0: 0.5 * row 1 + 0.25 * row 0; token 1: 2 * row 2.
  CHECK(output == Floats{6, 12, 200, 400});
}

TEST_CASE("the gradients of combine are those computed by hand", "[kernels][permute]") {
  const ChunkPlan plan = plan_of(kOneRowEach, kChosen, 1);
  Floats row_gradient = poisoned(6), weight_gradient = poisoned(4);
  combine_backward(kTwoTokens, plan, plan,
                   {Floats{1, 2, 3, 4}, Floats{4, 8, 10, 20, 100, 200}, Floats{0.5, 0.25, 8, 2},
                    row_gradient, weight_gradient});
  CHECK(row_gradient == Floats{0.25, 0.5, 0.5, 1, 6, 8});
  // (1, 2) * (10, 20); (1, 2) * (4, 8); dropped; (3, 4) * (100, 200).
  CHECK(weight_gradient == Floats{50, 20, 0, 1100});
}

TEST_CASE("gradients are written in the backward plan's layout", "[kernels][permute]") {
  // Two experts with two slots each and three tokens, so one slot is empty. It must be cleared
  // where the backward plan of two chunks has it.
  const RoutingShape routing{.tokens = 3, .num_experts = 2, .top_k = 1, .capacity = 2};
  const Experts experts{0, 1, 0};
  const ChunkPlan forward = plan_of(routing, experts, 1), backward = plan_of(routing, experts, 2);
  // Forward: [expert 0: token 0, token 2 | expert 1: token 1, _]; backward, by chunk: 0 1 | 2 _.
  Floats rows = poisoned(4), row_gradient = poisoned(4), weight_gradient = poisoned(3);
  rows[0] = 1;
  rows[1] = 3;
  rows[2] = 2;
  combine_backward({.tokens = 3, .top_k = 1, .model_dim = 1}, forward, backward,
                   {Floats{5, 6, 7}, rows, Floats{1, 1, 1}, row_gradient, weight_gradient});
  CHECK(row_gradient == Floats{5, 6, 7, 0});
  CHECK(weight_gradient == Floats{5, 12, 21});
}

TEST_CASE("combine after permute returns the tokens if the weights sum to 1",
          "[kernels][permute]") {
  std::mt19937_64 random(1);
  const RoutingShape routing{.tokens = 20, .num_experts = 5, .top_k = 2};
  const RowShape shape{.tokens = 20, .top_k = 2, .model_dim = 17};
  Experts experts;
  for (std::int32_t token = 0; token < 20; ++token) {
    experts.insert(experts.end(), {token % 5, (token + 1 + token / 5) % 5});
  }
  const Floats input = to_floats(draw(random, 20 * 17, 1));
  for (const std::int64_t degree : {1, 3, 4, 11}) {
    const ChunkPlan plan = plan_of(routing, experts, degree);
    Floats rows = poisoned(40 * 17), output = poisoned(20 * 17);
    permute(shape, plan, {input, rows});
    combine(shape, plan, {rows, Floats(40, 0.5f), output});
    CHECK(output == input);  // x/2 + x/2 is exact
  }
}

TEST_CASE("permute refuses buffers of other sizes", "[kernels][permute]") {
  Floats rows(5);
  CHECK_THROWS_AS(permute(kTwoTokens, plan_of(kOneRowEach, kChosen, 1), {Floats(4), rows}),
                  std::logic_error);
}

TEST_CASE("rows received by source are packed by expert", "[kernels][permute]") {
  const ReceivedRows rows = uneven();
  CHECK(rows.rows() == 6);
  CHECK(rows.source_rows(0) == 3);
  CHECK(rows.source_rows(1) == 3);
  CHECK(rows.expert_rows(0) == 4);
  CHECK(rows.expert_rows(1) == 2);
  // Received: source 0 [1 | 2 3], source 1 [4 5 6 | ]. Packed: expert 0 [1 4 5 6], 1 [2 3].
  const Floats received{1, 2, 3, 4, 5, 6};
  CHECK(packed_rows(rows, received) == Floats{1, 4, 5, 6, 2, 3});
  Floats back = poisoned(6);
  for (std::int64_t expert = 0; expert < 2; ++expert) {
    unpack_expert(rows, expert, 1, packed_rows(rows, received), back);
  }
  CHECK(back == received);
}

TEST_CASE("packing one expert leaves the others alone", "[kernels][permute]") {
  Floats to(6, -1);
  pack_expert(uneven(), 1, 1, Floats{1, 2, 3, 4, 5, 6}, to);
  CHECK(to == Floats{-1, -1, -1, -1, 2, 3});
}

TEST_CASE("regrouping to another degree equals packing at that degree", "[kernels][permute]") {
  const ReceivedRows all{3, 2, {5, 0, 7, 1, 4, 11}};
  // Row r of block (source, expert) is 100 * source + 1000 * expert + r in any layout.
  const auto packed_chunk = [&](std::int64_t degree, std::int64_t chunk) {
    Floats values;
    for (std::int64_t expert = 0; expert < 2; ++expert) {
      for (std::int64_t source = 0; source < 3; ++source) {
        std::int64_t before = 0;
        for (std::int64_t c = 0; c < chunk; ++c) {
          before += all.chunk(degree, c).block_rows(source, expert);
        }
        for (std::int64_t r = 0; r < all.chunk(degree, chunk).block_rows(source, expert); ++r) {
          values.push_back(static_cast<float>(100 * source + 1000 * expert + before + r));
        }
      }
    }
    return values;
  };
  for (const std::int64_t from : {1, 2, 3, 5, 13}) {
    Floats saved;
    for (std::int64_t chunk = 0; chunk < from; ++chunk) {
      const Floats part = packed_chunk(from, chunk);
      saved.insert(saved.end(), part.begin(), part.end());
    }
    for (const std::int64_t to : {1, 2, 3, 5, 13}) {
      for (std::int64_t chunk = 0; chunk < to; ++chunk) {
        Floats result = poisoned(all.chunk(to, chunk).rows());
        regroup(all, {1, from, to, chunk, saved, result});
        CAPTURE(from, to, chunk);
        REQUIRE(result == packed_chunk(to, chunk));
      }
    }
  }
}

TEST_CASE("a rank that received no rows has nothing to pack", "[kernels][permute]") {
  // Both vectors are empty, so both begin at null. This once counted as one buffer in two orders.
  const ReceivedRows none(2, 2, {0, 0, 0, 0});
  Floats received, packed;
  CHECK_NOTHROW(pack_expert(none, 1, 3, received, packed));
  CHECK_NOTHROW(unpack_expert(none, 1, 3, packed, received));
}
