#include "exec/cpu_layer.hpp"

#include <limits>
#include <utility>

#include "kernels/gate.hpp"
#include "kernels/vector_ops.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

using kernels::rows_of;

std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

void resize(std::vector<float>& values, std::int64_t count) { values.resize(size(count)); }

}  // namespace

CpuLayer::CpuLayer(const MoeLayer& layer, LayerData data, const DataOptions& options,
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

void CpuLayer::poison() {
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

// Rows of each source for each expert here. A capacity fixes them; dropless, every rank tells.
kernels::ReceivedRows CpuLayer::received_rows() {
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

void CpuLayer::size_buffers(std::int64_t sent_rows, std::int64_t received) {
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

void CpuLayer::run(const Task& task, Communicator& communicator, std::stop_token stop) {
  if (task.phase == Phase::Forward) {
    run_forward(task, communicator, std::move(stop));
  } else {
    run_backward(task, communicator, std::move(stop));
  }
}

void CpuLayer::run_forward(const Task& task, Communicator& communicator, std::stop_token stop) {
  const auto chunk = [&]() -> const Chunk& { return forward_chunks_.at(size(task.chunk)); };
  switch (task.key().operation) {
    case OperationKind::Gate:
      return gate_forward();
    case OperationKind::Permute:
      return permute_forward();
    case OperationKind::Dispatch:
      return send_to_experts(chunk(), rows_out_, received_, communicator, std::move(stop));
    case OperationKind::Expert:
      return expert_forward(chunk());
    case OperationKind::Combine:
      return send_back(chunk(), expert_output_, rows_back_, communicator, std::move(stop));
    case OperationKind::Unpermute:
      return combine_forward();
    case OperationKind::ExpertInputGradient:
    case OperationKind::ExpertWeightGradient:
      break;
  }
  ensure(false, "a gradient in the forward phase");
}

void CpuLayer::run_backward(const Task& task, Communicator& communicator, std::stop_token stop) {
  const auto chunk = [&]() -> const Chunk& { return backward_chunks_.at(size(task.chunk)); };
  switch (task.key().operation) {
    case OperationKind::Unpermute:
      return combine_backward();
    case OperationKind::Combine:
      return send_to_experts(chunk(), gradient_rows_out_, gradient_received_, communicator,
                             std::move(stop));
    case OperationKind::Expert:
      expert_input_gradient(chunk());
      return expert_weight_gradient(chunk());
    case OperationKind::ExpertInputGradient:
      return expert_input_gradient(chunk());
    case OperationKind::ExpertWeightGradient:
      return expert_weight_gradient(chunk());
    case OperationKind::Dispatch:
      return send_back(chunk(), expert_input_gradient_, gradient_rows_back_, communicator,
                       std::move(stop));
    case OperationKind::Permute:
      return permute_backward();
    case OperationKind::Gate:
      return gate_backward();
  }
}

void CpuLayer::send_to_experts(const Chunk& chunk, const Floats& rows, Floats& received,
                               Communicator& communicator, std::stop_token stop) const {
  const std::int64_t width = expert_shape_.model_dim;
  communicator.exchange(
      {rows_of(std::span(rows), chunk.sent_begin, chunk.sent_rows, width), chunk.send_counts,
       rows_of(std::span(received), chunk.received_begin, chunk.received.rows(), width),
       chunk.receive_counts},
      std::move(stop));
}

void CpuLayer::send_back(const Chunk& chunk, const Floats& outputs, Floats& rows,
                         Communicator& communicator, std::stop_token stop) const {
  const std::int64_t width = expert_shape_.model_dim;
  communicator.exchange(
      {rows_of(std::span(outputs), chunk.received_begin, chunk.received.rows(), width),
       chunk.receive_counts, rows_of(std::span(rows), chunk.sent_begin, chunk.sent_rows, width),
       chunk.send_counts},
      std::move(stop));
}

}  // namespace pipemoe::exec
