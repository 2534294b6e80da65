// Tests of each GPU kernel against its CPU counterpart, also at widths that need several passes
// over a row, for which the layers of device_layer_test.cpp are too small.
#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <span>

#include "kernels/device_activation.hpp"
#include "kernels/device_permute.hpp"
#include "kernels/device_routing.hpp"
#include "kernels/experts.hpp"
#include "kernels/gate.hpp"
#include "kernels/permute.hpp"
#include "kernels/routing.hpp"
#include "tests/kernels/cuda_support.hpp"

using namespace pipemoe;
using namespace pipemoe::cuda;
using namespace pipemoe::test;
using Floats = std::vector<float>;

namespace {

// ---- Routing ----

struct DeviceChoices {
  std::vector<std::int32_t> experts, counts;
  std::vector<float> probabilities, weights, load;
  std::vector<std::int32_t> forward, backward;
};

DeviceChoices choose_on_device(const DeviceRouting& routing, const std::vector<float>& logits,
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

// Checks the softmax against float64, and the choices against a stable sort of the device's own
// probabilities.
void check_scores(const DeviceRouting& routing, const std::vector<float>& logits,
                  const DeviceChoices& choices) {
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

// ---- Rows ----

// The rows of a layer, planned on the CPU, with a copy of the plan on the device.
struct RowsSetup {
  kernels::RowShape row;
  kernels::RoutingShape routing;
  Element element;
  std::vector<std::int32_t> experts;
  kernels::ChunkPlan forward, backward;
  Floats weights;
  DeviceBuffer forward_rows, backward_rows, forward_blocks, backward_blocks, counts, weights_in,
      experts_in;

  RowsSetup(std::int64_t width, std::int64_t top_k, bool dropless, Element type, std::uint64_t seed)
      : row{200, top_k, width}, routing{200, 8, top_k, {}}, element(type) {
    std::mt19937_64 random(seed);
    if (!dropless) routing.capacity = 25 * top_k;
    std::vector<std::int32_t> all{0, 1, 2, 3, 4, 6, 7, 0};
    for (std::int64_t t = 0; t < 200; ++t) {
      std::shuffle(all.begin(), all.end() - 1, random);
      if (t % 2 == 0) std::iter_swap(all.begin(), std::find(all.begin(), all.end() - 1, 2));
      experts.insert(experts.end(), all.begin(), all.begin() + top_k);
    }
    const kernels::Assignment assignment = kernels::assign(routing, experts);
    forward = kernels::plan_chunks(routing, experts, assignment, 3);
    backward = kernels::plan_chunks(routing, experts, assignment, 2);
    weights = normal_floats(random, 200 * top_k, Element::Fp32);
    std::vector<std::int32_t> count(8);
    for (const std::int32_t e : experts) ++count[static_cast<std::size_t>(e)];
    const auto narrow = [](const std::vector<std::int64_t>& values) {
      return to_device(std::vector<std::int32_t>(values.begin(), values.end()));
    };
    forward_rows = narrow(forward.row_of), backward_rows = narrow(backward.row_of);
    forward_blocks = narrow(forward.block_begin), backward_blocks = narrow(backward.block_begin);
    counts = to_device(count), weights_in = to_device(weights), experts_in = to_device(experts);
  }
  DeviceRows shape() const {
    return {{200, 8, row.top_k, routing.capacity.value_or(-1), true},
            row.model_dim,
            element,
            counts.as<std::int32_t>()};
  }
  RowMap map(const kernels::ChunkPlan& plan) const {
    const bool first = &plan == &forward;
    return {plan.degree, (first ? forward_blocks : backward_blocks).as<std::int32_t>(),
            (first ? forward_rows : backward_rows).as<std::int32_t>()};
  }
};

double error_of(const Floats& a, const Floats& b) {
  return relative_error(a, std::vector<double>(b.begin(), b.end()));
}
double kernel_tolerance(Element element) { return element == Element::Fp32 ? 1e-6 : 4e-3; }

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
    logits[i] += 2;                                       // most tokens choose it
    if (size.experts > 4) logits[i + 3] = logits[i + 1];  // ties
    if (size.experts > 5) logits[i + 5] = -40;            // an empty expert
  }
  const std::int64_t even = (size.tokens * size.top_k + size.experts - 1) / size.experts;
  for (const std::int64_t capacity : {std::int64_t{-1}, even, even + even / 4, std::int64_t{1}}) {
    CAPTURE(size.tokens, size.experts, size.top_k, capacity);
    const DeviceRouting routing{size.tokens, size.experts, size.top_k, capacity, capacity != even};
    const DeviceChoices choices = choose_on_device(routing, logits, 3, 1);
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

TEST_CASE("a GPU chooses different experts even with NaN", "[cuda][routing]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const DeviceChoices choices = choose_on_device(
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

TEST_CASE("three bf16 parts represent a gate weight to fp32 precision", "[cuda][routing]") {
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

TEST_CASE("rows on a GPU are those of the CPU", "[cuda][rows]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto top_k = GENERATE(as<std::int64_t>(), 1, 2, 3, 4, 7);
  const auto dropless = GENERATE(false, true);
  for (const std::int64_t width : {8, 264, 1024, 7168}) {
    CAPTURE(element == Element::Fp32, top_k, dropless, width);
    const RowsSetup s(width, top_k, dropless, element, 5);
    const cuda::Stream stream;
    std::mt19937_64 random(6);
    const std::int64_t tokens = 200 * width, bytes = size_of(element);
    const Floats x = normal_floats(random, tokens, element);
    const Floats dy = normal_floats(random, tokens, element);
    const Floats rows = normal_floats(random, s.forward.rows() * width, element);
    const Floats row_gradient = normal_floats(random, s.backward.rows() * width, element);
    const DeviceBuffer x_in = to_device(std::span(x), element);
    const DeviceBuffer dy_in = to_device(std::span(dy), element);
    const DeviceBuffer rows_in = to_device(std::span(rows), element);
    const DeviceBuffer gradient_in = to_device(std::span(row_gradient), element);

    const DeviceBuffer permuted = poisoned_device(s.forward.rows() * width, bytes);
    permute(s.shape(), {x_in.data(), s.map(s.forward), {permuted.data()}}, stream);
    const DeviceBuffer output = poisoned_device(tokens, bytes);
    combine(s.shape(),
            {{rows_in.data()}, s.weights_in.as<float>(), s.map(s.forward), output.data()}, stream);
    const DeviceBuffer dx = poisoned_device(tokens, bytes);
    permute_backward(s.shape(), {{gradient_in.data()}, s.map(s.backward), x_in.data(), dx.data()},
                     stream);
    stream.synchronize();

    Floats expected = poisoned(s.forward.rows() * width);
    kernels::permute(s.row, s.forward, {x, expected});
    REQUIRE(floats_of(permuted.data(), s.forward.rows() * width, element) == expected);
    expected = poisoned(tokens);
    kernels::combine(s.row, s.forward, {rows, s.weights, expected});
    REQUIRE(error_of(floats_of(output.data(), tokens, element), expected) <=
            kernel_tolerance(element));
    kernels::permute_backward(s.row, s.backward, {row_gradient, expected});
    for (std::size_t i = 0; i < x.size(); ++i) expected[i] += x[i];
    REQUIRE(error_of(floats_of(dx.data(), tokens, element), expected) <= kernel_tolerance(element));
  }
}

TEST_CASE("the gradients of combine and gate on a GPU are those of the CPU", "[cuda][rows]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto top_k = GENERATE(as<std::int64_t>(), 1, 2, 3, 7);
  const auto dropless = GENERATE(false, true);
  const auto sure = GENERATE(false, true);  // a token's first choice has nearly all probability
  for (const std::int64_t width : {8, 1024, 2304}) {
    CAPTURE(element == Element::Fp32, top_k, dropless, sure, width);
    const RowsSetup s(width, top_k, dropless, element, 7);
    const cuda::Stream stream;
    std::mt19937_64 random(8);
    const std::int64_t tokens = 200 * width, bytes = size_of(element), padded = 16;
    const Floats dy = normal_floats(random, tokens, element);
    const Floats rows = normal_floats(random, s.forward.rows() * width, element);
    Floats probabilities(200 * 8), load(8, 0.125f), weights;
    for (std::size_t t = 0; t < 200; ++t) {
      const std::span<float> of_token(probabilities.data() + 8 * t, 8);
      for (float& p : of_token) p = std::uniform_real_distribution<float>(0.05f, 0.1f)(random);
      const std::int32_t first = s.experts[t * static_cast<std::size_t>(top_k)];
      of_token[static_cast<std::size_t>(first)] = sure ? 1e6f : 0.2f;
      const float sum = std::accumulate(of_token.begin(), of_token.end(), 0.0f);
      for (float& p : of_token) p /= sum;
    }
    load[2] = 0.5f;
    const auto choices = static_cast<std::int64_t>(s.experts.size());
    for (std::int64_t i = 0; i < choices; ++i) {  // as the gate renormalises them
      const auto expert = [&](std::int64_t choice) {
        return probabilities[static_cast<std::size_t>(choice / top_k * 8 +
                                                      s.experts[static_cast<std::size_t>(choice)])];
      };
      float sum = 0;
      for (std::int64_t j = 0; j < top_k; ++j) sum += expert(i / top_k * top_k + j);
      weights.push_back(expert(i) / sum);
    }
    const DeviceBuffer dy_in = to_device(std::span(dy), element);
    const DeviceBuffer rows_in = to_device(std::span(rows), element);
    const DeviceBuffer p_in = to_device(probabilities), load_in = to_device(load);
    const DeviceBuffer weights_in = to_device(weights);
    const DeviceBuffer row_gradient = poisoned_device(s.backward.rows() * width, bytes);
    const DeviceBuffer logits = poisoned_device(200 * padded, bytes);
    const DeviceBuffer weight_gradient = poisoned_device(choices, 4);
    const DeviceBuffer expert_weights = poisoned_device(200 * padded, bytes);
    combine_backward(s.shape(),
                     {.output_gradient = dy_in.data(),
                      .rows = {rows_in.data()},
                      .forward = s.map(s.forward),
                      .backward = s.map(s.backward),
                      .combine_weights = weights_in.as<float>(),
                      .probabilities = p_in.as<float>(),
                      .experts = s.experts_in.as<std::int32_t>(),
                      .load = load_in.as<float>(),
                      .auxiliary_loss_gradient = 3,
                      .row_gradient = {row_gradient.data()},
                      .logit_gradient = logits.data(),
                      .expert_weights = expert_weights.data(),
                      .padded_experts = padded,
                      .combine_weight_gradient = weight_gradient.as<float>()},
                     stream);
    stream.synchronize();

    Floats expected_rows = poisoned(s.backward.rows() * width), dw = poisoned(choices);
    kernels::combine_backward(s.row, s.forward, s.backward, {dy, rows, weights, expected_rows, dw});
    Floats dlogits = poisoned(200 * 8), unused(200), gate(8), gate_gradient(8);
    kernels::gate_backward({200, 1, 8, top_k, true}, {.input = unused,
                                                      .weight = gate,
                                                      .probabilities = probabilities,
                                                      .experts = s.experts,
                                                      .combine_weights = weights,
                                                      .combine_weight_gradient = dw,
                                                      .load = load,
                                                      .auxiliary_loss_gradient = 3,
                                                      .logit_gradient = dlogits,
                                                      .input_gradient = unused,
                                                      .weight_gradient = gate_gradient});
    REQUIRE(error_of(floats_of(row_gradient.data(), s.backward.rows() * width, element),
                     expected_rows) <= kernel_tolerance(element));
    REQUIRE(error_of(to_host<float>(weight_gradient.data(), choices), dw) <= 1e-5);
    Floats dense(static_cast<std::size_t>(200 * padded));
    for (std::size_t i = 0; i < s.experts.size(); ++i) {
      if (s.forward.row_of[i] == kernels::kDropped) continue;
      const std::size_t token = i / static_cast<std::size_t>(top_k);
      dense[token * 16 + static_cast<std::size_t>(s.experts[i])] = rounded(weights[i], element);
    }
    REQUIRE(floats_of(expert_weights.data(), 200 * padded, element) == dense);
    const Floats padded_logits = floats_of(logits.data(), 200 * padded, element);
    Floats of_experts;
    for (std::size_t t = 0; t < 200; ++t) {
      for (std::size_t e = 0; e < 16; ++e) {
        if (e < 8) of_experts.push_back(padded_logits[t * 16 + e]);
        if (e >= 8) REQUIRE(padded_logits[t * 16 + e] == 0);
      }
    }
    REQUIRE(error_of(of_experts, dlogits) <= (element == Element::Fp32 ? 2e-5 : 4e-3));
  }
}

TEST_CASE("activations on a GPU are those of the CPU", "[cuda][activation]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  struct Kind {
    Activation cpu;
    DeviceActivation gpu;
  };
  const Kind kind = GENERATE(Kind{Activation::Relu, DeviceActivation::Relu},
                             Kind{Activation::Gelu, DeviceActivation::Gelu},
                             Kind{Activation::SwiGlu, DeviceActivation::SwiGlu});
  // Three experts of 7 rows, whose first rows are 11 apart.
  const std::int64_t hidden = 40, width = kind.cpu == Activation::SwiGlu ? 80 : 40, rows = 3 * 11;
  std::mt19937_64 random(9);
  const Floats x = normal_floats(random, rows * width, element, 2);
  const Floats bias = normal_floats(random, 3 * width, element);
  const Floats dy = normal_floats(random, rows * hidden, element);
  const cuda::Stream stream;
  const DeviceBuffer x_in = to_device(std::span(x), element);
  const DeviceBuffer bias_in = to_device(std::span(bias), element);
  const DeviceBuffer dy_in = to_device(std::span(dy), element);
  const DeviceBuffer y = poisoned_device(rows * hidden, size_of(element));
  const DeviceBuffer dx = poisoned_device(rows * width, size_of(element));
  const ExpertRows shape{3, 7, 11, element};
  activate(shape, {kind.gpu, hidden, x_in.data(), bias_in.data(), y.data()}, stream);
  const DeviceBuffer partial = poisoned_device(partial_sums_size(shape, width), 4);
  const DeviceBuffer sums = poisoned_device(3 * width, size_of(element));
  activate_backward(
      shape, {kind.gpu, hidden, x_in.data(), dy_in.data(), dx.data(), partial.as<float>()}, stream);
  add_partial_sums(shape, {width, partial.as<float>(), sums.data()}, stream);
  stream.synchronize();
  const Floats biased = floats_of(x_in.data(), rows * width, element);
  const Floats y_out = floats_of(y.data(), rows * hidden, element);
  const Floats dx_out = floats_of(dx.data(), rows * width, element);
  const auto columns = static_cast<std::size_t>(width);
  std::vector<double> bias_gradient(3 * columns);
  for (std::size_t i = 0; i < dx_out.size(); ++i) {
    const std::size_t row = i / columns;
    if (row % 11 < 7) bias_gradient[row / 11 * columns + i % columns] += double{dx_out[i]};
  }
  REQUIRE(relative_error(floats_of(sums.data(), 3 * width, element), bias_gradient) <=
          kernel_tolerance(element));
  for (std::int64_t expert = 0; expert < 3; ++expert) {
    for (std::int64_t r = 0; r < 11; ++r) {
      const auto row = static_cast<std::size_t>(expert * 11 + r);
      const auto part = [&](const Floats& all, std::int64_t row_width) {
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>(row) * row_width;
        return Floats(begin, begin + row_width);
      };
      if (r >= 7) {  // the rows between experts are not touched
        REQUIRE(part(biased, width) == part(x, width));
        REQUIRE(std::isnan(y_out[row * static_cast<std::size_t>(hidden)]));
        REQUIRE(std::isnan(dx_out[row * static_cast<std::size_t>(width)]));
        continue;
      }
      Floats sum = part(x, width), expected(static_cast<std::size_t>(hidden)), gradient(sum.size());
      for (std::size_t i = 0; i < sum.size(); ++i) {
        sum[i] += bias[static_cast<std::size_t>(expert * width) + i];
      }
      REQUIRE(error_of(part(biased, width), sum) <= kernel_tolerance(element));
      kernels::activate({kind.cpu, 1, hidden}, sum, expected);
      REQUIRE(error_of(part(y_out, hidden), expected) <= kernel_tolerance(element));
      kernels::activate_backward({kind.cpu, 1, hidden}, part(biased, width), part(dy, hidden),
                                 gradient);
      REQUIRE(error_of(part(dx_out, width), gradient) <= kernel_tolerance(element));
    }
  }
}

TEST_CASE("columns are summed over an expert's rows", "[cuda][activation]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto accumulate = GENERATE(false, true);
  const ExpertRows shape{2, 700, 900, element};
  const std::int64_t width = 520;
  std::mt19937_64 random(10);
  const Floats x = normal_floats(random, 1800 * width, element);
  const Floats before = normal_floats(random, 2 * width, element);
  const DeviceBuffer in = to_device(std::span(x), element);
  const DeviceBuffer sums =
      accumulate ? to_device(std::span(before), element) : poisoned_device(2 * width, 4);
  const DeviceBuffer scratch = poisoned_device(partial_sums_size(shape, width), 4);
  const cuda::Stream stream;
  sum_columns(shape, {width, in.data(), scratch.as<float>()}, stream);
  add_partial_sums(shape, {width, scratch.as<float>(), sums.data(), accumulate}, stream);
  stream.synchronize();
  std::vector<double> expected(static_cast<std::size_t>(2 * width));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::size_t expert = i / 520, column = i % 520;
    if (accumulate) expected[i] = double{before[i]};
    for (std::size_t row = 0; row < 700; ++row) {
      expected[i] += double{x[(expert * 900 + row) * 520 + column]};
    }
  }
  CHECK(relative_error(floats_of(sums.data(), 2 * width, element), expected) <=
        (element == Element::Fp32 ? 1e-6 : 3e-3));
}

TEST_CASE("rows are moved as listed", "[cuda][rows]") {
  const std::vector<RowMove> moves{{0, 5, 3}, {3, 0, 2}, {5, 8, 1}};
  Floats rows(9 * 12);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
  const DeviceBuffer table = to_device(moves), from = to_device(rows);
  const DeviceBuffer to = poisoned_device(9 * 12, 4);
  const cuda::Stream stream;
  move_rows({table.as<RowMove>(), 3, 3, 48, from.data(), to.data()}, stream);
  stream.synchronize();
  const Floats moved = to_host<float>(to.data(), 9 * 12);
  constexpr int kFrom[] = {3, 4, -1, -1, -1, 0, 1, 2, 5};  // the source of each row of `moved`
  for (std::size_t i = 0; i < moved.size(); ++i) {
    const int row = kFrom[i / 12];
    if (row < 0) {
      CHECK(std::isnan(moved[i]));
    } else {
      CHECK(moved[i] == rows[static_cast<std::size_t>(row) * 12 + i % 12]);
    }
  }
}

TEST_CASE("tokens are summed by coefficient for few experts", "[cuda][activation]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto experts = GENERATE(as<std::int64_t>(), 1, 2, 3, 4);
  const SumTokensShape shape{700, experts, 8, 520, element};
  std::mt19937_64 random(11);
  const Floats x = normal_floats(random, 700 * 520, element);
  const Floats y = normal_floats(random, 700 * 520, element);
  const Floats of = normal_floats(random, 700 * 8, element);
  const DeviceBuffer x_in = to_device(std::span(x), element);
  const DeviceBuffer y_in = to_device(std::span(y), element);
  const DeviceBuffer of_in = to_device(std::span(of), element);
  const DeviceBuffer first = poisoned_device(experts * 520, 4);
  const DeviceBuffer second = poisoned_device(experts * 520, size_of(element));
  const DeviceBuffer scratch = poisoned_device(sum_tokens_scratch(shape), 4);
  const cuda::Stream stream;
  sum_tokens(shape, {x_in.data(), of_in.data(), first.data(), Element::Fp32},
             {y_in.data(), of_in.data(), second.data(), element}, scratch.as<float>(), stream);
  stream.synchronize();
  const auto expected = [&](const Floats& values) {
    std::vector<double> sums(static_cast<std::size_t>(experts * 520));
    for (std::size_t i = 0; i < sums.size(); ++i) {
      for (std::size_t t = 0; t < 700; ++t) {
        sums[i] += double{of[t * 8 + i / 520]} * double{values[t * 520 + i % 520]};
      }
    }
    return sums;
  };
  CHECK(relative_error(to_host<float>(first.data(), experts * 520), expected(x)) <= 2e-6);
  CHECK(relative_error(floats_of(second.data(), experts * 520, element), expected(y)) <=
        (element == Element::Fp32 ? 2e-6 : 3e-3));
}
