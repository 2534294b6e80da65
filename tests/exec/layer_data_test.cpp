#include "exec/layer_data.hpp"

#include <catch2/catch.hpp>
#include <cmath>

#include "tests/exec/executed_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;

namespace {

using Floats = std::vector<float>;

Floats joined(int ranks, const DataOptions& options, Floats LayerData::*tensor) {
  Floats all;
  for (int rank = 0; rank < ranks; ++rank) {
    const LayerData data = draw_data(prime_layer(2, 1.0), ranks, rank, options);
    all.insert(all.end(), (data.*tensor).begin(), (data.*tensor).end());
  }
  return all;
}

const std::vector<Floats LayerData::*> kExpertTensors{&LayerData::first, &LayerData::first_bias,
                                                      &LayerData::second, &LayerData::second_bias};

double mean_square(const Floats& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum / static_cast<double>(values.size());
}

}  // namespace

TEST_CASE("experts and gate are the same whatever the number of ranks", "[exec][data]") {
  for (const auto tensor : kExpertTensors) {
    const Floats alone = joined(1, {}, tensor);
    REQUIRE_FALSE(alone.empty());
    for (const int ranks : {2, 4, 8}) CHECK(joined(ranks, {}, tensor) == alone);
  }
  const LayerData alone = draw_data(prime_layer(2, 1.0), 1, 0, {});
  for (const int rank : {0, 1, 2, 3}) {
    CHECK(draw_data(prime_layer(2, 1.0), 4, rank, {}).gate == alone.gate);
  }
}

TEST_CASE("a rank's tokens depend on its number alone", "[exec][data]") {
  const LayerData of_two = draw_data(prime_layer(2, 1.0), 2, 1, {});
  const LayerData of_four = draw_data(prime_layer(2, 1.0), 4, 1, {});
  CHECK(of_two.input == of_four.input);
  CHECK(of_two.output_gradient == of_four.output_gradient);
  const LayerData other = draw_data(prime_layer(2, 1.0), 4, 2, {});
  CHECK(other.input != of_four.input);
  CHECK(other.output_gradient != of_four.output_gradient);
}

TEST_CASE("another seed draws other numbers", "[exec][data]") {
  for (const std::uint64_t seed : {std::uint64_t{2}, (std::uint64_t{1} << 32) + 1}) {
    const LayerData one = draw_data(prime_layer(2, 1.0), 1, 0, {.seed = 1});
    const LayerData other = draw_data(prime_layer(2, 1.0), 1, 0, {.seed = seed});
    for (const auto tensor :
         {&LayerData::input, &LayerData::output_gradient, &LayerData::gate, &LayerData::first,
          &LayerData::first_bias, &LayerData::second, &LayerData::second_bias}) {
      REQUIRE((one.*tensor).size() == (other.*tensor).size());
      CHECK((one.*tensor)[0] != (other.*tensor)[0]);
      CHECK(one.*tensor != other.*tensor);
    }
  }
}

TEST_CASE("tensors have the layer's shapes and the scales that keep outputs even", "[exec][data]") {
  // SwiGLU's first projection is twice as wide. 61 tokens, 12 wide; 8 experts of 10 on 2 ranks.
  const LayerData data = draw_data(prime_layer(2, 1.0, Activation::SwiGlu), 2, 1, {});
  CHECK(data.input.size() == 61 * 12);
  CHECK(data.gate.size() == 8 * 12);
  CHECK(data.first.size() == 4 * 12 * 20);
  CHECK(data.first_bias.size() == 4 * 20);
  CHECK(data.second.size() == 4 * 10 * 12);
  CHECK(data.second_bias.size() == 4 * 12);
  // Variances 1, 1/model_dim and 1/hidden_dim; of n numbers within sqrt(2 / n) * 4 of it.
  CHECK(mean_square(data.input) == Approx(1.0).epsilon(4 * std::sqrt(2.0 / 732)));
  CHECK(mean_square(data.first) == Approx(1.0 / 12).epsilon(4 * std::sqrt(2.0 / 960)));
  CHECK(mean_square(data.second) == Approx(1.0 / 10).epsilon(4 * std::sqrt(2.0 / 480)));
}

TEST_CASE("biases are drawn only when asked for, and change nothing else", "[exec][data]") {
  const LayerData with = draw_data(prime_layer(2, 1.0), 2, 1, {.biases = true});
  const LayerData without = draw_data(prime_layer(2, 1.0), 2, 1, {.biases = false});
  CHECK(without.first_bias.empty());
  CHECK(without.second_bias.empty());
  CHECK(with.first == without.first);
  CHECK(with.second == without.second);
}

TEST_CASE("skew adds itself to every token's score of expert 0", "[exec][data]") {
  const LayerData even = draw_data(prime_layer(2, 1.0), 1, 0, {});
  const LayerData skewed = draw_data(prime_layer(2, 1.0), 1, 0, {.skew = 3});
  CHECK(skewed.gate[0] == even.gate[0] + 3);
  CHECK(Floats(skewed.gate.begin() + 1, skewed.gate.end()) ==
        Floats(even.gate.begin() + 1, even.gate.end()));
  for (std::size_t token = 0; token < 61; ++token) {
    CHECK(skewed.input[token * 12] == 1);
    CHECK(skewed.input[token * 12 + 1] == even.input[token * 12 + 1]);
  }
}
