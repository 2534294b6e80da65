#include "kernels/activation.hpp"

#include <numbers>

#include "kernels/fast_math.hpp"
#include "kernels/vector_ops.hpp"

namespace pipemoe::kernels {
namespace {

constexpr float kSqrtHalf = 0.70710678118654752f;
constexpr float kDensityAt0 = std::numbers::inv_sqrtpi_v<float> * kSqrtHalf;  // of the normal law

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

}  // namespace

void activate(const ActivationShape& shape, std::span<const float> input, std::span<float> output) {
  const std::int64_t n = shape.rows * shape.hidden_dim;
  check_size(input, shape.rows * shape.width(), "activate: input");
  check_size(output, n, "activate: output");
  const float* in = input.data();
  float* out = output.data();
  switch (shape.activation) {
    case Activation::Relu:
      for (std::int64_t i = 0; i < n; ++i) out[i] = in[i] < 0 ? 0 : in[i];  // NaN stays
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
        const float g = gradient[i];  // read in any case, or the loop does not vectorise
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

}  // namespace pipemoe::kernels
