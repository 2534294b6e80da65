#include "exec/layer_data.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <random>
#include <span>
#include <thread>

namespace pipemoe::exec {
namespace {

enum class Tensor : std::uint32_t {
  Input,
  OutputGradient,
  Gate,
  First,
  FirstBias,
  Second,
  SecondBias
};

/// Normal numbers for one part of a tensor, which has a generator of its own.
struct Part {
  Tensor tensor;
  std::int64_t index;  ///< of the rank or the expert
  double scale;
  std::span<float> values;
};

void draw(const Part& part, std::uint64_t seed) {
  std::seed_seq sequence{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                         static_cast<std::uint32_t>(part.tensor),
                         static_cast<std::uint32_t>(part.index)};
  std::mt19937 random(sequence);
  std::normal_distribution<float> normal(0, static_cast<float>(part.scale));
  for (float& value : part.values) value = normal(random);
}

// On as many threads as there are cores for this process.
void draw_all(const std::vector<Part>& parts, std::uint64_t seed) {
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < parts.size(); i = next++) draw(parts[i], seed);
  };
  const std::size_t threads =
      std::min(parts.size(), std::max<std::size_t>(1, std::thread::hardware_concurrency()));
  std::vector<std::jthread> others;
  for (std::size_t i = 1; i < threads; ++i) others.emplace_back(work);
  work();
}

class Parts {
 public:
  /// A tensor of `count` equal parts, of which the first is number `first`.
  void add(Tensor tensor, std::int64_t first, std::int64_t count, std::int64_t size, double scale,
           std::vector<float>& values) {
    values.resize(static_cast<std::size_t>(count * size));
    for (std::int64_t i = 0; i < count; ++i) {
      parts_.push_back({tensor, first + i, scale,
                        std::span(values).subspan(static_cast<std::size_t>(i * size),
                                                  static_cast<std::size_t>(size))});
    }
  }
  const std::vector<Part>& all() const { return parts_; }

 private:
  std::vector<Part> parts_;
};

void skew(const MoeLayer& layer, double amount, LayerData& data) {
  if (amount == 0) return;
  data.gate[0] += static_cast<float>(amount);
  for (std::size_t i = 0; i < data.input.size(); i += static_cast<std::size_t>(layer.model_dim)) {
    data.input[i] = 1;
  }
}

// To the nearest value that bf16 has, ties to even.
void round_to_bf16(std::vector<float>& values) {
  for (float& value : values) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    value = std::bit_cast<float>(rounded & 0xffff0000u);
  }
}

}  // namespace

LayerData draw_data(const MoeLayer& layer, int num_ranks, int rank, const DataOptions& options) {
  const std::int64_t model = layer.model_dim, hidden = layer.hidden_dim;
  const std::int64_t wide = layer.activation == Activation::SwiGlu ? 2 * hidden : hidden;
  const std::int64_t local = layer.num_experts / num_ranks, tokens = layer.tokens_per_rank * model;
  const std::int64_t biased = options.biases ? local : 0;
  const double into = 1 / std::sqrt(static_cast<double>(model));
  const double out_of = 1 / std::sqrt(static_cast<double>(hidden));
  LayerData data;
  Parts parts;
  parts.add(Tensor::Input, rank, 1, tokens, 1, data.input);
  parts.add(Tensor::OutputGradient, rank, 1, tokens, 1, data.output_gradient);
  parts.add(Tensor::Gate, 0, 1, layer.num_experts * model, into, data.gate);
  parts.add(Tensor::First, rank * local, local, model * wide, into, data.first);
  parts.add(Tensor::FirstBias, rank * local, biased, wide, 0.3, data.first_bias);
  parts.add(Tensor::Second, rank * local, local, hidden * model, out_of, data.second);
  parts.add(Tensor::SecondBias, rank * local, biased, model, 0.3, data.second_bias);
  draw_all(parts.all(), options.seed);
  skew(layer, options.skew, data);
  if (layer.dtype == Dtype::Bf16) {
    for (auto* tensor : {&data.input, &data.output_gradient, &data.first, &data.first_bias,
                         &data.second, &data.second_bias}) {
      round_to_bf16(*tensor);
    }
  }
  return data;
}

}  // namespace pipemoe::exec
