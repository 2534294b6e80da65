#include "kernels/permute.hpp"

#include <catch2/catch.hpp>
#include <stdexcept>

#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe::kernels;
using namespace pipemoe::test;
using Floats = std::vector<float>;
using Experts = std::vector<std::int32_t>;

namespace {

// Tokens 0 and 1 want experts (1, 0) and (1, 2); each expert has one row in one chunk, so token 1
// loses its first choice. Rows: token 0, token 0, token 1.
const RoutingShape kRouting{.tokens = 2, .num_experts = 3, .top_k = 2, .capacity = 1};
const Experts kExperts{1, 0, 1, 2};
const RowShape kShape{.tokens = 2, .top_k = 2, .model_dim = 2};

ChunkPlan plan_of(const RoutingShape& shape, const Experts& experts, std::int64_t degree) {
  return plan_chunks(shape, experts, assign(shape, experts), degree);
}

}  // namespace

TEST_CASE("permute copies tokens to their rows and clears the rest", "[kernels][permute]") {
  Floats rows = poisoned(6);
  permute(kShape, plan_of(kRouting, kExperts, 1), {Floats{1, 2, 3, 4}, rows});
  CHECK(rows == Floats{1, 2, 1, 2, 3, 4});
  // Nobody wants expert 2, and both tokens get their first choice only.
  permute(kShape, plan_of(kRouting, Experts{1, 0, 0, 1}, 1), {Floats{1, 2, 3, 4}, rows});
  CHECK(rows == Floats{3, 4, 1, 2, 0, 0});
}

TEST_CASE("permute's gradient sums the rows of a token", "[kernels][permute]") {
  Floats gradient = poisoned(4);
  permute_backward(kShape, plan_of(kRouting, kExperts, 1),
                   {Floats{1, 2, 10, 20, 100, 200}, gradient});
  CHECK(gradient == Floats{11, 22, 100, 200});
}

TEST_CASE("combine sums weighted rows, without the dropped ones", "[kernels][permute]") {
  Floats output = poisoned(4);
  const Floats weights{0.5, 0.25, 8, 2};
  combine(kShape, plan_of(kRouting, kExperts, 1),
          {Floats{4, 8, 10, 20, 100, 200}, weights, output});
  // Token 0: 0.5 * row 1 + 0.25 * row 0; token 1: 2 * row 2.
  CHECK(output == Floats{6, 12, 200, 400});
}

TEST_CASE("combine's gradients by hand", "[kernels][permute]") {
  const ChunkPlan plan = plan_of(kRouting, kExperts, 1);
  Floats row_gradient = poisoned(6), weight_gradient = poisoned(4);
  combine_backward(kShape, plan, plan,
                   {Floats{1, 2, 3, 4}, Floats{4, 8, 10, 20, 100, 200}, Floats{0.5, 0.25, 8, 2},
                    row_gradient, weight_gradient});
  CHECK(row_gradient == Floats{0.25, 0.5, 0.5, 1, 6, 8});
  // (1, 2) * (10, 20); (1, 2) * (4, 8); dropped; (3, 4) * (100, 200).
  CHECK(weight_gradient == Floats{50, 20, 0, 1100});
}

TEST_CASE("gradients leave in the backward plan's order", "[kernels][permute]") {
  // One expert, three tokens and one slot to spare: rows are 0 1 2 _ in any plan, here the empty
  // one must be cleared in the backward plan of two chunks.
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

TEST_CASE("combine after permute with weights of sum 1 returns the tokens", "[kernels][permute]") {
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

TEST_CASE("buffers of other sizes are refused", "[kernels][permute]") {
  Floats rows(5);
  CHECK_THROWS_AS(permute(kShape, plan_of(kRouting, kExperts, 1), {Floats(4), rows}),
                  std::logic_error);
}
