#include "exec/cuda_moe_layer.hpp"

#include <bit>

#include "kernels/small_kernels.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

using cuda::check;
using cuda::DeviceBuffer;
using cuda::Element;

// Converts on the device, which takes it next to no time.
DeviceBuffer upload(const std::vector<float>& values, Element element) {
  DeviceBuffer floats(values.size() * sizeof(float));
  cuda::copy_to_device(floats.data(), values.data(), floats.bytes());
  if (element == Element::Fp32 || values.empty()) return floats;
  DeviceBuffer buffer(values.size() * static_cast<std::size_t>(size_of(element)));
  const cuda::Stream stream;
  cuda::convert({.from = floats.data(),
                 .to = buffer.data(),
                 .to_element = element,
                 .count = static_cast<std::int64_t>(values.size())},
                stream);
  stream.synchronize();
  return buffer;
}

std::vector<float> download(const DeviceBuffer& buffer, Element element) {
  if (element == Element::Fp32) {
    std::vector<float> values(buffer.bytes() / sizeof(float));
    check(cudaMemcpy(values.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost));
    return values;
  }
  std::vector<std::uint16_t> halves(buffer.bytes() / sizeof(std::uint16_t));
  check(cudaMemcpy(halves.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost));
  std::vector<float> values;
  values.reserve(halves.size());
  for (const std::uint16_t half : halves) {
    values.push_back(std::bit_cast<float>(std::uint32_t{half} << 16));
  }
  return values;
}

DeviceBuffer like(const DeviceBuffer& buffer) { return DeviceBuffer(buffer.bytes()); }

}  // namespace

CudaTensors::CudaTensors(const LayerData& data, Element element_type)
    : element(element_type),
      input(upload(data.input, element)),
      output_gradient(upload(data.output_gradient, element)),
      output(like(input)),
      input_gradient(like(input)),
      gate(upload(data.gate, Element::Fp32)),
      first(upload(data.first, element)),
      first_bias(upload(data.first_bias, element)),
      second(upload(data.second, element)),
      second_bias(upload(data.second_bias, element)),
      gate_gradient(like(gate)),
      first_gradient(like(first)),
      first_bias_gradient(like(first_bias)),
      second_gradient(like(second)),
      second_bias_gradient(like(second_bias)) {}

cuda::DeviceWeights CudaTensors::weights() const {
  return {gate.as<float>(), first.data(), first_bias.data(), second.data(), second_bias.data()};
}

cuda::DeviceGradients CudaTensors::gradients() const {
  return {gate_gradient.as<float>(), first_gradient.data(), first_bias_gradient.data(),
          second_gradient.data(), second_bias_gradient.data()};
}

cuda::DeviceTokens CudaTensors::tokens() const {
  return {input.data(), output_gradient.data(), output.data(), input_gradient.data()};
}

std::int64_t CudaTensors::bytes() const {
  std::size_t sum = 0;
  for (const DeviceBuffer* buffer :
       {&input, &output_gradient, &output, &input_gradient, &gate, &first, &first_bias, &second,
        &second_bias, &gate_gradient, &first_gradient, &first_bias_gradient, &second_gradient,
        &second_bias_gradient}) {
    sum += buffer->bytes();
  }
  return static_cast<std::int64_t>(sum);
}

CudaMoeLayer::CudaMoeLayer(const cuda::DeviceLayerShape& shape,
                           std::shared_ptr<CudaTensors> tensors, ProcessGroup& group,
                           cuda::DeviceAllocator exchanged)
    : tensors_(std::move(tensors)),
      group_(group),
      layer_(shape, tensors_->weights(), tensors_->gradients(), tensors_->tokens(),
             std::move(exchanged)) {}

void CudaMoeLayer::run(const TaskKey& task, cudaStream_t stream) {
  switch (moe_step(task)) {
    case MoeStep::Gate:
      return gate(stream);
    case MoeStep::Permute:
      return layer_.permute(stream);
    case MoeStep::Expert:
      return layer_.expert_forward(task.chunk, stream);
    case MoeStep::Unpermute:
      return layer_.combine(stream);
    case MoeStep::UnpermuteBackward:
      return layer_.combine_backward(stream);
    case MoeStep::ExpertBackward:
      layer_.expert_input_gradient(task.chunk, stream);
      return weight_gradient(task.chunk, stream);
    case MoeStep::ExpertInputGradient:
      return layer_.expert_input_gradient(task.chunk, stream);
    case MoeStep::ExpertWeightGradient:
      return weight_gradient(task.chunk, stream);
    case MoeStep::PermuteBackward:
      gate_input_gradient(stream);
      return layer_.permute_backward(stream);
    case MoeStep::GateBackward:
      gate_input_gradient(stream);
      return layer_.gate_weight_gradient(stream);
    case MoeStep::Dispatch:
    case MoeStep::Combine:
    case MoeStep::CombineBackward:
    case MoeStep::DispatchBackward:
      break;
  }
  ensure(false, "run() of an exchange");
}

cuda::DeviceExchange CudaMoeLayer::exchange(const TaskKey& task) {
  return sends_to_experts(moe_step(task)) ? layer_.dispatch(task.pass, task.chunk)
                                          : layer_.combine_exchange(task.pass, task.chunk);
}

// Every iteration starts with the gate.
void CudaMoeLayer::gate(cudaStream_t stream) {
  weight_gradient_begun_ = gate_input_gradient_done_ = false;
  layer_.gate(stream);
  if (layer_.shape().routing().dropless()) place_dropless_rows(stream);
}

void CudaMoeLayer::place_dropless_rows(cudaStream_t stream) {
  const std::vector<std::int64_t> sent = layer_.read_counts(stream);
  const std::int64_t ranks = group_.size(), local = layer_.shape().local_experts();
  std::vector<std::int64_t> received;
  for (const auto& of_rank : all_gather(group_, sent)) {
    const auto begin = of_rank.begin() + group_.rank() * local;
    received.insert(received.end(), begin, begin + local);
  }
  layer_.place_rows(sent, kernels::ReceivedRows(ranks, local, std::move(received)), stream);
}

void CudaMoeLayer::weight_gradient(std::int64_t chunk, cudaStream_t stream) {
  layer_.expert_weight_gradient(chunk, std::exchange(weight_gradient_begun_, true), stream);
}

void CudaMoeLayer::gate_input_gradient(cudaStream_t stream) {
  if (!std::exchange(gate_input_gradient_done_, true)) layer_.gate_input_gradient(stream);
}

LayerResults CudaMoeLayer::results() const {
  const CudaTensors& from = *tensors_;
  LayerResults results;
  results.experts.resize(static_cast<std::size_t>(layer_.shape().tokens * layer_.shape().top_k));
  check(cudaMemcpy(results.experts.data(), layer_.experts(),
                   results.experts.size() * sizeof(std::int32_t), cudaMemcpyDeviceToHost));
  results.output = download(from.output, from.element);
  results.input_gradient = download(from.input_gradient, from.element);
  results.gate_gradient = download(from.gate_gradient, Element::Fp32);
  results.first_gradient = download(from.first_gradient, from.element);
  results.first_bias_gradient = download(from.first_bias_gradient, from.element);
  results.second_gradient = download(from.second_gradient, from.element);
  results.second_bias_gradient = download(from.second_bias_gradient, from.element);
  return results;
}

void CudaMoeLayer::poison() {
  const cuda::Stream stream;
  layer_.poison(stream);
  for (const DeviceBuffer* buffer :
       {&tensors_->output, &tensors_->input_gradient, &tensors_->gate_gradient,
        &tensors_->first_gradient, &tensors_->first_bias_gradient, &tensors_->second_gradient,
        &tensors_->second_bias_gradient}) {
    if (buffer->bytes() == 0) continue;
    check(cudaMemsetAsync(buffer->data(), 0xff, buffer->bytes(), stream));
  }
  stream.synchronize();
}

}  // namespace pipemoe::exec
