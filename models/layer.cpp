#include "models/layer.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "models/config.hpp"
#include "models/error.hpp"
#include "models/limits.hpp"

namespace pipemoe {
namespace {

// Matrices per expert: SwiGLU's first one is twice as wide.
std::int64_t first_width(const MoeLayer& layer) {
  return layer.activation == Activation::SwiGlu ? 2 * layer.hidden_dim : layer.hidden_dim;
}

}  // namespace

std::int64_t MoeLayer::capacity() const {
  const double factor = required(capacity_factor, "capacity() of a dropless layer");
  const double exact = static_cast<double>(top_k) * factor * static_cast<double>(tokens_per_rank) /
                       static_cast<double>(num_experts);
  // 1.1 * 1000 is 1100.0000000000002: rounding noise must not add a slot. Nor may a tiny factor
  // that rounds to 0 take the last one.
  return std::max(std::int64_t{1}, static_cast<std::int64_t>(std::ceil(exact * (1 - 1e-12))));
}

std::int64_t MoeLayer::rows() const {
  return capacity_factor ? num_experts * capacity() : top_k * tokens_per_rank;
}

std::int64_t MoeLayer::slots() const { return capacity_factor ? capacity() : rows(); }

std::vector<std::int64_t> MoeLayer::chunk_rows(std::int64_t pipeline_degree) const {
  const std::int64_t most = std::min(slots(), kMostDegree);
  if (pipeline_degree < 1 || pipeline_degree > most) {
    throw InputError(fmt::format("{}: pipeline degree is {}, must be 1..{} ({})", name,
                                 pipeline_degree, most,
                                 most < slots()    ? "the limit of any layer"
                                 : capacity_factor ? "the expert capacity"
                                                   : "the rows of a rank"));
  }
  const std::int64_t per_slot = rows_per_slot();
  const auto larger = static_cast<std::ptrdiff_t>(slots() % pipeline_degree);
  const std::int64_t fewest = slots() / pipeline_degree;
  std::vector<std::int64_t> rows(static_cast<std::size_t>(pipeline_degree), fewest * per_slot);
  std::fill_n(rows.begin(), larger, (fewest + 1) * per_slot);
  return rows;
}

GemmShapes MoeLayer::gemms(ProductKind kind, std::int64_t num_ranks) const {
  const std::int64_t groups = num_experts / num_ranks;
  const GemmShape first{groups, 0, first_width(*this), model_dim};
  const GemmShape second{groups, 0, model_dim, hidden_dim};
  const GemmShape second_input{groups, 0, hidden_dim, model_dim};
  const GemmShape first_input{groups, 0, model_dim, first_width(*this)};
  switch (kind) {
    case ProductKind::Forward:
      return {first, second};
    case ProductKind::InputGradient:
      return {second_input, first_input};
    case ProductKind::WeightGradient:
      return {second, first};
    case ProductKind::BothGradients:
      return {second_input, second, first_input, first};
  }
  throw std::logic_error("pipemoe bug: unknown kind of product");
}

Bytes MoeLayer::activation_bytes_per_row(ProductKind kind) const {
  const std::int64_t in = first_width(*this), out = hidden_dim;
  switch (kind) {
    case ProductKind::Forward:
      return {size_of(dtype) * (in + out)};
    case ProductKind::InputGradient:
    case ProductKind::BothGradients:  // reads the input and the output's gradient, writes the
                                      // input's
      return {size_of(dtype) * (2 * in + out)};
    case ProductKind::WeightGradient:
      return {0};
  }
  throw std::logic_error("pipemoe bug: unknown kind of product");
}

Bytes MoeLayer::layout_bytes_per_row(ProductKind kind, std::int64_t num_ranks) const {
  const bool same_order = num_ranks == 1 || num_experts == num_ranks;
  if (same_order || kind == ProductKind::WeightGradient) return {};
  return {4 * row_bytes().count};
}

Products MoeLayer::products(ProductKind kind, PerRank<std::int64_t> rows,
                            std::int64_t num_ranks) const {
  return {.kind = kind,
          .dtype = dtype,
          .activation = activation,
          .shapes = gemms(kind, num_ranks),
          .rows = std::move(rows),
          .activation_bytes_per_row = activation_bytes_per_row(kind),
          .layout_bytes_per_row = layout_bytes_per_row(kind, num_ranks)};
}

Bytes MoeLayer::memory_per_rank(std::int64_t num_ranks) const {
  const std::int64_t weights =
      num_experts / num_ranks * model_dim * (first_width(*this) + hidden_dim);
  // Before and after the activation, and the gradients of both; one layout copy.
  const std::int64_t hidden = 2 * first_width(*this) + 3 * hidden_dim;
  return {size_of(dtype) * (2 * weights + rows() * (11 * model_dim + hidden))};
}

void check_fits_ranks(const MoeLayer& layer, std::int64_t num_ranks) {
  if (layer.num_experts % num_ranks == 0) return;
  throw InputError(fmt::format("{}: num_experts is {}, must be a multiple of the {} ranks",
                               layer.name, layer.num_experts, num_ranks));
}

namespace {

constexpr std::int64_t kMaxTokens = std::int64_t{1} << 26;
constexpr std::int64_t kMaxTopK = 1024;
constexpr double kMaxCapacityFactor = 64;
constexpr double kMaxLayerBytes = 1e15;  // keeps every derived amount well inside 63 bits

// The later word of the user wins over the file's other way to say the same.
void keep_overridden_token_keys(ConfigFile& file) {
  if (file.overrides("tokens_per_rank")) {
    if (!file.overrides("batch_size")) file.erase("batch_size");
    if (!file.overrides("sequence_length")) file.erase("sequence_length");
  } else if (file.overrides("batch_size") || file.overrides("sequence_length")) {
    file.erase("tokens_per_rank");
  }
}

std::int64_t read_tokens(ConfigTable& table) {
  const bool direct = table.has("tokens_per_rank");
  const bool product = table.has("batch_size") || table.has("sequence_length");
  if (direct && product) {
    table.fail("tokens_per_rank", "and batch_size, sequence_length exclude each other");
  }
  if (direct) return table.integer("tokens_per_rank", 1, kMaxTokens);
  if (!product) table.fail("tokens_per_rank", "is missing (or batch_size and sequence_length)");
  const std::int64_t batch = table.integer("batch_size", 1, kMaxTokens);
  const std::int64_t length = table.integer("sequence_length", 1, kMaxTokens);
  if (batch * length > kMaxTokens) {
    table.fail("batch_size", fmt::format("times sequence_length is {}, must be 1..{}",
                                         batch * length, kMaxTokens));
  }
  return batch * length;
}

std::optional<double> read_capacity_factor(ConfigTable& table) {
  if (!table.is_text("capacity_factor")) {
    return table.number("capacity_factor", {0, kMaxCapacityFactor, true});
  }
  const std::string word = table.text("capacity_factor");
  if (word != "dropless") {
    table.fail("capacity_factor", fmt::format("is {}, must be a number or dropless", word));
  }
  return std::nullopt;
}

template <class Parse>
auto read_word(ConfigTable& table, const std::string& key, Parse parse) {
  const std::string word = table.text(key);
  try {
    return parse(word);
  } catch (const InputError& error) {
    table.fail(key, error.what());
  }
}

void check_size(ConfigTable& table, const MoeLayer& layer) {
  const double rows = static_cast<double>(layer.rows());
  const double widest = static_cast<double>(11 * layer.model_dim + 7 * layer.hidden_dim);
  if (rows * widest * 4 > kMaxLayerBytes) {
    table.fail(
        "model_dim",
        fmt::format("and the other sizes together need {:.3g} bytes a rank, at most {:.3g} allowed",
                    rows * widest * 4, kMaxLayerBytes));
  }
}

}  // namespace

MoeLayer read_layer(ConfigFile& file) {
  keep_overridden_token_keys(file);
  ConfigTable table = file.root();
  MoeLayer layer;
  layer.name = table.text("name");
  if (table.has("source")) table.text("source");
  layer.tokens_per_rank = read_tokens(table);
  layer.model_dim = table.integer("model_dim", 1, kMaxDim);
  layer.hidden_dim = table.integer("hidden_dim", 1, kMaxDim);
  layer.num_experts = table.integer("num_experts", 1, kMaxExperts);
  layer.top_k = table.integer("top_k", 1, kMaxTopK);
  if (layer.top_k > layer.num_experts) {
    table.fail("top_k",
               fmt::format("is {}, must be 1..num_experts ({})", layer.top_k, layer.num_experts));
  }
  layer.capacity_factor = read_capacity_factor(table);
  layer.dtype = read_word(table, "dtype", dtype_from);
  layer.activation = read_word(table, "activation", activation_from);
  table.finish();
  check_size(table, layer);
  return layer;
}

}  // namespace pipemoe
