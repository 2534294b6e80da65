#include "kernels/experts.hpp"

#include <numbers>

#include "kernels/cpu_math.hpp"
#include "kernels/permute.hpp"

namespace pipemoe::kernels {
namespace {

constexpr float kSqrtHalf = 0.70710678118654752f;
constexpr float kDensityAt0 =
    std::numbers::inv_sqrtpi_v<float> * kSqrtHalf;  // the normal density at 0

inline float sigmoid(float x) { return 1 / (1 + fast_exp(-x)); }
inline float normal_cdf(float x) { return 0.5f + 0.5f * fast_erf(x * kSqrtHalf); }
inline float gelu_derivative(float x) {
  return normal_cdf(x) + x * kDensityAt0 * fast_exp(-0.5f * x * x);
}

void swiglu(std::int64_t n, const float* gate, float* out) {
  const float* up = gate + n;
  for (std::int64_t i = 0; i < n; ++i) out[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

void swiglu_backward(std::int64_t n, const float* gate, const float* gradient, float* to) {
  const float* up = gate + n;
  for (std::int64_t i = 0; i < n; ++i) {
    const float s = sigmoid(gate[i]), silu = gate[i] * s;
    to[i] = gradient[i] * up[i] * (s + silu * (1 - s));
    to[n + i] = gradient[i] * silu;
  }
}

// One expert: finds its part of a buffer in packed order, and of a buffer of weights.
struct LocalExpert {
  std::int64_t index;
  std::int64_t first_row;
  std::int64_t rows;

  template <class T>
  std::span<T> of_rows(std::span<T> buffer, std::int64_t width) const {
    return rows_of(buffer, first_row, rows, width);
  }
  template <class T>
  std::span<T> of_weights(std::span<T> buffer, std::int64_t size) const {
    return buffer.empty() ? buffer : rows_of(buffer, index, 1, size);
  }
};

template <class Visit>
void for_each_expert(const ExpertShape& shape, const ReceivedRows& rows, Visit visit) {
  ensure(rows.local_experts() == shape.local_experts,
         "expert: the rows have another number of experts");
  LocalExpert expert{0, 0, 0};
  for (; expert.index < shape.local_experts; ++expert.index) {
    expert.rows = rows.expert_rows(expert.index);
    visit(expert);
    expert.first_row += expert.rows;
  }
}

// out[rows, width] = x[rows, depth] * weight + bias.
void linear(std::int64_t rows, std::int64_t width, std::int64_t depth, std::span<const float> x,
            std::span<const float> weight, std::span<const float> bias, std::span<float> out) {
  const std::int64_t biased_rows = bias.empty() ? 0 : rows;
  for (std::int64_t row = 0; row < biased_rows; ++row) copy(bias, rows_of(out, row, 1, width));
  gemm({.m = rows, .n = width, .k = depth, .accumulate = !bias.empty()}, x, weight, out);
}

void bias_gradient(std::int64_t rows, std::span<const float> gradient, bool accumulate,
                   std::span<float> sum) {
  if (!accumulate) fill(sum, 0);
  if (sum.empty()) return;
  const auto width = static_cast<std::int64_t>(sum.size());
  for (std::int64_t row = 0; row < rows; ++row) add(rows_of(gradient, row, 1, width), sum);
}

void check_bias(std::span<const float> bias, std::int64_t size) {
  if (!bias.empty()) check_size(bias, size, "expert: size of a bias");
}

void check_weights(const ExpertShape& shape, const ExpertWeights& weights) {
  const std::int64_t experts = shape.local_experts;
  check_size(weights.first, experts * shape.model_dim * shape.first_width(), "expert: first");
  check_size(weights.second, experts * shape.hidden_dim * shape.model_dim, "expert: second");
  check_bias(weights.first_bias, experts * shape.first_width());
  check_bias(weights.second_bias, experts * shape.model_dim);
}

void check_sizes(const ExpertShape& shape, std::int64_t rows, const ExpertForward& args) {
  check_size(args.input, rows * shape.model_dim, "expert_forward: input");
  check_size(args.packed_input, rows * shape.model_dim, "expert_forward: packed_input");
  check_size(args.pre_activation, rows * shape.first_width(), "expert_forward: pre_activation");
  check_size(args.hidden, rows * shape.hidden_dim, "expert_forward: hidden");
  check_size(args.packed_output, rows * shape.model_dim, "expert_forward: packed_output");
  check_size(args.output, rows * shape.model_dim, "expert_forward: output");
}

void check_sizes(const ExpertShape& shape, std::int64_t rows, const ExpertInputGradient& args) {
  const std::int64_t model = rows * shape.model_dim, first = rows * shape.first_width();
  check_size(args.output_gradient, model, "expert_input_gradient: output_gradient");
  check_size(args.pre_activation, first, "expert_input_gradient: pre_activation");
  check_size(args.packed_output_gradient, model, "expert_input_gradient: packed output");
  check_size(args.hidden_gradient, rows * shape.hidden_dim, "expert_input_gradient: hidden");
  check_size(args.pre_activation_gradient, first, "expert_input_gradient: pre_activation_gradient");
  check_size(args.packed_input_gradient, model, "expert_input_gradient: packed input");
  check_size(args.input_gradient, model, "expert_input_gradient: input_gradient");
}

void check_sizes(const ExpertShape& shape, std::int64_t rows, const ExpertWeightGradient& args) {
  const ExpertGradients& to = args.gradients;
  check_weights(shape, {to.first, to.first_bias, to.second, to.second_bias});
  check_size(args.packed_input, rows * shape.model_dim, "expert_weight_gradient: input");
  check_size(args.hidden, rows * shape.hidden_dim, "expert_weight_gradient: hidden");
  check_size(args.packed_output_gradient, rows * shape.model_dim, "expert_weight_gradient: output");
  check_size(args.pre_activation_gradient, rows * shape.first_width(),
             "expert_weight_gradient: pre_activation_gradient");
}

}  // namespace

void activate(const ActivationShape& shape, std::span<const float> input, std::span<float> output) {
  const std::int64_t n = shape.rows * shape.hidden_dim;
  check_size(input, shape.rows * shape.width(), "activate: input");
  check_size(output, n, "activate: output");
  const float* in = input.data();
  float* out = output.data();
  switch (shape.activation) {
    case Activation::Relu:
      for (std::int64_t i = 0; i < n; ++i) out[i] = in[i] < 0 ? 0 : in[i];  // keeps NaN
      return;
    case Activation::Gelu:
      for (std::int64_t i = 0; i < n; ++i) out[i] = in[i] * normal_cdf(in[i]);
      return;
    case Activation::SwiGlu:
      for (std::int64_t row = 0; row < shape.rows; ++row) {
        swiglu(shape.hidden_dim, in + row * shape.width(), out + row * shape.hidden_dim);
      }
      return;
  }
}

void activate_backward(const ActivationShape& shape, std::span<const float> input,
                       std::span<const float> output_gradient, std::span<float> input_gradient) {
  const std::int64_t n = shape.rows * shape.hidden_dim;
  check_size(input, shape.rows * shape.width(), "activate_backward: input");
  check_size(output_gradient, n, "activate_backward: output_gradient");
  check_size(input_gradient, shape.rows * shape.width(), "activate_backward: input_gradient");
  const float *in = input.data(), *gradient = output_gradient.data();
  float* to = input_gradient.data();
  switch (shape.activation) {
    case Activation::Relu:
      for (std::int64_t i = 0; i < n; ++i) {
        const float g = gradient[i];  // an unconditional read, or the loop does not vectorise
        to[i] = in[i] > 0 ? g : 0;
      }
      return;
    case Activation::Gelu:
      for (std::int64_t i = 0; i < n; ++i) to[i] = gradient[i] * gelu_derivative(in[i]);
      return;
    case Activation::SwiGlu:
      for (std::int64_t row = 0; row < shape.rows; ++row) {
        swiglu_backward(shape.hidden_dim, in + row * shape.width(),
                        gradient + row * shape.hidden_dim, to + row * shape.width());
      }
      return;
  }
}

ExpertShape expert_shape(const MoeLayer& layer, std::int64_t num_ranks) {
  check_fp32(layer);
  check_fits_ranks(layer, num_ranks);
  return {.local_experts = layer.num_experts / num_ranks,
          .model_dim = layer.model_dim,
          .hidden_dim = layer.hidden_dim,
          .activation = layer.activation};
}

void expert_forward(const ExpertShape& shape, const ReceivedRows& rows,
                    const ExpertWeights& weights, const ExpertForward& args) {
  const std::int64_t model = shape.model_dim, hidden = shape.hidden_dim;
  const std::int64_t first = shape.first_width();
  check_weights(shape, weights);
  check_sizes(shape, rows.rows(), args);
  for_each_expert(shape, rows, [&](const LocalExpert& expert) {
    const auto in = expert.of_rows(args.packed_input, model);
    const auto before = expert.of_rows(args.pre_activation, first);
    const auto after = expert.of_rows(args.hidden, hidden);
    const auto out = expert.of_rows(args.packed_output, model);
    pack_expert(rows, expert.index, model, args.input, args.packed_input);
    linear(expert.rows, first, model, in, expert.of_weights(weights.first, model * first),
           expert.of_weights(weights.first_bias, first), before);
    activate({shape.activation, expert.rows, hidden}, before, after);
    linear(expert.rows, model, hidden, after, expert.of_weights(weights.second, hidden * model),
           expert.of_weights(weights.second_bias, model), out);
    unpack_expert(rows, expert.index, model, args.packed_output, args.output);
  });
}

void expert_input_gradient(const ExpertShape& shape, const ReceivedRows& rows,
                           const ExpertWeights& weights, const ExpertInputGradient& args) {
  const std::int64_t model = shape.model_dim, hidden = shape.hidden_dim;
  const std::int64_t first = shape.first_width();
  check_weights(shape, weights);
  check_sizes(shape, rows.rows(), args);
  for_each_expert(shape, rows, [&](const LocalExpert& expert) {
    const auto after = expert.of_rows(args.hidden_gradient, hidden);
    const auto before = expert.of_rows(args.pre_activation_gradient, first);
    pack_expert(rows, expert.index, model, args.output_gradient, args.packed_output_gradient);
    gemm({.m = expert.rows, .n = hidden, .k = model, .transpose_b = Transpose::Yes},
         expert.of_rows(std::span<const float>(args.packed_output_gradient), model),
         expert.of_weights(weights.second, hidden * model), after);
    activate_backward({shape.activation, expert.rows, hidden},
                      expert.of_rows(args.pre_activation, first), after, before);
    gemm({.m = expert.rows, .n = model, .k = first, .transpose_b = Transpose::Yes}, before,
         expert.of_weights(weights.first, model * first),
         expert.of_rows(args.packed_input_gradient, model));
    unpack_expert(rows, expert.index, model, args.packed_input_gradient, args.input_gradient);
  });
}

void expert_weight_gradient(const ExpertShape& shape, const ReceivedRows& rows,
                            const ExpertWeightGradient& args) {
  const std::int64_t model = shape.model_dim, hidden = shape.hidden_dim;
  const std::int64_t first = shape.first_width();
  const ExpertGradients& to = args.gradients;
  check_sizes(shape, rows.rows(), args);
  const auto product = [&](std::int64_t m, std::int64_t n, std::int64_t k) {
    return Gemm{
        .m = m, .n = n, .k = k, .transpose_a = Transpose::Yes, .accumulate = args.accumulate};
  };
  for_each_expert(shape, rows, [&](const LocalExpert& expert) {
    const auto output = expert.of_rows(args.packed_output_gradient, model);
    const auto before = expert.of_rows(args.pre_activation_gradient, first);
    gemm(product(hidden, model, expert.rows), expert.of_rows(args.hidden, hidden), output,
         expert.of_weights(to.second, hidden * model));
    gemm(product(model, first, expert.rows), expert.of_rows(args.packed_input, model), before,
         expert.of_weights(to.first, model * first));
    bias_gradient(expert.rows, output, args.accumulate, expert.of_weights(to.second_bias, model));
    bias_gradient(expert.rows, before, args.accumulate, expert.of_weights(to.first_bias, first));
  });
}

}  // namespace pipemoe::kernels
