// What surrounds the experts' products where no epilogue does it: bias, activation, their
// gradients.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/device_types.hpp"

namespace pipemoe::cuda {

enum class DeviceActivation { Relu, Gelu, SwiGlu };

/// Rows of a batch of experts: those of one follow those of the one before at a distance.
struct ExpertRows {
  std::int64_t experts = 0;
  std::int64_t rows = 0;    ///< of each
  std::int64_t stride = 0;  ///< rows from one expert's first to the next one's
  Element element = Element::Fp32;
};

struct Activate {
  DeviceActivation activation = DeviceActivation::Relu;
  std::int64_t hidden_dim = 0;
  void* input = nullptr;       ///< [rows, first width]; with a bias: in and out
  const void* bias = nullptr;  ///< [experts, first width], may be null: added to the input first
  void* output = nullptr;      ///< out: [rows, hidden_dim]; may be the input where ReLU
};
/// As kernels/activation.hpp. hidden_dim is a whole number of units.
void activate(const ExpertRows& rows, const Activate& args, cudaStream_t stream);

/// Floats that the column sums of these rows take on the way.
std::int64_t partial_sums_size(const ExpertRows& rows, std::int64_t width);

struct ActivateBackward {
  DeviceActivation activation = DeviceActivation::Relu;
  std::int64_t hidden_dim = 0;
  const void* input = nullptr;            ///< of activate, biased; of ReLU its output will do
  const void* output_gradient = nullptr;  ///< [rows, hidden_dim]
  void* input_gradient = nullptr;  ///< out: [rows, first width]; the other gradient unless SwiGLU
  float* partial = nullptr;  ///< out, may be null: for add_partial_sums, of the input's gradient
};
void activate_backward(const ExpertRows& rows, const ActivateBackward& args, cudaStream_t stream);

struct AddBias {
  std::int64_t width = 0;
  const void* bias = nullptr;  ///< [experts, width]
  void* values = nullptr;      ///< [rows, width]: added to
};
void add_bias(const ExpertRows& rows, const AddBias& args, cudaStream_t stream);

struct SumColumns {
  std::int64_t width = 0;
  const void* values = nullptr;  ///< [rows, width]
  float* partial = nullptr;      ///< out: for add_partial_sums
};
void sum_columns(const ExpertRows& rows, const SumColumns& args, cudaStream_t stream);

struct AddPartialSums {
  std::int64_t width = 0;
  const float* partial = nullptr;
  void* sums = nullptr;  ///< [experts, width]: out, or added to
  bool accumulate = false;
};
/// Sums each expert's columns in a fixed order.
void add_partial_sums(const ExpertRows& rows, const AddPartialSums& args, cudaStream_t stream);

/// What tokens add to each expert's row, for few experts: by more of them a matrix product does it
/// faster. sums[e, :] = sum over tokens of coefficient[token, e] * values[token, :].
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
  Element element = Element::Fp32;  ///< of values and coefficients
};
/// Floats of sum_tokens' scratch.
std::int64_t sum_tokens_scratch(const SumTokensShape& shape);
/// One or two such sums in one go; of the second `values` may be null: there is none.
void sum_tokens(const SumTokensShape& shape, const SumTokens& first, const SumTokens& second,
                float* scratch, cudaStream_t stream);

}  // namespace pipemoe::cuda
