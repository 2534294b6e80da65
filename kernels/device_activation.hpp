// The passes over memory around the experts' products on a GPU: bias, activation and their
// gradients, unless an epilogue of a product does them. All functions are asynchronous on their
// stream, take device pointers, and throw DeviceError if a launch fails. Widths are whole 16-byte
// units. Without rows they do nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda.hpp"

namespace pipemoe::cuda {

/// models' Activation. Its own type here, because models/work.hpp includes Boost.
enum class DeviceActivation { Relu, Gelu, SwiGlu };

/// The rows of several experts. Each expert has `rows` rows. The first rows of two neighbouring
/// experts are `stride` rows apart.
struct ExpertRows {
  std::int64_t experts = 0;
  std::int64_t rows = 0;
  std::int64_t stride = 0;
  Element element = Element::Fp32;
};

// ---- Bias and activation. In a shape, `rows` are the rows of ExpertRows ----

struct Activate {
  DeviceActivation activation = DeviceActivation::Relu;
  std::int64_t hidden_dim = 0;
  void* input = nullptr;       ///< [rows, first width]; the bias, if any, is added in place
  const void* bias = nullptr;  ///< [experts, first width], or null
  void* output = nullptr;      ///< out: [rows, hidden_dim]; may be `input` for ReLU
};
/// Adds the bias, then computes activate() of kernels/experts.hpp.
void activate(const ExpertRows& rows, const Activate& args, cudaStream_t stream);

/// Number of floats in the partial sums of these rows' columns.
std::int64_t partial_sums_size(const ExpertRows& rows, std::int64_t width);

struct ActivateBackward {
  DeviceActivation activation = DeviceActivation::Relu;
  std::int64_t hidden_dim = 0;
  const void* input = nullptr;  ///< activate()'s input with its bias; for ReLU also its output
  const void* output_gradient = nullptr;  ///< [rows, hidden_dim]
  void* input_gradient = nullptr;  ///< out: [rows, first width]; may be output_gradient, not SwiGLU
  float* partial = nullptr;        ///< out, or null: partial column sums of input_gradient
};
/// Computes activate_backward() of kernels/experts.hpp.
void activate_backward(const ExpertRows& rows, const ActivateBackward& args, cudaStream_t stream);

struct AddBias {
  std::int64_t width = 0;
  const void* bias = nullptr;  ///< [experts, width]
  void* values = nullptr;      ///< [rows, width]: the bias is added to it
};
void add_bias(const ExpertRows& rows, const AddBias& args, cudaStream_t stream);

// ---- Gradients of biases ----

struct SumColumns {
  std::int64_t width = 0;
  const void* values = nullptr;  ///< [rows, width]
  float* partial = nullptr;      ///< out: [partial_sums_size()]
};
/// Computes partial sums of each expert's columns. add_partial_sums() adds them up.
void sum_columns(const ExpertRows& rows, const SumColumns& args, cudaStream_t stream);

struct AddPartialSums {
  std::int64_t width = 0;
  const float* partial = nullptr;  ///< [partial_sums_size()]
  void* sums = nullptr;            ///< out: [experts, width]
  bool accumulate = false;         ///< true: adds to `sums`
};
/// Adds partial sums in a fixed order.
void add_partial_sums(const ExpertRows& rows, const AddPartialSums& args, cudaStream_t stream);

// ---- Weighted sums of tokens ----

/// sums[e, :] = sum over the tokens of coefficients[token, e] * values[token, :]. For more than
/// kFewExperts experts a matrix product is faster.
struct SumTokens {
  const void* values = nullptr;        ///< [tokens, width]
  const void* coefficients = nullptr;  ///< [tokens, padded_experts]
  void* sums = nullptr;                ///< out: [num_experts, width]
  Element sums_element = Element::Fp32;
};
inline constexpr std::int64_t kFewExperts = 4;
struct SumTokensShape {
  std::int64_t tokens = 0;
  std::int64_t num_experts = 0;  ///< at most kFewExperts
  std::int64_t padded_experts = 0;
  std::int64_t width = 0;
  Element element = Element::Fp32;  ///< type of values and coefficients
};
/// Number of floats that sum_tokens() needs as scratch.
std::int64_t sum_tokens_scratch(const SumTokensShape& shape);
/// Computes one or two such sums together. There is no second one if its `values` is null.
void sum_tokens(const SumTokensShape& shape, const SumTokens& first, const SumTokens& second,
                float* scratch, cudaStream_t stream);

}  // namespace pipemoe::cuda
