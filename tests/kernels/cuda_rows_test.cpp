// Tokens to rows and back on a GPU against the CPU twins, and what a layer's own test is too small
// for: widths of several passes.
#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <span>

#include "kernels/activation.hpp"
#include "kernels/device_activation.hpp"
#include "kernels/device_rows.hpp"
#include "kernels/gate.hpp"
#include "kernels/permute.hpp"
#include "tests/kernels/cuda_support.hpp"
#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::cuda;
using namespace pipemoe::test;
using Floats = std::vector<float>;

namespace {

// A layer's rows by a plan of the CPU, and the same on the device.
struct Setup {
  kernels::RowShape row;
  kernels::RoutingShape routing;
  Element element;
  std::vector<std::int32_t> experts;
  kernels::ChunkPlan forward, backward;
  Floats weights;
  DeviceBuffer forward_rows, backward_rows, forward_blocks, backward_blocks, counts, weights_in,
      experts_in;

  Setup(std::int64_t width, std::int64_t top_k, bool dropless, Element type, std::uint64_t seed)
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

double error(const Floats& a, const Floats& b) {
  return relative_error(a, std::vector<double>(b.begin(), b.end()));
}
double tolerance(Element element) { return element == Element::Fp32 ? 1e-6 : 4e-3; }

}  // namespace

TEST_CASE("rows on a GPU are those of the CPU", "[cuda][rows]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto top_k = GENERATE(as<std::int64_t>(), 1, 2, 3, 4, 7);
  const auto dropless = GENERATE(false, true);
  for (const std::int64_t width : {8, 264, 1024, 7168}) {
    CAPTURE(element == Element::Fp32, top_k, dropless, width);
    const Setup s(width, top_k, dropless, element, 5);
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
    REQUIRE(error(floats_of(output.data(), tokens, element), expected) <= tolerance(element));
    kernels::permute_backward(s.row, s.backward, {row_gradient, expected});
    for (std::size_t i = 0; i < x.size(); ++i) expected[i] += x[i];
    REQUIRE(error(floats_of(dx.data(), tokens, element), expected) <= tolerance(element));
  }
}

TEST_CASE("combine's backward on a GPU is the CPU's, the gate's included", "[cuda][rows]") {
  const auto element = GENERATE(Element::Fp32, Element::Bf16);
  const auto top_k = GENERATE(as<std::int64_t>(), 1, 2, 3, 7);
  const auto dropless = GENERATE(false, true);
  const auto sure = GENERATE(false, true);  // a token's first choice has nearly all probability
  for (const std::int64_t width : {8, 1024, 2304}) {
    CAPTURE(element == Element::Fp32, top_k, dropless, sure, width);
    const Setup s(width, top_k, dropless, element, 7);
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
    for (std::int64_t i = 0; i < choices; ++i) {  // those of the gate, as renormalised
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
    REQUIRE(error(floats_of(row_gradient.data(), s.backward.rows() * width, element),
                  expected_rows) <= tolerance(element));
    REQUIRE(error(to_host<float>(weight_gradient.data(), choices), dw) <= 1e-5);
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
    REQUIRE(error(of_experts, dlogits) <= (element == Element::Fp32 ? 2e-5 : 4e-3));
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
  // Three experts of 7 rows, of which 11 are kept apart.
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
          tolerance(element));
  for (std::int64_t expert = 0; expert < 3; ++expert) {
    for (std::int64_t r = 0; r < 11; ++r) {
      const auto row = static_cast<std::size_t>(expert * 11 + r);
      const auto part = [&](const Floats& all, std::int64_t row_width) {
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>(row) * row_width;
        return Floats(begin, begin + row_width);
      };
      if (r >= 7) {  // between experts nothing is touched
        REQUIRE(part(biased, width) == part(x, width));
        REQUIRE(std::isnan(y_out[row * static_cast<std::size_t>(hidden)]));
        REQUIRE(std::isnan(dx_out[row * static_cast<std::size_t>(width)]));
        continue;
      }
      Floats sum = part(x, width), expected(static_cast<std::size_t>(hidden)), gradient(sum.size());
      for (std::size_t i = 0; i < sum.size(); ++i) {
        sum[i] += bias[static_cast<std::size_t>(expert * width) + i];
      }
      REQUIRE(error(part(biased, width), sum) <= tolerance(element));
      kernels::activate({kind.cpu, 1, hidden}, sum, expected);
      REQUIRE(error(part(y_out, hidden), expected) <= tolerance(element));
      kernels::activate_backward({kind.cpu, 1, hidden}, part(biased, width), part(dy, hidden),
                                 gradient);
      REQUIRE(error(part(dx_out, width), gradient) <= tolerance(element));
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
  constexpr int kFrom[] = {3, 4, -1, -1, -1, 0, 1, 2, 5};  // of each row of `moved`
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
