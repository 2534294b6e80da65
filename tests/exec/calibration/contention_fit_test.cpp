#include "exec/calibration/contention_fit.hpp"

#include <catch2/catch.hpp>

#include "tests/models/by_hand.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;

namespace {

// One row, one expert: each product takes 4 s (two of 2 flops) and an exchange 4 s (one fp32).
MoeLayer layer_of(const std::string& name, std::int64_t rows = 1) {
  return {.name = name,
          .tokens_per_rank = rows,
          .model_dim = 1,
          .hidden_dim = 1,
          .num_experts = 1,
          .top_k = 1};
}

ContentionRow row(Pass pass, std::optional<double> compute, std::optional<double> communication,
                  const std::string& layer = "one", std::int64_t degree = 1) {
  return {layer, {1, 1, 1}, pass, degree, 0, {4}, compute, communication};
}

}  // namespace

TEST_CASE("a row weighs as much as its slowdown changes the time beside the other queue",
          "[exec][contention]") {
  const Cluster cluster = test::second_a_unit();
  const auto weights = [&](const ContentionRow& of) {
    return weights_of(of, layer_of("one"), cluster);
  };
  // Products take 8 s in all, 4 of them beside the exchange, in which 2 s' worth is done: 2 of 6 s.
  const ContentionWeights forward = weights(row(Pass::Forward, 2, 1));
  CHECK(forward.products == Approx(2.0 / 6));
  CHECK(forward.collectives == Approx(1));
  // In two stages of 4 s each, all of the products is beside exchanges: of these 8 / 1.5 s' worth,
  // and the rest alone.
  const ContentionWeights gradients = weights(row(Pass::Backward, 1, 1.5));
  CHECK(gradients.products == Approx(1));
  CHECK(gradients.collectives == Approx((8 / 1.5) / (8 - 8 / 1.5 + 8)));
  // What was not measured counts as not slowed.
  CHECK(weights(row(Pass::Forward, 2, std::nullopt)).products == Approx(2.0 / 6));
}

TEST_CASE("exchanges behind others are weighed without what they save", "[exec][contention]") {
  // Two chunks: products 8 s, exchanges 5 + 5 - 1 s, so of the latter 8 s are beside products.
  Cluster cluster = test::second_a_unit();
  cluster.collectives.begin()->second = {test::line<Bytes>(1, 1), Seconds{1}};
  const ContentionWeights weights =
      weights_of(row(Pass::Forward, 1, 1, "two", 2), layer_of("two", 2), cluster);
  CHECK(weights.products == Approx(1));
  CHECK(weights.collectives == Approx(8.0 / 9));
}

TEST_CASE("a size has the weighted mean of its rows, others the weighted median of all",
          "[exec][contention]") {
  const Cluster cluster = test::second_a_unit();
  MoeLayer wide = layer_of("wide");
  wide.hidden_dim = 2;  // products of 8 s
  ContentionRow of_wide = row(Pass::Forward, 1.25, 3, "wide");
  of_wide.sizes = {1, 1, 2};
  const std::vector<ContentionRow> rows{row(Pass::Forward, 2, 1), row(Pass::Forward, 1, 1.5),
                                        of_wide, row(Pass::Backward, 0.9, 0.8)};
  const Contention found = fit_contention(rows, {layer_of("one"), wide}, cluster).value();
  REQUIRE(found.experts.size() == 2);
  // Weights of products: 1/3, 1 and, where 10 s are beside an exchange of 12 s, 1. Those of
  // exchanges: 1; 4 / 1.5 s of 4 - 4 / 1.5 + 4; and 10 / 3 s of 4 - 10 / 3 + 10.
  const double a = 1.0 / 3, b = (4 / 1.5) / (8 - 4 / 1.5), c = (10.0 / 3) / (14 - 10.0 / 3);
  const SlowdownsByKind& one = found.experts[0].slowdowns;
  CHECK(one.forward.products == Approx((a * 2 + 1) / (a + 1)));
  CHECK(one.forward.collectives == Approx((1 + b * 1.5) / (1 + b)));
  CHECK(one.gradients == Slowdowns{1, 1});  // no constant is below 1
  CHECK(found.experts[1].sizes == ExpertSizes{1, 1, 2});
  CHECK(found.experts[1].slowdowns.forward.products == Approx(1.25));
  CHECK(found.experts[1].slowdowns.forward.collectives == Approx(3));
  CHECK(c < 0.5);
  CHECK(found.general.forward == Slowdowns{1.25, 1});
  // It has no row of gradients.
  CHECK(found.experts[1].slowdowns.gradients == found.general.gradients);
  CHECK_THAT(found.source, Catch::Contains("compute 0.900 to 2.000, communication 0.800 to 3.000"));
}

TEST_CASE("without rows of both queues there is no contention", "[exec][contention]") {
  const Cluster cluster = test::second_a_unit();
  const std::vector<MoeLayer> layers{layer_of("one")};
  CHECK_FALSE(fit_contention({}, layers, cluster).has_value());
  CHECK_FALSE(fit_contention({row(Pass::Forward, 2, std::nullopt)}, layers, cluster).has_value());
  // A pass whose rows say nothing of a queue does not slow that queue.
  const auto found = fit_contention(
      {row(Pass::Forward, 2, 1.5), row(Pass::Backward, std::nullopt, 1.5)}, layers, cluster);
  CHECK(found.value().general.gradients == Slowdowns{1, 1.5});
}
