#include "exec/verify.hpp"

#include <fmt/core.h>

#include <cmath>
#include <limits>
#include <utility>

#include "kernels/reference.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

using Doubles = std::vector<double>;

void append(const std::vector<float>& from, Doubles& to) {
  to.insert(to.end(), from.begin(), from.end());
}

// The numbers of all ranks, drawn again.
struct Everything {
  kernels::ReferenceParameters parameters;
  Doubles input, output_gradient;
};

Everything draw_everything(const MoeLayer& layer, const DataOptions& options, int num_ranks) {
  Everything all;
  for (int rank = 0; rank < num_ranks; ++rank) {
    const LayerData data = draw_data(layer, num_ranks, rank, options);
    append(data.input, all.input);
    append(data.output_gradient, all.output_gradient);
    if (rank == 0) append(data.gate, all.parameters.gate);
    append(data.first, all.parameters.first);
    append(data.first_bias, all.parameters.first_bias);
    append(data.second, all.parameters.second);
    append(data.second_bias, all.parameters.second_bias);
  }
  return all;
}

Doubles joined(ProcessGroup& group, const std::vector<float>& mine) {
  Doubles all;
  for (const auto& of_rank : all_gather(group, mine)) append(of_rank, all);
  return all;
}

Doubles summed(ProcessGroup& group, const std::vector<float>& mine) {
  Doubles sum(mine.size(), 0);
  for (const auto& of_rank : all_gather(group, mine)) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(of_rank[i]);
  }
  return sum;
}

double relative_error(const Doubles& a, const Doubles& b) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (a.size() != b.size()) return kInfinity;
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  if (std::isnan(error)) return kInfinity;
  return norm < 1e-24 ? std::sqrt(error) : std::sqrt(error / norm);
}

// The ranks' routing must equal the reference's unless two probabilities are nearly equal.
void check_routing(const kernels::ReferenceLayer& reference, const Everything& all,
                   const std::vector<std::int32_t>& experts) {
  double gap = 0;
  const auto expected = kernels::reference_routing(reference, all.parameters, all.input, &gap);
  if (experts != expected && gap > 1e-6) {
    throw RunError(fmt::format(
        "routing differs from the reference though no two probabilities are within {:.1e}", gap));
  }
}

}  // namespace

double tolerance(Dtype dtype) { return dtype == Dtype::Fp32 ? 1e-5 : 1e-2; }

std::vector<TensorError> verify(const MoeLayer& layer, const DataOptions& options,
                                const LayerResults& results, ProcessGroup& group) {
  std::vector<std::int32_t> experts;
  for (const auto& of_rank : all_gather(group, results.experts)) {
    experts.insert(experts.end(), of_rank.begin(), of_rank.end());
  }
  std::vector<std::pair<std::string, Doubles>> tensors{
      {"output", joined(group, results.output)},
      {"input gradient", joined(group, results.input_gradient)},
      {"gate gradient", summed(group, results.gate_gradient)},
      {"first weight gradient", joined(group, results.first_gradient)},
      {"first bias gradient", joined(group, results.first_bias_gradient)},
      {"second weight gradient", joined(group, results.second_gradient)},
      {"second bias gradient", joined(group, results.second_bias_gradient)}};
  if (group.rank() != 0) return {};

  const Everything all = draw_everything(layer, options, group.size());
  const kernels::ReferenceLayer reference{layer, group.size(), /*renormalize=*/true,
                                          options.auxiliary_loss_weight};
  check_routing(reference, all, experts);
  const auto forward = reference_forward(reference, all.parameters, all.input, experts);
  const auto backward =
      reference_backward(reference, all.parameters, all.input, experts, all.output_gradient);
  const kernels::ReferenceParameters& gradients = backward.parameters;
  const std::vector<const Doubles*> expected{
      &forward.output,       &backward.input,   &gradients.gate,       &gradients.first,
      &gradients.first_bias, &gradients.second, &gradients.second_bias};
  std::vector<TensorError> errors;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (expected[i]->empty() && tensors[i].second.empty()) continue;  // no biases
    errors.push_back({tensors[i].first, relative_error(tensors[i].second, *expected[i])});
  }
  return errors;
}

}  // namespace pipemoe::exec
