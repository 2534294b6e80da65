// Test support: a random layer, and an iteration of it on the CPU kernels with all ranks in one
// process, where exchanges are copies.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/reference.hpp"
#include "models/schedule.hpp"

namespace pipemoe::test {

/// Draws normally distributed float64 values that fp32 represents exactly, so that kernels and
/// reference have the same input.
std::vector<double> draw(std::mt19937_64& random, std::int64_t count, double scale);
std::vector<float> to_floats(std::span<const double> values);
/// Returns a buffer of NaN: a test notices if a value is read before it is written.
std::vector<float> poisoned(std::int64_t count);

/// Returns ||a - b|| / ||b||, or ||a - b|| if ||b|| is below 1e-12. Returns infinity if a value is
/// NaN or if the sizes differ.
double relative_error(std::span<const float> a, std::span<const double> b);

/// How the layers of a test differ.
struct LayerVariant {
  Activation activation = Activation::Relu;
  bool biases = false;
  double auxiliary_loss_weight = 0;
  bool renormalize = true;
};
/// Returns a layer of 8 experts and 61 tokens a rank. With top-1 and a capacity factor of 1 an
/// expert has 8 slots: enough for degree 8.
kernels::ReferenceLayer varied_layer(std::int64_t model_dim, std::int64_t hidden_dim,
                                     std::int64_t ranks, std::int64_t top_k,
                                     std::optional<double> capacity, const LayerVariant& variant);

struct Problem {
  kernels::ReferenceLayer reference;
  kernels::ReferenceParameters parameters;
  std::vector<double> input;            ///< [num_ranks * tokens_per_rank, model_dim]
  std::vector<double> output_gradient;  ///< the same shape
  std::vector<std::int32_t> experts;    ///< the reference's routing, which no near tie decides
};
/// Draws a problem whose routing is skewed: most tokens choose expert 0, and none chooses expert 5,
/// if the layer has it and top_k leaves a choice.
Problem draw_problem(const kernels::ReferenceLayer& reference, bool biases, std::uint64_t seed);

struct LayerResult {
  std::vector<std::int32_t> experts;
  std::vector<float> output;
  std::vector<float> combine_weights;
  float auxiliary_loss = 0;  ///< summed over the ranks
  std::vector<float> input_gradient;
  std::vector<float> gate;  ///< gradient, summed over the ranks; the next four are gradients too
  std::vector<float> first;
  std::vector<float> first_bias;
  std::vector<float> second;
  std::vector<float> second_bias;

  bool operator==(const LayerResult&) const = default;
};
/// Runs forward and backward.
LayerResult run_layer(const Problem& problem, Degrees degrees);

struct ExpectedLayer {
  kernels::ReferenceForward forward;
  kernels::ReferenceBackward backward;
};
ExpectedLayer expected_layer(const Problem& problem);
/// Returns the relative error of every result but the auxiliary loss, with the result's name.
std::vector<std::pair<double, std::string>> errors_of(const LayerResult& result,
                                                      const ExpectedLayer& expected);
/// Returns the relative error of the auxiliary loss.
double loss_error(const LayerResult& result, const ExpectedLayer& expected);

}  // namespace pipemoe::test
