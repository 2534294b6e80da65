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

constexpr std::int64_t kPieceSize = std::int64_t{1} << 20;

/// One piece of a tensor, which gets normal numbers from a generator of its own.
struct TensorPiece {
  Tensor tensor;
  std::int64_t part;   ///< rank or expert, below 2^20
  std::int64_t index;  ///< within the part, below 2^12
  double scale;
  std::span<float> values;
};

// Rounds to the nearest value that bf16 can hold, ties to even.
void round_to_bf16(std::span<float> values) {
  for (float& value : values) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    value = std::bit_cast<float>(rounded & 0xffff0000u);
  }
}

void draw(const TensorPiece& piece, std::uint64_t seed, Dtype dtype) {
  std::seed_seq sequence{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                         static_cast<std::uint32_t>(piece.tensor),
                         static_cast<std::uint32_t>(piece.part + (piece.index << 20))};
  std::mt19937 random(sequence);
  std::normal_distribution<float> normal(0, static_cast<float>(piece.scale));
  for (float& value : piece.values) value = normal(random);
  if (dtype == Dtype::Bf16 && piece.tensor != Tensor::Gate) round_to_bf16(piece.values);
}

// Uses as many threads as this process has cores.
void draw_all(const std::vector<TensorPiece>& pieces, std::uint64_t seed, Dtype dtype) {
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < pieces.size(); i = next++) draw(pieces[i], seed, dtype);
  };
  const std::size_t threads =
      std::min(pieces.size(), std::max<std::size_t>(1, std::thread::hardware_concurrency()));
  std::vector<std::jthread> others;
  for (std::size_t i = 1; i < threads; ++i) others.emplace_back(work);
  work();
}

class TensorPieces {
 public:
  /// Adds a tensor of `count` equal parts, numbered from `first`.
  void add(Tensor tensor, std::int64_t first, std::int64_t count, std::int64_t size, double scale,
           std::vector<float>& values) {
    values.resize(static_cast<std::size_t>(count * size));
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t begin = 0; begin < size; begin += kPieceSize) {
        const auto at = static_cast<std::size_t>(i * size + begin);
        const auto length = static_cast<std::size_t>(std::min(kPieceSize, size - begin));
        pieces_.push_back(
            {tensor, first + i, begin / kPieceSize, scale, std::span(values).subspan(at, length)});
      }
    }
  }
  const std::vector<TensorPiece>& all() const { return pieces_; }

 private:
  std::vector<TensorPiece> pieces_;
};

void skew(const MoeLayer& layer, double amount, LayerData& data) {
  if (amount == 0) return;
  data.gate[0] += static_cast<float>(amount);
  for (std::size_t i = 0; i < data.input.size(); i += static_cast<std::size_t>(layer.model_dim)) {
    data.input[i] = 1;
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
  TensorPieces pieces;
  pieces.add(Tensor::Input, rank, 1, tokens, 1, data.input);
  pieces.add(Tensor::OutputGradient, rank, 1, tokens, 1, data.output_gradient);
  pieces.add(Tensor::Gate, 0, 1, layer.num_experts * model, into, data.gate);
  pieces.add(Tensor::First, rank * local, local, model * wide, into, data.first);
  pieces.add(Tensor::FirstBias, rank * local, biased, wide, 0.3, data.first_bias);
  pieces.add(Tensor::Second, rank * local, local, hidden * model, out_of, data.second);
  pieces.add(Tensor::SecondBias, rank * local, biased, model, 0.3, data.second_bias);
  draw_all(pieces.all(), options.seed, layer.dtype);
  skew(layer, options.skew, data);
  return data;
}

}  // namespace pipemoe::exec
