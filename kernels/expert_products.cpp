// What shapes the experts' products over rows have: nothing here touches the device.
#include "kernels/device_layer_state.hpp"

namespace pipemoe::cuda {

// A kernel that takes every multiprocessor keeps one of an exchange waiting until it ends, or takes
// twice as long beside one (PyTorch issue 143988).
int ExpertProducts::multiprocessors(bool beside_exchanges) const {
  return beside_exchanges ? shape_.multiprocessors_beside_exchanges : 0;
}

// Rows times weights: [rows, k] * [k, n].
Matmul ExpertProducts::on_rows(const ExpertGroup& group, std::int64_t n, std::int64_t k,
                               std::int64_t degree) const {
  const bool several = group.experts > 1;
  return {.m = group.rows,
          .n = n,
          .k = k,
          .batch = group.experts,
          .lda = k,
          .ldb = n,
          .ldd = n,
          .stride_a = several ? group.stride * k : 0,
          .stride_b = several ? k * n : 0,
          .stride_d = several ? group.stride * n : 0,
          .in = shape_.element,
          .out = shape_.element,
          .tf32 = shape_.tf32,
          .multiprocessors = multiprocessors(degree > 1),
          .zeroed = true};
}

// Rows transposed times rows: [m, rows] * [rows, n].
Matmul ExpertProducts::over_rows(const ExpertGroup& group, std::int64_t m, std::int64_t n,
                                 bool accumulate) const {
  const bool several = group.experts > 1;
  return {.m = m,
          .n = n,
          .k = group.rows,
          .batch = group.experts,
          .transpose_a = true,
          .lda = m,
          .ldb = n,
          .ldd = n,
          .stride_a = several ? group.stride * m : 0,
          .stride_b = several ? group.stride * n : 0,
          .stride_d = several ? m * n : 0,
          .in = shape_.element,
          .out = shape_.element,
          .accumulate = accumulate,
          .tf32 = shape_.tf32,
          .multiprocessors =
              multiprocessors(shape_.backward_degree > 1 || shape_.defers_weight_gradients),
          .zeroed = true};
}

Matmul ExpertProducts::first(const ExpertGroup& group) const {
  Matmul product = on_rows(group, shape_.first_width(), shape_.model_dim, shape_.forward_degree);
  if (fusion_.first_bias) {
    product.epilogue = fusion_.relu ? Epilogue::ReluBias : Epilogue::Bias;
    product.stride_bias = group.experts > 1 ? shape_.first_width() : 0;
  } else if (fusion_.relu) {
    product.epilogue = Epilogue::Relu;
  }
  return product;
}

Matmul ExpertProducts::second(const ExpertGroup& group) const {
  Matmul product = on_rows(group, shape_.model_dim, shape_.hidden_dim, shape_.forward_degree);
  if (fusion_.second_bias) {
    product.epilogue = Epilogue::Bias;
    product.stride_bias = group.experts > 1 ? shape_.model_dim : 0;
  }
  return product;
}

Matmul ExpertProducts::hidden_gradient(const ExpertGroup& group) const {
  Matmul product = on_rows(group, shape_.hidden_dim, shape_.model_dim, shape_.backward_degree);
  product.transpose_b = true;
  product.ldb = shape_.model_dim;
  return product;
}

Matmul ExpertProducts::input_gradient(const ExpertGroup& group) const {
  Matmul product = on_rows(group, shape_.model_dim, shape_.first_width(), shape_.backward_degree);
  product.transpose_b = true;
  product.ldb = shape_.first_width();
  return product;
}

Matmul ExpertProducts::first_weight(const ExpertGroup& group, bool accumulate) const {
  return over_rows(group, shape_.model_dim, shape_.first_width(), accumulate);
}

Matmul ExpertProducts::second_weight(const ExpertGroup& group, bool accumulate) const {
  return over_rows(group, shape_.hidden_dim, shape_.model_dim, accumulate);
}

Fusion choose_fusion(const DeviceLayerShape& shape, const ExpertGroup& group,
                     const Matmuls& matmuls) {
  Fusion fusion{.first_bias = shape.biases,
                .relu = shape.activation == DeviceActivation::Relu,
                .second_bias = shape.biases};
  const auto first = [&] { return ExpertProducts(shape, fusion).first(group); };
  if (!matmuls.can(first())) fusion.relu = false;
  if (!matmuls.can(first())) fusion.first_bias = false;
  if (!matmuls.can(ExpertProducts(shape, fusion).second(group))) fusion.second_bias = false;
  return fusion;
}

}  // namespace pipemoe::cuda
