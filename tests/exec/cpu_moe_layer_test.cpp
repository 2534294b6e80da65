// Whole layers through task graph, queues and kernels on one rank, against the float64 reference.
#include "exec/cpu_moe_layer.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/exec/executed_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;

namespace {

const std::vector<std::optional<double>> kCapacities{1.0, 1.25, std::nullopt};

Executed execute_here(const MoeLayer& layer, const std::string& schedule, Degrees degrees,
                      const DataOptions& data) {
  const auto group = single_process();
  return execute_layer(layer, schedule, degrees, data, *group);
}

void check_equals_reference(const Executed& executed) {
  CHECK(executed.largest_error <= kTolerance);
  CHECK(executed.largest_error > 0);  // fp32 is not float64: 0 would mean that nothing was compared
  CHECK(executed.same_bits_each_time);
}

}  // namespace

TEST_CASE("an executed layer equals the float64 reference", "[exec][layer]") {
  const auto activation = GENERATE(Activation::Relu, Activation::Gelu, Activation::SwiGlu);
  std::uint64_t seed = 0;
  for (const auto& capacity : kCapacities) {
    for (const std::int64_t top_k : {1, 2, 4}) {
      for (const std::int64_t degree : {1, 2, 3, 5, 8}) {
        CAPTURE(to_string(activation), capacity.value_or(0), top_k, degree);
        // Biases and the auxiliary loss on and off in all four combinations.
        ++seed;
        const DataOptions data{.seed = seed,
                               .biases = seed % 2 == 0,
                               .skew = seed % 3 == 0 ? 2.0 : 0.0,
                               .auxiliary_loss_weight = seed % 4 < 2 ? 0.0 : 0.25};
        check_equals_reference(execute_here(prime_layer(top_k, capacity, activation), "pipemoe",
                                            {degree, degree}, data));
      }
    }
  }
}

TEST_CASE("every schedule computes the same layer", "[exec][layer]") {
  const std::string name = GENERATE(as<std::string>(), "pipemoe", "pipemoe-deferred");
  for (const auto& capacity : kCapacities) {
    const MoeLayer layer = prime_layer(2, capacity, Activation::SwiGlu);
    for (const Degrees degrees : {Degrees{1, 1}, {3, 3}, {1, 8}, {8, 1}, {3, 5}, {5, 2}}) {
      CAPTURE(name, capacity.value_or(0), degrees.forward_degree, degrees.backward_degree);
      check_equals_reference(execute_here(layer, name, degrees, {.auxiliary_loss_weight = 0.25}));
    }
  }
}

TEST_CASE("the baselines' schedules compute the same layer", "[exec][layer]") {
  for (const auto& capacity : kCapacities) {
    CAPTURE(capacity.value_or(0));
    // Tutel wants a degree that divides the 16 or 20 slots, or the 122 rows without a capacity.
    check_equals_reference(execute_here(prime_layer(2, capacity), "tutel", {2, 2}, {}));
    check_equals_reference(execute_here(prime_layer(4, capacity), "sequential", {1, 1}, {}));
  }
}

TEST_CASE("experts without tokens get no gradient", "[exec][layer]") {
  // A skew of 40 beats every other score: top-1 sends each token to expert 0.
  for (const auto& capacity : kCapacities) {
    const Executed executed =
        execute_here(prime_layer(1, capacity), "pipemoe", {3, 2}, {.skew = 40});
    check_equals_reference(executed);
    const LayerResults& results = executed.results;
    CHECK(std::all_of(results.experts.begin(), results.experts.end(),
                      [](std::int32_t expert) { return expert == 0; }));
    const auto is_zero = [](float value) { return value == 0; };
    CHECK_FALSE(
        std::all_of(results.first_gradient.begin(), results.first_gradient.begin() + 120, is_zero));
    CHECK(std::all_of(results.first_gradient.begin() + 120, results.first_gradient.end(), is_zero));
  }
}

TEST_CASE("tokens beyond an expert's capacity are dropped", "[exec][layer]") {
  // All 61 tokens want expert 0, which has 8 slots: 53 outputs are zero.
  const Executed executed = execute_here(prime_layer(1, 1.0), "pipemoe", {2, 2}, {.skew = 40});
  int zero = 0;
  for (std::size_t token = 0; token < 61; ++token) {
    const auto begin = executed.results.output.begin() + static_cast<std::ptrdiff_t>(12 * token);
    zero += std::all_of(begin, begin + 12, [](float value) { return value == 0; });
  }
  CHECK(zero == 53);
}

TEST_CASE("more chunks than rows leave chunks empty", "[exec][layer]") {
  // Dropless, 3 tokens of one choice each: at most 3 rows an expert, most experts have none.
  MoeLayer layer = prime_layer(1, std::nullopt);
  layer.tokens_per_rank = 3;
  check_equals_reference(execute_here(layer, "pipemoe", {3, 2}, {.skew = 40}));
  check_equals_reference(execute_here(layer, "pipemoe", {3, 3}, {}));
}

TEST_CASE("a layer of one token and one expert runs", "[exec][layer]") {
  MoeLayer layer = prime_layer(1, std::nullopt);
  layer.tokens_per_rank = 1;
  layer.num_experts = 1;
  check_equals_reference(execute_here(layer, "pipemoe", {1, 1}, {.seed = 3}));
}

TEST_CASE("results are the same bits in every run", "[exec][layer]") {
  for (const auto& capacity : kCapacities) {
    for (const std::int64_t degree : {1, 3, 8}) {
      const auto results = [&] {
        return execute_here(prime_layer(2, capacity), "pipemoe-deferred", {degree, degree},
                            {.skew = 1, .auxiliary_loss_weight = 0.1})
            .results;
      };
      const LayerResults first = results();
      for (int run = 0; run < 5; ++run) REQUIRE(results() == first);
    }
  }
}

namespace {

using Counts = std::vector<std::int64_t>;
using kernels::RoutingShape;

kernels::ChunkPlan plan(const RoutingShape& shape, const std::vector<std::int32_t>& experts,
                        std::int64_t degree) {
  return kernels::plan_chunks(shape, experts, kernels::assign(shape, experts), degree);
}

}  // namespace

TEST_CASE("with a capacity every rank sends and receives the same", "[exec][chunks]") {
  // 4 experts on 2 ranks, 3 slots each: chunks of 2 and 1 slots, 8 and 4 rows, half to each rank.
  const RoutingShape shape{.tokens = 3, .num_experts = 4, .top_k = 1, .capacity = 3};
  const auto chunks = rows_of_chunks(plan(shape, {0, 0, 3}, 2), {2, 2, {3, 3, 3, 3}}, 5);
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
  const auto chunks = rows_of_chunks(plan(shape, {0, 3, 0, 0}, 2), {2, 2, {3, 0, 1, 5}}, 1);
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
  const auto chunks = rows_of_chunks(plan(shape, {1}, 3), {1, 2, {0, 1}}, 7);
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
