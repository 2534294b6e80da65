// The expert's activation function on rows.
#pragma once

#include <cstdint>
#include <span>

#include "models/layer.hpp"

namespace pipemoe::kernels {

struct ActivationShape {
  Activation activation = Activation::Relu;
  std::int64_t rows = 0;
  std::int64_t hidden_dim = 0;

  std::int64_t width() const {
    return activation == Activation::SwiGlu ? 2 * hidden_dim : hidden_dim;
  }
};

/// ReLU; GELU with erf; SwiGLU of a row [gate | up]: silu(gate) * up.
/// `input`: [rows, width()]; `output`: [rows, hidden_dim].
void activate(const ActivationShape& shape, std::span<const float> input, std::span<float> output);

/// `input` as in activate(); `output_gradient`: [rows, hidden_dim]; `input_gradient` out:
/// [rows, width()]. ReLU's derivative at 0 is 0.
void activate_backward(const ActivationShape& shape, std::span<const float> input,
                       std::span<const float> output_gradient, std::span<float> input_gradient);

}  // namespace pipemoe::kernels
