#include "exec/cpu_moe_layer.hpp"

#include <limits>
#include <utility>

#include "kernels/cpu_math.hpp"
#include "kernels/gate.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

using kernels::rows_of;

std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

void resize(std::vector<float>& values, std::int64_t count) { values.resize(size(count)); }

// The rows of a chunk in a buffer that holds all chunks.
template <class T>
auto of_chunk(T& all, const ChunkRows& chunk, std::int64_t width) {
  return rows_of(std::span(all), chunk.received_begin, chunk.received.rows(), width);
}

}  // namespace

std::vector<ChunkRows> rows_of_chunks(const kernels::ChunkPlan& plan,
                                      const kernels::ReceivedRows& all, std::int64_t model_dim) {
  const std::int64_t local = all.local_experts();
  std::vector<ChunkRows> chunks;
  std::int64_t received_begin = 0;
  for (std::int64_t index = 0; index < plan.degree; ++index) {
    ChunkRows chunk{plan.first_row(index, 0), plan.chunk_rows(index), received_begin,
                    all.chunk(plan.degree, index)};
    for (std::int64_t rank = 0; rank < all.num_sources(); ++rank) {
      const std::int64_t sent =
          plan.first_row(index, (rank + 1) * local) - plan.first_row(index, rank * local);
      chunk.send_counts.push_back(sent * model_dim);
      chunk.receive_counts.push_back(chunk.received.source_rows(rank) * model_dim);
    }
    received_begin += chunk.received.rows();
    chunks.push_back(std::move(chunk));
  }
  return chunks;
}

CpuMoeLayer::CpuMoeLayer(const MoeLayer& layer, LayerData data, const DataOptions& options,
                         ProcessGroup& group, Degrees degrees)
    : data_(std::move(data)),
      options_(options),
      group_(group),
      degrees_(degrees),
      gate_shape_(kernels::gate_shape(layer)),
      routing_shape_(kernels::routing_shape(layer)),
      expert_shape_(kernels::expert_shape(layer, group.size())),
      row_shape_{layer.tokens_per_rank, layer.top_k, layer.model_dim},
      all_(1, 1, {0}) {
  const std::int64_t tokens = gate_shape_.tokens, choices = gate_shape_.choices();
  results_.experts.resize(size(choices));
  resize(results_.output, tokens * gate_shape_.model_dim);
  resize(results_.input_gradient, tokens * gate_shape_.model_dim);
  results_.gate_gradient.resize(data_.gate.size());
  results_.first_gradient.resize(data_.first.size());
  results_.first_bias_gradient.resize(data_.first_bias.size());
  results_.second_gradient.resize(data_.second.size());
  results_.second_bias_gradient.resize(data_.second_bias.size());
  resize(probabilities_, tokens * gate_shape_.num_experts);
  resize(logit_gradient_, tokens * gate_shape_.num_experts);
  resize(combine_weights_, choices);
  resize(combine_weight_gradient_, choices);
  resize(load_, gate_shape_.num_experts);
}

void CpuMoeLayer::poison() {
  for (std::int32_t& expert : results_.experts) expert = -1;
  for (Floats* buffer : {&results_.output,
                         &results_.input_gradient,
                         &results_.gate_gradient,
                         &results_.first_gradient,
                         &results_.first_bias_gradient,
                         &results_.second_gradient,
                         &results_.second_bias_gradient,
                         &probabilities_,
                         &combine_weights_,
                         &combine_weight_gradient_,
                         &load_,
                         &logit_gradient_,
                         &rows_out_,
                         &rows_back_,
                         &gradient_rows_out_,
                         &gradient_rows_back_,
                         &received_,
                         &packed_input_,
                         &pre_activation_,
                         &hidden_,
                         &packed_output_,
                         &expert_output_,
                         &gradient_received_,
                         &packed_gradient_,
                         &hidden_gradient_,
                         &pre_activation_gradient_,
                         &packed_input_gradient_,
                         &expert_input_gradient_,
                         &regrouped_input_,
                         &regrouped_pre_activation_,
                         &regrouped_hidden_}) {
    kernels::fill(*buffer, std::numeric_limits<float>::quiet_NaN());
  }
}

// The rows of each source rank for each expert of this rank. A capacity fixes them; for a dropless
// layer every rank tells the others.
kernels::ReceivedRows CpuMoeLayer::received_rows() {
  const std::int64_t ranks = group_.size(), local = expert_shape_.local_experts;
  std::vector<std::int64_t> rows;
  if (routing_shape_.capacity) {
    rows.assign(size(ranks * local), *routing_shape_.capacity);
  } else {
    for (const auto& of_rank : all_gather(group_, assignment_.rows)) {
      const auto begin = of_rank.begin() + group_.rank() * local;
      rows.insert(rows.end(), begin, begin + local);
    }
  }
  return {ranks, local, std::move(rows)};
}

void CpuMoeLayer::size_buffers(std::int64_t sent_rows, std::int64_t received) {
  const std::int64_t model = expert_shape_.model_dim, hidden = expert_shape_.hidden_dim;
  const std::int64_t wide = expert_shape_.first_width();
  for (Floats* buffer : {&rows_out_, &rows_back_, &gradient_rows_out_, &gradient_rows_back_}) {
    resize(*buffer, sent_rows * model);
  }
  for (Floats* buffer :
       {&received_, &expert_output_, &gradient_received_, &expert_input_gradient_}) {
    resize(*buffer, received * model);
  }
  if (!all_.is_packed()) {
    for (Floats* buffer :
         {&packed_input_, &packed_output_, &packed_gradient_, &packed_input_gradient_}) {
      resize(*buffer, received * model);
    }
  }
  resize(pre_activation_, received * wide);
  resize(pre_activation_gradient_, received * wide);
  resize(hidden_, received * hidden);
  resize(hidden_gradient_, received * hidden);
}

const ChunkRows& CpuMoeLayer::chunk_of(const TaskKey& task) const {
  return (task.pass == Pass::Forward ? forward_chunks_ : backward_chunks_).at(size(task.chunk));
}

void CpuMoeLayer::run(const TaskKey& task) {
  switch (moe_step(task)) {
    case MoeStep::Gate:
      return gate_forward();
    case MoeStep::Permute:
      return permute_forward();
    case MoeStep::Expert:
      return expert_forward(chunk_of(task));
    case MoeStep::Unpermute:
      return combine_forward();
    case MoeStep::UnpermuteBackward:
      return combine_backward();
    case MoeStep::ExpertBackward:
      expert_input_gradient(chunk_of(task));
      return expert_weight_gradient(chunk_of(task));
    case MoeStep::ExpertInputGradient:
      return expert_input_gradient(chunk_of(task));
    case MoeStep::ExpertWeightGradient:
      return expert_weight_gradient(chunk_of(task));
    case MoeStep::PermuteBackward:
      return permute_backward();
    case MoeStep::GateBackward:
      return gate_backward();
    case MoeStep::Dispatch:
    case MoeStep::Combine:
    case MoeStep::CombineBackward:
    case MoeStep::DispatchBackward:
      break;
  }
  ensure(false, "run() of an exchange");
}

Exchange CpuMoeLayer::exchange(const TaskKey& task) {
  const ChunkRows& chunk = chunk_of(task);
  const bool forward = task.pass == Pass::Forward;
  if (sends_to_experts(moe_step(task))) {
    return forward ? to_experts(chunk, rows_out_, received_)
                   : to_experts(chunk, gradient_rows_out_, gradient_received_);
  }
  return forward ? from_experts(chunk, expert_output_, rows_back_)
                 : from_experts(chunk, expert_input_gradient_, gradient_rows_back_);
}

Exchange CpuMoeLayer::to_experts(const ChunkRows& chunk, const Floats& rows,
                                 Floats& received) const {
  const std::int64_t width = expert_shape_.model_dim;
  return {rows_of(std::span(rows), chunk.sent_begin, chunk.sent_rows, width), chunk.send_counts,
          of_chunk(received, chunk, width), chunk.receive_counts};
}

Exchange CpuMoeLayer::from_experts(const ChunkRows& chunk, const Floats& outputs,
                                   Floats& rows) const {
  const std::int64_t width = expert_shape_.model_dim;
  return {of_chunk(outputs, chunk, width), chunk.receive_counts,
          rows_of(std::span(rows), chunk.sent_begin, chunk.sent_rows, width), chunk.send_counts};
}

void CpuMoeLayer::gate_forward() {
  kernels::gate_forward(gate_shape_, {.input = data_.input,
                                      .weight = data_.gate,
                                      .probabilities = probabilities_,
                                      .experts = results_.experts,
                                      .combine_weights = combine_weights_});
  assignment_ = kernels::assign(routing_shape_, results_.experts);
  all_ = received_rows();
}

void CpuMoeLayer::permute_forward() {
  const auto plan = [&](std::int64_t degree) {
    return kernels::plan_chunks(routing_shape_, results_.experts, assignment_, degree);
  };
  forward_plan_ = plan(degrees_.forward_degree);
  backward_plan_ = degrees_.backward_degree == degrees_.forward_degree
                       ? forward_plan_
                       : plan(degrees_.backward_degree);
  forward_chunks_ = rows_of_chunks(forward_plan_, all_, row_shape_.model_dim);
  backward_chunks_ = rows_of_chunks(backward_plan_, all_, row_shape_.model_dim);
  size_buffers(forward_plan_.rows(), all_.rows());
  weight_gradient_begun_ = input_gradient_begun_ = false;
  kernels::permute(row_shape_, forward_plan_, {data_.input, rows_out_});
}

void CpuMoeLayer::expert_forward(const ChunkRows& chunk) {
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

void CpuMoeLayer::combine_forward() {
  kernels::combine(row_shape_, forward_plan_, {rows_back_, combine_weights_, results_.output});
}

void CpuMoeLayer::combine_backward() {
  kernels::combine_backward(row_shape_, forward_plan_, backward_plan_,
                            {.output_gradient = data_.output_gradient,
                             .rows = rows_back_,
                             .combine_weights = combine_weights_,
                             .row_gradient = gradient_rows_out_,
                             .combine_weight_gradient = combine_weight_gradient_});
}

std::span<const float> CpuMoeLayer::saved(const Floats& all, std::int64_t width,
                                          const ChunkRows& chunk, std::int64_t index,
                                          Floats& scratch) const {
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

void CpuMoeLayer::expert_input_gradient(const ChunkRows& chunk) {
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

void CpuMoeLayer::expert_weight_gradient(const ChunkRows& chunk) {
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

void CpuMoeLayer::permute_backward() {
  kernels::permute_backward(
      row_shape_, backward_plan_,
      {gradient_rows_back_, results_.input_gradient, std::exchange(input_gradient_begun_, true)});
}

// Runs before or after permute_backward. The later one adds to the gradient of the earlier one.
void CpuMoeLayer::gate_backward() {
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
