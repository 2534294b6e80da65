// The computing tasks of CpuLayer: which buffers each kernel reads and writes.
#include <utility>

#include "exec/cpu_layer.hpp"
#include "kernels/gate.hpp"
#include "kernels/vector_ops.hpp"

namespace pipemoe::exec {
namespace {

// The rows of a chunk in a buffer over all chunks.
template <class T>
auto of_chunk(T& all, const Chunk& chunk, std::int64_t width) {
  return kernels::rows_of(std::span(all), chunk.received_begin, chunk.received.rows(), width);
}

}  // namespace

void CpuLayer::gate_forward() {
  kernels::gate_forward(gate_shape_, {.input = data_.input,
                                      .weight = data_.gate,
                                      .probabilities = probabilities_,
                                      .experts = results_.experts,
                                      .combine_weights = combine_weights_});
  assignment_ = kernels::assign(routing_shape_, results_.experts);
  all_ = received_rows();
}

void CpuLayer::permute_forward() {
  const auto plan = [&](std::int64_t degree) {
    return kernels::plan_chunks(routing_shape_, results_.experts, assignment_, degree);
  };
  forward_plan_ = plan(degrees_.forward_degree);
  backward_plan_ = degrees_.backward_degree == degrees_.forward_degree
                       ? forward_plan_
                       : plan(degrees_.backward_degree);
  forward_chunks_ = chunks_of(forward_plan_, all_, row_shape_.model_dim);
  backward_chunks_ = chunks_of(backward_plan_, all_, row_shape_.model_dim);
  size_buffers(forward_plan_.rows(), all_.rows());
  weight_gradient_begun_ = input_gradient_begun_ = false;
  kernels::permute(row_shape_, forward_plan_, {data_.input, rows_out_});
}

void CpuLayer::expert_forward(const Chunk& chunk) {
  const std::int64_t model = expert_shape_.model_dim;
  const bool packed = all_.is_packed();
  kernels::expert_forward(
      expert_shape_, chunk.received, data_.weights(),
      {.input = of_chunk(received_, chunk, model),
       .packed_input = of_chunk(packed ? received_ : packed_input_, chunk, model),
       .pre_activation = of_chunk(pre_activation_, chunk, expert_shape_.first_width()),
       .hidden = of_chunk(hidden_, chunk, expert_shape_.hidden_dim),
       .packed_output = of_chunk(packed ? expert_output_ : packed_output_, chunk, model),
       .output = of_chunk(expert_output_, chunk, model)});
}

void CpuLayer::combine_forward() {
  kernels::combine(row_shape_, forward_plan_, {rows_back_, combine_weights_, results_.output});
}

void CpuLayer::combine_backward() {
  kernels::combine_backward(row_shape_, forward_plan_, backward_plan_,
                            {.output_gradient = data_.output_gradient,
                             .rows = rows_back_,
                             .combine_weights = combine_weights_,
                             .row_gradient = gradient_rows_out_,
                             .combine_weight_gradient = combine_weight_gradient_});
}

std::span<const float> CpuLayer::saved(const Floats& all, std::int64_t width, const Chunk& chunk,
                                       std::int64_t index, Floats& scratch) const {
  if (degrees_.forward_degree == degrees_.backward_degree) return of_chunk(all, chunk, width);
  scratch.resize(static_cast<std::size_t>(chunk.received.rows() * width));
  kernels::regroup(all_, {.width = width,
                          .from_degree = degrees_.forward_degree,
                          .to_degree = degrees_.backward_degree,
                          .chunk = index,
                          .from = all,
                          .to = scratch});
  return scratch;
}

void CpuLayer::expert_input_gradient(const Chunk& chunk) {
  const std::int64_t model = expert_shape_.model_dim, wide = expert_shape_.first_width();
  const bool packed = all_.is_packed();
  const auto index = &chunk - backward_chunks_.data();
  kernels::expert_input_gradient(
      expert_shape_, chunk.received, data_.weights(),
      {.output_gradient = of_chunk(gradient_received_, chunk, model),
       .pre_activation = saved(pre_activation_, wide, chunk, index, regrouped_pre_activation_),
       .packed_output_gradient =
           of_chunk(packed ? gradient_received_ : packed_gradient_, chunk, model),
       .hidden_gradient = of_chunk(hidden_gradient_, chunk, expert_shape_.hidden_dim),
       .pre_activation_gradient = of_chunk(pre_activation_gradient_, chunk, wide),
       .packed_input_gradient =
           of_chunk(packed ? expert_input_gradient_ : packed_input_gradient_, chunk, model),
       .input_gradient = of_chunk(expert_input_gradient_, chunk, model)});
}

void CpuLayer::expert_weight_gradient(const Chunk& chunk) {
  const std::int64_t model = expert_shape_.model_dim, hidden = expert_shape_.hidden_dim;
  const bool packed = all_.is_packed();
  const auto index = &chunk - backward_chunks_.data();
  kernels::expert_weight_gradient(
      expert_shape_, chunk.received,
      {.packed_input =
           saved(packed ? received_ : packed_input_, model, chunk, index, regrouped_input_),
       .hidden = saved(hidden_, hidden, chunk, index, regrouped_hidden_),
       .packed_output_gradient =
           of_chunk(packed ? gradient_received_ : packed_gradient_, chunk, model),
       .pre_activation_gradient =
           of_chunk(pre_activation_gradient_, chunk, expert_shape_.first_width()),
       .gradients = {results_.first_gradient, results_.first_bias_gradient,
                     results_.second_gradient, results_.second_bias_gradient},
       .accumulate = weight_gradient_begun_});
  weight_gradient_begun_ = true;
}

void CpuLayer::permute_backward() {
  kernels::permute_backward(
      row_shape_, backward_plan_,
      {gradient_rows_back_, results_.input_gradient, std::exchange(input_gradient_begun_, true)});
}

// Before or after permute_backward: the second one adds to the first one's gradient.
void CpuLayer::gate_backward() {
  if (!std::exchange(input_gradient_begun_, true)) {
    kernels::fill(std::span(results_.input_gradient), 0);
  }
  const bool auxiliary = options_.auxiliary_loss_weight != 0;
  if (auxiliary) kernels::expert_load(gate_shape_, results_.experts, load_);
  kernels::gate_backward(
      gate_shape_, {.input = data_.input,
                    .weight = data_.gate,
                    .probabilities = probabilities_,
                    .experts = results_.experts,
                    .combine_weights = combine_weights_,
                    .combine_weight_gradient = combine_weight_gradient_,
                    .load = auxiliary ? std::span<const float>(load_) : std::span<const float>(),
                    .auxiliary_loss_gradient = static_cast<float>(options_.auxiliary_loss_weight),
                    .logit_gradient = logit_gradient_,
                    .input_gradient = results_.input_gradient,
                    .weight_gradient = results_.gate_gradient});
}

}  // namespace pipemoe::exec
