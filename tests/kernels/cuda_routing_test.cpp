// The gate's choices and rows on a GPU against the CPU twins.
#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>

#include "kernels/device_routing.hpp"
#include "kernels/routing.hpp"
#include "tests/kernels/cuda_support.hpp"

using namespace pipemoe;
using namespace pipemoe::cuda;
using namespace pipemoe::test;

namespace {

struct Choices {
  std::vector<std::int32_t> experts, counts;
  std::vector<float> probabilities, weights, load;
  std::vector<std::int32_t> forward, backward;
};

Choices choose_on_device(const DeviceRouting& routing, const std::vector<float>& logits,
                         std::int64_t forward_degree, std::int64_t backward_degree) {
  const std::int64_t experts = routing.num_experts, choices = routing.choices();
  const auto ints = [](std::int64_t count) { return poisoned_device(count, 4); };
  DeviceBuffer in = to_device(logits), p = ints(routing.tokens * experts), chosen = ints(choices);
  DeviceBuffer weights = ints(choices), tiles = ints(tile_counts_size(routing));
  DeviceBuffer counts = ints(experts), load = ints(experts), rows = ints(choices);
  DeviceBuffer back = ints(choices), blocks = ints(forward_degree * experts);
  DeviceBuffer back_blocks = ints(backward_degree * experts);
  const RowMap forward{forward_degree, blocks.as<std::int32_t>(), rows.as<std::int32_t>()};
  const RowMap backward{backward_degree, back_blocks.as<std::int32_t>(), back.as<std::int32_t>()};
  const cuda::Stream stream;
  gate_scores(routing,
              {in.as<float>(), 1, experts, p.as<float>(), chosen.as<std::int32_t>(),
               weights.as<float>(), tiles.as<std::int32_t>()},
              stream);
  count_choices(routing, {tiles.as<std::int32_t>(), counts.as<std::int32_t>(), load.as<float>()},
                stream);
  for (const RowMap& map : {forward, backward}) {
    if (routing.dropless()) {
      place_blocks(routing, counts.as<std::int32_t>(), map, stream);
      continue;
    }
    std::vector<std::int32_t> begins;
    for (std::int64_t c = 0, begin = 0; c < map.degree; ++c) {
      for (std::int64_t e = 0; e < experts; ++e) {
        begins.push_back(static_cast<std::int32_t>(begin));
        begin += kernels::rows_in_chunk(routing.capacity, map.degree, c);
      }
    }
    copy_to_device(map.block_begin, begins.data(), begins.size() * 4);
  }
  place_choices(routing,
                {chosen.as<std::int32_t>(), tiles.as<std::int32_t>(), counts.as<std::int32_t>(),
                 forward, backward},
                stream);
  stream.synchronize();
  return {to_host<std::int32_t>(chosen.data(), choices),
          to_host<std::int32_t>(counts.data(), experts),
          to_host<float>(p.data(), routing.tokens * experts),
          to_host<float>(weights.data(), choices),
          to_host<float>(load.data(), experts),
          to_host<std::int32_t>(rows.data(), choices),
          to_host<std::int32_t>(back.data(), choices)};
}

void check_rows(const kernels::ChunkPlan& plan, const std::vector<std::int32_t>& rows) {
  REQUIRE(plan.row_of.size() == rows.size());
  REQUIRE(std::equal(rows.begin(), rows.end(), plan.row_of.begin()));
}

// Softmax in float64; the chosen by a stable sort of the device's own probabilities.
void check_scores(const DeviceRouting& routing, const std::vector<float>& logits,
                  const Choices& choices) {
  const std::int64_t experts = routing.num_experts, k = routing.top_k;
  double worst = 0;
  for (std::int64_t t = 0; t < routing.tokens; ++t) {
    const float* row = logits.data() + t * experts;
    const float* p = choices.probabilities.data() + t * experts;
    double sum = 0, chosen_sum = 0;
    for (std::int64_t e = 0; e < experts; ++e) sum += std::exp(double{row[e]});
    for (std::int64_t e = 0; e < experts; ++e) {
      worst = std::max(worst, std::abs(double{p[e]} - std::exp(double{row[e]}) / sum));
    }
    std::vector<std::int32_t> order(static_cast<std::size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return p[a] > p[b]; });
    const std::int32_t* chosen = choices.experts.data() + t * k;
    REQUIRE(std::equal(chosen, chosen + k, order.begin()));
    for (std::int64_t j = 0; j < k; ++j) chosen_sum += double{p[chosen[j]]};
    for (std::int64_t j = 0; j < k; ++j) {
      const double weight = double{p[chosen[j]]} / (routing.renormalize ? chosen_sum : 1);
      worst = std::max(
          worst, std::abs(double{choices.weights[static_cast<std::size_t>(t * k + j)]} - weight));
    }
  }
  REQUIRE(worst <= 1e-6);
}

}  // namespace

TEST_CASE("choices and rows on a GPU are those of the CPU", "[cuda][routing]") {
  struct Size {
    std::int64_t tokens, experts, top_k;
  };
  const Size size = GENERATE(Size{1, 1, 1}, Size{300, 2, 2}, Size{777, 8, 3}, Size{1000, 13, 8},
                             Size{5000, 64, 8}, Size{640, 100, 4}, Size{130, 500, 16});
  std::mt19937_64 random(static_cast<std::uint64_t>(size.tokens));
  std::vector<float> logits =
      normal_floats(random, size.tokens * size.experts, Element::Fp32, 1.5f);
  for (std::size_t i = 0; i < logits.size(); i += static_cast<std::size_t>(size.experts)) {
    logits[i] += 2;                                       // a favourite
    if (size.experts > 4) logits[i + 3] = logits[i + 1];  // ties
    if (size.experts > 5) logits[i + 5] = -40;            // an empty expert
  }
  const std::int64_t even = (size.tokens * size.top_k + size.experts - 1) / size.experts;
  for (const std::int64_t capacity : {std::int64_t{-1}, even, even + even / 4, std::int64_t{1}}) {
    CAPTURE(size.tokens, size.experts, size.top_k, capacity);
    const DeviceRouting routing{size.tokens, size.experts, size.top_k, capacity, capacity != even};
    const Choices choices = choose_on_device(routing, logits, 3, 1);
    check_scores(routing, logits, choices);
    kernels::RoutingShape shape{size.tokens, size.experts, size.top_k, std::nullopt};
    if (capacity >= 0) shape.capacity = capacity;
    const kernels::Assignment assignment = kernels::assign(shape, choices.experts);
    check_rows(kernels::plan_chunks(shape, choices.experts, assignment, 3), choices.forward);
    check_rows(kernels::plan_chunks(shape, choices.experts, assignment, 1), choices.backward);
    for (std::int32_t e = 0; e < size.experts; ++e) {
      const auto count = std::count(choices.experts.begin(), choices.experts.end(), e);
      CHECK(choices.counts[static_cast<std::size_t>(e)] == count);
      CHECK(choices.load[static_cast<std::size_t>(e)] ==
            static_cast<float>(count) / static_cast<float>(routing.choices()));
    }
  }
}

TEST_CASE("also with NaN a GPU chooses different experts", "[cuda][routing]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Choices choices = choose_on_device(
      {2, 6, 3, -1, true}, {1, nan, 2, 3, 0, 1, nan, nan, nan, nan, nan, nan}, 1, 1);
  for (std::size_t token : {0u, 1u}) {
    std::vector<std::int32_t> chosen(choices.experts.begin() + static_cast<long>(3 * token),
                                     choices.experts.begin() + static_cast<long>(3 * token + 3));
    std::sort(chosen.begin(), chosen.end());
    CHECK(chosen[0] >= 0);
    CHECK(chosen[2] < 6);
    CHECK(std::adjacent_find(chosen.begin(), chosen.end()) == chosen.end());
  }
}

TEST_CASE("three bf16 parts hold a gate weight to fp32", "[cuda][routing]") {
  std::mt19937_64 random(3);
  const std::vector<float> weight = normal_floats(random, 3 * 40, Element::Fp32);
  const DeviceBuffer in = to_device(weight), parts = poisoned_device(3 * 8 * 40, 2);
  const cuda::Stream stream;
  split_gate_weight({in.as<float>(), parts.data(), 3, 8, 40}, stream);
  stream.synchronize();
  const std::vector<float> split = floats_of(parts.data(), 3 * 8 * 40, Element::Bf16);
  for (std::size_t i = 0; i < 8 * 40; ++i) {
    const double sum = double{split[i]} + double{split[320 + i]} + double{split[640 + i]};
    const double whole = i < weight.size() ? double{weight[i]} : 0;
    REQUIRE(std::abs(sum - whole) <= 6e-8 * std::abs(whole));
  }
}
