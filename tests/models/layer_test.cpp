#include "models/layer.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <sstream>

#include "models/config.hpp"
#include "models/error.hpp"
#include "models/files.hpp"
#include "models/limits.hpp"
#include "tests/support/random_layers.hpp"

namespace pipemoe::layer_test {

using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using Catch::Matchers::StartsWith;

namespace {

constexpr const char* kLayer =
    "name = 'good'\ntokens_per_rank = 100\nmodel_dim = 8\nhidden_dim = 16\nnum_experts = 4\n"
    "top_k = 2\ncapacity_factor = 1.0\ndtype = 'fp32'\nactivation = 'relu'\n";

MoeLayer read(std::string_view text, std::vector<Override> overrides = {}) {
  ConfigFile file = ConfigFile::parse(text, "a.toml", "layer", std::move(overrides));
  return read_layer(file);
}

// kLayer with `key` set to `value`.
MoeLayer read_with(const std::string& key, const std::string& value) {
  return read(kLayer, {{key, value}});
}

std::string without_line(std::string text, const std::string& key) {
  const auto at = text.find(key + " =");
  REQUIRE(at != std::string::npos);
  return text.erase(at, text.find('\n', at) + 1 - at);
}

// The number that a layer file's own text gives a key, read without the TOML reader; else 1.
std::int64_t written(const std::string& text, const std::string& key) {
  const auto at = text.find("\n" + key + " = ");
  return at == std::string::npos ? 1 : std::stoll(text.substr(at + key.size() + 4));
}

// Two local experts on each of two ranks.
MoeLayer small_layer(Activation activation, Dtype dtype) {
  return {.tokens_per_rank = 7,
          .model_dim = 3,
          .hidden_dim = 5,
          .num_experts = 4,
          .top_k = 1,
          .dtype = dtype,
          .activation = activation};
}

std::int64_t random_degree(std::mt19937_64& random, const MoeLayer& layer) {
  return std::uniform_int_distribution<std::int64_t>(1,
                                                     std::min(layer.slots(), kMostDegree))(random);
}

}  // namespace

TEST_CASE("capacity is rounded up", "[models][layer]") {
  MoeLayer layer{.tokens_per_rank = 1000, .num_experts = 8, .top_k = 2};
  CHECK(layer.capacity() == 250);  // 2 * 1000 / 8
  CHECK(layer.rows() == 2000);
  layer.capacity_factor = 1.25;  // 312.5
  CHECK(layer.capacity() == 313);
  CHECK(layer.rows() == 2504);
  CHECK(layer.slots() == 313);
  CHECK(layer.rows_per_slot() == 8);
}

TEST_CASE("rounding noise adds no capacity slot", "[models][layer]") {
  // In floating point 1.1 * 1000 is 1100.0000000000002.
  const MoeLayer layer{
      .tokens_per_rank = 1000, .num_experts = 1, .top_k = 1, .capacity_factor = 1.1};
  CHECK(layer.capacity() == 1100);
}

TEST_CASE("capacity equals integer arithmetic on tenths", "[models][layer]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) {
    MoeLayer layer = random_layer(random, 4);
    const std::int64_t tenths = std::uniform_int_distribution<std::int64_t>(1, 640)(random);
    layer.capacity_factor = static_cast<double>(tenths) / 10;
    CAPTURE(i, tenths, layer.tokens_per_rank, layer.top_k, layer.num_experts);
    const std::int64_t divisor = 10 * layer.num_experts;
    const std::int64_t dividend = layer.top_k * tenths * layer.tokens_per_rank;
    REQUIRE(layer.capacity() == (dividend + divisor - 1) / divisor);
  }
}

TEST_CASE("a dropless layer has the rows that routing makes, each a slot", "[models][layer]") {
  const MoeLayer layer{
      .tokens_per_rank = 1001, .num_experts = 8, .top_k = 3, .capacity_factor = {}};
  CHECK(layer.rows() == 3003);
  CHECK(layer.slots() == 3003);
  CHECK(layer.rows_per_slot() == 1);
  CHECK_THROWS_AS(layer.capacity(), std::logic_error);
}

TEST_CASE("exchanged bytes follow rows, width and element size", "[models][layer]") {
  MoeLayer layer{.tokens_per_rank = 100, .model_dim = 8, .num_experts = 4, .top_k = 2};
  CHECK(layer.row_bytes() == Bytes{32});
  CHECK(layer.all_to_all_bytes() == Bytes{200 * 32});
  layer.dtype = Dtype::Bf16;
  CHECK(layer.all_to_all_bytes() == Bytes{200 * 16});
  layer.dtype = Dtype::Fp16;
  CHECK(layer.all_to_all_bytes() == Bytes{200 * 16});
}

TEST_CASE("larger chunks come first and hold one slot more", "[models][layer]") {
  // 7 tokens for each of 4 experts: a capacity of 7, so slots of 4 rows; 7 = 3 + 2 + 2.
  const MoeLayer layer{.tokens_per_rank = 28, .num_experts = 4, .top_k = 1};
  CHECK(layer.chunk_rows(3) == std::vector<std::int64_t>{12, 8, 8});
  CHECK(layer.chunk_rows(1) == std::vector<std::int64_t>{28});
  CHECK(layer.chunk_rows(7) == std::vector<std::int64_t>(7, 4));
}

TEST_CASE("chunks of any layer conserve its rows and differ by a slot at most", "[models][layer]") {
  std::mt19937_64 random(2);
  for (int i = 0; i < 500; ++i) {
    const MoeLayer layer = random_layer(random, 16);
    const std::int64_t degree = random_degree(random, layer);
    CAPTURE(i, degree, layer.rows(), layer.slots());
    const auto rows = layer.chunk_rows(degree);
    REQUIRE(static_cast<std::int64_t>(rows.size()) == degree);
    REQUIRE(std::accumulate(rows.begin(), rows.end(), std::int64_t{0}) == layer.rows());
    const auto [least, most] = std::minmax_element(rows.begin(), rows.end());
    REQUIRE(*least >= 1);
    REQUIRE(*most - *least <= layer.rows_per_slot());
  }
}

TEST_CASE("a degree outside 1..slots is refused", "[models][layer]") {
  MoeLayer layer{.tokens_per_rank = 28, .num_experts = 4, .top_k = 1};
  CHECK_THROWS_AS(layer.chunk_rows(0), InputError);
  CHECK_THROWS_AS(layer.chunk_rows(-1), InputError);
  CHECK_THROWS_WITH(layer.chunk_rows(8),
                    Equals("layer: pipeline degree is 8, must be 1..7 (the expert capacity)"));
  layer.capacity_factor.reset();
  CHECK_THROWS_WITH(layer.chunk_rows(29),
                    Equals("layer: pipeline degree is 29, must be 1..28 (the rows of a rank)"));
}

TEST_CASE("an expert's matrix products", "[models][layer]") {
  const MoeLayer layer = small_layer(Activation::Relu, Dtype::Fp32);
  // groups, no rows, n, k: up is 3 -> 5, down 5 -> 3; gradients of inputs transpose them.
  const GemmShape up{2, 0, 5, 3}, down{2, 0, 3, 5};
  const GemmShape down_input{2, 0, 5, 3}, up_input{2, 0, 3, 5};
  CHECK(layer.gemms(ProductKind::Forward, 2) == GemmShapes{up, down});
  CHECK(layer.gemms(ProductKind::InputGradient, 2) == GemmShapes{down_input, up_input});
  CHECK(layer.gemms(ProductKind::WeightGradient, 2) == GemmShapes{down, up});
  CHECK(layer.gemms(ProductKind::BothGradients, 2) == GemmShapes{down_input, down, up_input, up});
  CHECK(GemmShape{2, 7, 5, 3}.flops().count == 210);  // 2 * 7 * 5 * 3
}

TEST_CASE("SwiGLU's first matrix is twice as wide", "[models][layer]") {
  const MoeLayer layer = small_layer(Activation::SwiGlu, Dtype::Fp32);
  const GemmShape up{2, 0, 10, 3}, down{2, 0, 3, 5}, up_input{2, 0, 3, 10};
  CHECK(layer.gemms(ProductKind::Forward, 2) == GemmShapes{up, down});
  CHECK(layer.gemms(ProductKind::InputGradient, 2)[1] == up_input);
  // 7 rows: 2*7*10*3 + 2*7*5*3.
  CHECK(layer.products(ProductKind::Forward, 7, 2).flops() == Flops{630});
}

TEST_CASE("each gradient costs the forward's flops, both together twice", "[models][layer]") {
  std::mt19937_64 random(3);
  for (int i = 0; i < 200; ++i) {
    const MoeLayer layer = random_layer(random, 4);
    CAPTURE(i, to_string(layer.activation), layer.model_dim, layer.hidden_dim);
    const auto total = [&](ProductKind kind) {
      return layer.products(kind, layer.rows(), 4).flops().count;
    };
    const double matrices = layer.activation == Activation::SwiGlu ? 3 : 2;
    REQUIRE(total(ProductKind::Forward) ==
            2 * matrices * static_cast<double>(layer.rows()) *
                static_cast<double>(layer.model_dim * layer.hidden_dim));
    REQUIRE(total(ProductKind::InputGradient) == total(ProductKind::Forward));
    REQUIRE(total(ProductKind::WeightGradient) == total(ProductKind::Forward));
    REQUIRE(total(ProductKind::BothGradients) ==
            total(ProductKind::InputGradient) + total(ProductKind::WeightGradient));
  }
}

TEST_CASE("the activation function reads and writes its rows", "[models][layer]") {
  const MoeLayer relu = small_layer(Activation::Relu, Dtype::Fp32);
  CHECK(relu.activation_bytes_per_row(ProductKind::Forward) == Bytes{4 * (5 + 5)});
  // The saved input and the output's gradient in, the input's gradient out.
  CHECK(relu.activation_bytes_per_row(ProductKind::InputGradient) == Bytes{4 * (5 + 5 + 5)});
  CHECK(relu.activation_bytes_per_row(ProductKind::BothGradients) == Bytes{4 * (5 + 5 + 5)});
  CHECK(relu.activation_bytes_per_row(ProductKind::WeightGradient) == Bytes{0});
  const MoeLayer swiglu = small_layer(Activation::SwiGlu, Dtype::Bf16);
  CHECK(swiglu.activation_bytes_per_row(ProductKind::Forward) == Bytes{2 * (10 + 5)});
  CHECK(swiglu.activation_bytes_per_row(ProductKind::BothGradients) == Bytes{2 * (10 + 5 + 10)});
}

TEST_CASE("memory is weights, gradients and row buffers", "[models][layer]") {
  // One fp32 expert a rank: 4 * (2 * 2*M*H + T * (11*M + 5*H)).
  MoeLayer layer{
      .tokens_per_rank = 50, .model_dim = 8, .hidden_dim = 16, .num_experts = 4, .top_k = 2};
  CHECK(layer.memory_per_rank(4) == Bytes{4 * (2 * 2 * 8 * 16 + 100 * (11 * 8 + 5 * 16))});
  CHECK(layer.memory_per_rank(4) == Bytes{69248});
  // Two experts a rank double the weights only.
  CHECK(layer.memory_per_rank(2) == Bytes{69248 + 4 * 2 * 2 * 8 * 16});
  // 4 * (4 * 2^24 + 2^14 * 16 * 2^12).
  CHECK(shipped_layer("pipemoe-example").memory_per_rank(64) == Bytes{4'563'402'752});
}

TEST_CASE("experts must divide over the ranks", "[models][layer]") {
  const MoeLayer layer{.name = "odd", .num_experts = 6};
  CHECK_NOTHROW(check_fits_ranks(layer, 3));
  CHECK_THROWS_AS(check_fits_ranks(layer, 12), InputError);
  CHECK_THROWS_WITH(check_fits_ranks(layer, 4),
                    Equals("odd: num_experts is 6, must be a multiple of the 4 ranks"));
}

TEST_CASE("every shipped layer has the sizes in its text", "[models][layer]") {
  const std::filesystem::path folder = std::string(PIPEMOE_SOURCE_DIR) + "/experiments/layers";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    CAPTURE(entry.path().string());
    const std::string text = read_file(entry.path(), "layer");
    const MoeLayer layer = shipped_layer(entry.path().stem().string());
    CHECK(layer.tokens_per_rank == written(text, "tokens_per_rank") * written(text, "batch_size") *
                                       written(text, "sequence_length"));
    CHECK(layer.model_dim == written(text, "model_dim"));
    CHECK(layer.hidden_dim == written(text, "hidden_dim"));
    CHECK(layer.num_experts == written(text, "num_experts"));
    CHECK(layer.top_k == written(text, "top_k"));
    CHECK_THAT(text, Contains("\ndtype = \"" + to_string(layer.dtype) + "\""));
    CHECK_THAT(text, Contains("\nactivation = \"" + to_string(layer.activation) + "\""));
    CHECK(layer.name == entry.path().stem().string());
    ++files;
  }
  CHECK(files >= 6);
}

TEST_CASE("the authors' example layer", "[models][layer]") {
  const MoeLayer layer = shipped_layer("pipemoe-example");
  CHECK(layer.tokens_per_rank == 8192);
  CHECK(layer.capacity() == 256);  // 2 * 8192 / 64
  CHECK(layer.all_to_all_bytes() == Bytes{std::int64_t{16384} * 4096 * 4});
}

TEST_CASE("a layer file is read whole", "[models][layer]") {
  const MoeLayer expected{.name = "good",
                          .tokens_per_rank = 100,
                          .model_dim = 8,
                          .hidden_dim = 16,
                          .num_experts = 4,
                          .top_k = 2,
                          .capacity_factor = 1.0,
                          .dtype = Dtype::Fp32,
                          .activation = Activation::Relu};
  CHECK(read(kLayer) == expected);
  CHECK(read_with("dtype", "bf16").dtype == Dtype::Bf16);
  CHECK(read_with("activation", "swiglu").activation == Activation::SwiGlu);
  CHECK(read_with("capacity_factor", "2").capacity_factor == 2.0);
  CHECK_FALSE(read_with("capacity_factor", "dropless").capacity_factor.has_value());
}

TEST_CASE("a layer file without one of its keys is refused", "[models][layer]") {
  for (const char* key : {"name", "tokens_per_rank", "model_dim", "hidden_dim", "num_experts",
                          "top_k", "capacity_factor", "dtype", "activation"}) {
    CAPTURE(key);
    CHECK_THROWS_WITH(read(without_line(kLayer, key)),
                      StartsWith("a.toml: " + std::string(key) + " is missing"));
  }
}

TEST_CASE("impossible layers are refused, naming key and value", "[models][layer]") {
  CHECK_THROWS_WITH(read_with("top_k", "9"),
                    Equals("--set layer.top_k=9: top_k is 9, must be 1..num_experts (4)"));
  CHECK_THROWS_WITH(read_with("dtype", "fp8"), Contains("dtype is fp8, must be one of fp32"));
  CHECK_THROWS_WITH(read_with("activation", "tanh"), Contains("activation is tanh"));
  CHECK_THROWS_WITH(read_with("capacity_factor", "dropful"),
                    Contains("capacity_factor is dropful, must be a number or dropless"));
  CHECK_THROWS_WITH(read_with("typo", "1"), Contains("typo is an unknown key"));
  for (const char* key : {"tokens_per_rank", "model_dim", "hidden_dim", "num_experts", "top_k"}) {
    for (const char* value : {"0", "-1", "1000000000000", "1.5", "nan", "'8'"}) {
      CAPTURE(key, value);
      CHECK_THROWS_WITH(read_with(key, value), Contains(std::string(key) + " is "));
    }
  }
  for (const char* factor : {"0", "-1.0", "65", "nan", "inf"}) {
    CAPTURE(factor);
    CHECK_THROWS_AS(read_with("capacity_factor", factor), InputError);
  }
}

TEST_CASE("a layer whose sizes multiply beyond reason is refused", "[models][layer]") {
  // 2^26 tokens * 2^17 wide in fp32 * 11 buffers: 3.9e14 bytes before hidden buffers and top_k.
  CHECK_THROWS_AS(
      read(kLayer,
           {{"tokens_per_rank", "67108864"}, {"model_dim", "131072"}, {"hidden_dim", "131072"}}),
      InputError);
}

TEST_CASE("tokens are given one way", "[models][layer]") {
  const std::string text = without_line(kLayer, "tokens_per_rank");
  CHECK(read(text + "batch_size = 4\nsequence_length = 512\n").tokens_per_rank == 2048);
  CHECK_THROWS_WITH(read(text + "batch_size = 4\n"), Contains("sequence_length is missing"));
  CHECK_THROWS_WITH(read(text + "sequence_length = 4\n"), Contains("batch_size is missing"));
  CHECK_THROWS_WITH(read(kLayer + std::string("batch_size = 4\nsequence_length = 512\n")),
                    Contains("exclude each other"));
  CHECK_THROWS_AS(read(text + "batch_size = 67108864\nsequence_length = 67108864\n"), InputError);
}

TEST_CASE("an override of one way to give tokens replaces the other", "[models][layer]") {
  CHECK(read(kLayer, {{"batch_size", "2"}, {"sequence_length", "8"}}).tokens_per_rank == 16);
  const std::string product =
      without_line(kLayer, "tokens_per_rank") + "batch_size = 4\nsequence_length = 512\n";
  CHECK(read(product, {{"tokens_per_rank", "7"}}).tokens_per_rank == 7);
  CHECK(read(product, {{"batch_size", "2"}}).tokens_per_rank == 1024);
  CHECK_THROWS_AS(read(product, {{"tokens_per_rank", "7"}, {"batch_size", "2"}}), InputError);
}

TEST_CASE("packing by expert and back moves each row four times", "[models][layer]") {
  const MoeLayer layer{.tokens_per_rank = 8, .model_dim = 3, .hidden_dim = 5, .num_experts = 8};
  // A row of 3 fp32 numbers, read and written before the experts and after them.
  for (const ProductKind kind :
       {ProductKind::Forward, ProductKind::BothGradients, ProductKind::InputGradient}) {
    CHECK(layer.layout_bytes_per_row(kind, 4) == Bytes{4 * 3 * 4});
  }
  CHECK(layer.layout_bytes_per_row(ProductKind::WeightGradient, 4) == Bytes{0});
  // One rank, or one expert a rank: received order is packed order.
  CHECK(layer.layout_bytes_per_row(ProductKind::Forward, 1) == Bytes{0});
  CHECK(layer.layout_bytes_per_row(ProductKind::Forward, 8) == Bytes{0});
}

TEST_CASE("an expert's work holds shapes, rows and traffic a row", "[models][layer]") {
  const MoeLayer layer = small_layer(Activation::SwiGlu, Dtype::Bf16);
  const Products products = layer.products(ProductKind::Forward, 7, 2);
  CHECK(products.kind == ProductKind::Forward);
  CHECK(products.dtype == Dtype::Bf16);
  CHECK(products.activation == Activation::SwiGlu);
  CHECK(products.shapes == layer.gemms(ProductKind::Forward, 2));
  CHECK(products.gemms() == GemmShapes{{2, 7, 10, 3}, {2, 7, 3, 5}});
  CHECK(products.activation_bytes() == Bytes{7 * 2 * (10 + 5)});
  CHECK(products.layout_bytes() == Bytes{7 * 4 * 3 * 2});
  for (const ProductKind kind : {ProductKind::Forward, ProductKind::InputGradient,
                                 ProductKind::WeightGradient, ProductKind::BothGradients}) {
    CAPTURE(to_string(kind));
    CHECK(layer.products(kind, 7, 2).expert_sizes() == layer.expert_sizes(2));
  }
}

}  // namespace pipemoe::layer_test
