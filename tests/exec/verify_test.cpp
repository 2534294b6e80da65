#include "exec/verify.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>

#include "models/error.hpp"
#include "tests/exec/executed_layer.hpp"
#include "tests/support/random_runs.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;

namespace {

const DataOptions kData{.auxiliary_loss_weight = 0.1};

LayerResults good_results() {
  const auto group = single_process();
  return execute_layer(prime_layer(2, 1.25), "pipemoe", {3, 2}, kData, *group).results;
}

std::map<std::string, double> errors_of(const LayerResults& results,
                                        const DataOptions& data = kData) {
  const auto group = single_process();
  std::map<std::string, double> errors;
  for (const auto& error : verify(prime_layer(2, 1.25), data, results, *group)) {
    errors[error.tensor] = error.relative_error;
  }
  return errors;
}

const std::map<std::string, std::vector<float> LayerResults::*> kTensors{
    {"output", &LayerResults::output},
    {"input gradient", &LayerResults::input_gradient},
    {"gate gradient", &LayerResults::gate_gradient},
    {"first weight gradient", &LayerResults::first_gradient},
    {"first bias gradient", &LayerResults::first_bias_gradient},
    {"second weight gradient", &LayerResults::second_gradient},
    {"second bias gradient", &LayerResults::second_bias_gradient}};

}  // namespace

TEST_CASE("verify compares every tensor", "[exec][verify]") {
  const auto errors = errors_of(good_results());
  REQUIRE(errors.size() == kTensors.size());
  for (const auto& [tensor, error] : errors) {
    CAPTURE(tensor);
    CHECK(kTensors.count(tensor) == 1);
    CHECK(error > 0);
    CHECK(error <= kTolerance);
  }
}

TEST_CASE("verify reports one changed number in its tensor and in no other", "[exec][verify]") {
  const LayerResults good = good_results();
  for (const auto& [changed, tensor] : kTensors) {
    // The largest number 1 % larger: at least 0.01 / sqrt(size) of the norm.
    LayerResults bad = good;
    auto& values = bad.*tensor;
    auto largest = std::max_element(values.begin(), values.end(),
                                    [](float a, float b) { return std::abs(a) < std::abs(b); });
    *largest *= 1.01F;
    const double least = 0.009 / std::sqrt(static_cast<double>(values.size()));
    for (const auto& [name, error] : errors_of(bad)) {
      CAPTURE(changed, name);
      if (name == changed) {
        CHECK(error >= least);
        CHECK(error > kTolerance);
      } else {
        CHECK(error <= kTolerance);
      }
    }
  }
}

TEST_CASE("verify reports a number that nobody wrote", "[exec][verify]") {
  for (const auto& [name, tensor] : kTensors) {
    LayerResults bad = good_results();
    (bad.*tensor).back() = std::numeric_limits<float>::quiet_NaN();
    CHECK(std::isinf(errors_of(bad).at(name)));
  }
}

TEST_CASE("verify reports swapped tokens", "[exec][verify]") {
  LayerResults bad = good_results();
  std::swap_ranges(bad.output.begin(), bad.output.begin() + 12, bad.output.begin() + 12);
  CHECK(errors_of(bad).at("output") > 1e-2);
}

TEST_CASE("verify refuses another routing than the reference's", "[exec][verify]") {
  LayerResults bad = good_results();
  std::swap(bad.experts[0], bad.experts[1]);
  CHECK_THROWS_AS(errors_of(bad), RunError);
  CHECK_THROWS_WITH(errors_of(bad), Catch::Contains("routing differs"));
}

TEST_CASE("verify knows what was asked for", "[exec][verify]") {
  const LayerResults results = good_results();
  DataOptions without = kData;
  without.auxiliary_loss_weight = 0;
  CHECK(errors_of(results, without).at("gate gradient") > kTolerance);
  DataOptions other = kData;
  other.seed = 99;
  CHECK_THROWS_AS(errors_of(results, other), RunError);  // other tokens, other routing
}

TEST_CASE("random layers in random chunks equal the float64 reference", "[exec][verify][random]") {
  const auto group = single_process();
  check_random_runs(test_runs(600), *group);
}

TEST_CASE("a layer without biases has none to verify", "[exec][verify]") {
  const auto group = single_process();
  const DataOptions data{.biases = false};
  const MoeLayer layer = prime_layer(2, 1.25);
  const auto results = execute_layer(layer, "pipemoe", {1, 1}, data, *group).results;
  std::map<std::string, double> errors;
  for (const auto& error : verify(layer, data, results, *group)) {
    errors[error.tensor] = error.relative_error;
  }
  CHECK(errors.size() == 5);
  CHECK(errors.count("first bias gradient") == 0);
  CHECK(errors.count("second bias gradient") == 0);
}
