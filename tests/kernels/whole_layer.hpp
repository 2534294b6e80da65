// The whole layer on the kernels, all ranks in one process: exchanges are copies of blocks.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "kernels/reference.hpp"
#include "models/schedule.hpp"

namespace pipemoe::test {

/// float64 values that fp32 holds exactly, so that kernels and reference start from the same.
std::vector<double> draw(std::mt19937_64& random, std::int64_t count, double scale);
std::vector<float> to_floats(std::span<const double> values);
/// A buffer whose every value must be written before it is read.
std::vector<float> poisoned(std::int64_t count);

/// ||a - b|| / ||b||; the absolute error where b is nothing but rounding (below 1e-12). NaN counts
/// as infinite.
double relative_error(std::span<const float> a, std::span<const double> b);

struct Problem {
  kernels::ReferenceLayer reference;
  kernels::ReferenceParameters parameters;
  std::vector<double> input;            ///< [num_ranks * tokens_per_rank, model_dim]
  std::vector<double> output_gradient;  ///< the same
  std::vector<std::int32_t> experts;    ///< the reference's routing; no near tie decides it
};
/// Expert 0 is everyone's favourite and expert 5, where there is one, is chosen by nobody as long
/// as top_k leaves a choice.
Problem draw_problem(const kernels::ReferenceLayer& reference, bool biases, std::uint64_t seed);

struct LayerResult {
  std::vector<std::int32_t> experts;
  std::vector<float> output;
  std::vector<float> combine_weights;
  float auxiliary_loss = 0;  ///< summed over the ranks
  std::vector<float> input_gradient;
  std::vector<float> gate;  ///< gradients, from here on; the gate's summed over the ranks
  std::vector<float> first;
  std::vector<float> first_bias;
  std::vector<float> second;
  std::vector<float> second_bias;

  bool operator==(const LayerResult&) const = default;
};
LayerResult run_layer(const Problem& problem, Degrees degrees);

}  // namespace pipemoe::test
