#include "models/operation.hpp"

#include <array>
#include <catch2/catch.hpp>

#include "models/error.hpp"

using namespace pipemoe;
using Catch::Matchers::Equals;

namespace {

ExpertFfn expert(Pass pass) { return {.pass = pass}; }

}  // namespace

TEST_CASE("uniform traffic sends every rank the same, itself included", "[models][operation]") {
  const TrafficMatrix traffic = TrafficMatrix::uniform({10});
  CHECK(traffic.is_uniform());
  CHECK(traffic.per_rank() == Bytes{10});
  CHECK(traffic.pairs().empty());
  CHECK(traffic.between(0, 0, 4) == 2.5);
  CHECK(traffic.between(3, 1, 4) == 2.5);
}

TEST_CASE("paired traffic is row-major by sender", "[models][operation]") {
  // Rank 0 sends 1 + 2 = 3, rank 1 sends 30 + 4 = 34; rank 0 receives 31.
  const TrafficMatrix traffic = TrafficMatrix::of_pairs(2, {{1}, {2}, {30}, {4}});
  CHECK_FALSE(traffic.is_uniform());
  CHECK(traffic.between(0, 0, 2) == 1);
  CHECK(traffic.between(0, 1, 2) == 2);
  CHECK(traffic.between(1, 0, 2) == 30);
  CHECK(traffic.between(1, 1, 2) == 4);
  CHECK(traffic.per_rank() == Bytes{34});
}

TEST_CASE("the busiest sender may be any one", "[models][operation]") {
  CHECK(TrafficMatrix::of_pairs(2, {{9}, {9}, {1}, {1}}).per_rank() == Bytes{18});
  CHECK(TrafficMatrix::of_pairs(1, {{5}}).per_rank() == Bytes{5});
  CHECK(TrafficMatrix::of_pairs(2, {{0}, {0}, {0}, {0}}).per_rank() == Bytes{0});
}

TEST_CASE("paired traffic needs one amount for each pair, none negative", "[models][operation]") {
  CHECK_THROWS_WITH(TrafficMatrix::of_pairs(2, {{1}, {2}, {3}}),
                    Equals("traffic has 3 pairs, must have 4 for 2 ranks"));
  CHECK_THROWS_AS(TrafficMatrix::of_pairs(2, {}), InputError);
  CHECK_THROWS_AS(TrafficMatrix::of_pairs(1, {{1}, {2}}), InputError);
  CHECK_THROWS_AS(TrafficMatrix::of_pairs(0, {}), InputError);
  CHECK_THROWS_AS(TrafficMatrix::of_pairs(-1, {{1}}), InputError);
  CHECK_THROWS_WITH(TrafficMatrix::of_pairs(2, {{1}, {2}, {-3}, {4}}),
                    Equals("traffic from rank 1 to 0 is -3, must be at least 0"));
}

TEST_CASE("traffic compares by its amounts", "[models][operation]") {
  const TrafficMatrix pairs = TrafficMatrix::of_pairs(2, {{1}, {1}, {1}, {1}});
  CHECK(pairs == TrafficMatrix::of_pairs(2, {{1}, {1}, {1}, {1}}));
  CHECK(pairs != TrafficMatrix::of_pairs(2, {{1}, {1}, {2}, {0}}));
  CHECK(pairs != TrafficMatrix::uniform({2}));
  CHECK(TrafficMatrix::uniform({2}) != TrafficMatrix::uniform({3}));
}

TEST_CASE("every operation has a name that reads back", "[models][operation]") {
  const std::array<std::pair<Operation, const char*>, 9> operations{{
      {Gate{}, "gate"},
      {Permute{}, "permute"},
      {AllToAll{Purpose::Dispatch, {}}, "dispatch"},
      {expert(Pass::Forward), "expert"},
      {expert(Pass::Backward), "expert"},
      {expert(Pass::InputGradient), "expert_input_gradient"},
      {expert(Pass::WeightGradient), "expert_weight_gradient"},
      {AllToAll{Purpose::Combine, {}}, "combine"},
      {Unpermute{}, "unpermute"},
  }};
  for (const auto& [operation, name] : operations) {
    CAPTURE(name);
    CHECK(to_string(kind_of(operation)) == name);
    CHECK(operation_kind_from(name) == kind_of(operation));
  }
}

TEST_CASE("an unknown operation names the known ones", "[models][operation]") {
  CHECK_THROWS_AS(operation_kind_from("shuffle"), InputError);
  CHECK_THROWS_WITH(operation_kind_from("shuffle"),
                    Equals("is shuffle, must be one of gate, permute, dispatch, expert, "
                           "expert_input_gradient, expert_weight_gradient, combine, unpermute"));
  CHECK_THROWS_AS(operation_kind_from(""), InputError);
  CHECK_THROWS_AS(operation_kind_from("Gate"), InputError);
}

TEST_CASE("only all-to-alls exchange bytes, only experts compute", "[models][operation]") {
  const Operation exchange = AllToAll{Purpose::Combine, TrafficMatrix::uniform({12})};
  // 2 * 2*3*4 + 2 * 2*5*6 = 48 + 120 flops.
  const Operation computation =
      ExpertFfn{.gemms = {{1, 2, 3, 4}, {1, 2, 5, 6}}, .activation_traffic = {99}};
  CHECK(exchanged_bytes(exchange) == Bytes{12});
  CHECK(expert_flops(exchange) == Flops{0});
  CHECK(exchanged_bytes(computation) == Bytes{0});
  CHECK(expert_flops(computation) == Flops{168});
  CHECK(exchanged_bytes(Gate{{7}}) == Bytes{0});
  CHECK(expert_flops(Gate{{7}}) == Flops{0});
}
