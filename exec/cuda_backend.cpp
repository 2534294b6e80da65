#include "exec/cuda_backend.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "exec/block_state.hpp"
#include "exec/graph_runner.hpp"
#include "exec/peer_memory.hpp"
#include "exec/profiler_range.hpp"
#include "kernels/device_fill.hpp"
#include "models/error.hpp"
#include "models/provenance.hpp"

namespace pipemoe::exec {
namespace {

using cuda::check;
using cuda::DeviceBuffer;
using cuda::DeviceLayer;
using cuda::Direction;
using cuda::Element;

Element element_of(Dtype dtype) {
  if (dtype == Dtype::Fp32) return Element::Fp32;
  if (dtype == Dtype::Bf16) return Element::Bf16;
  throw InputError("the cuda backend computes in fp32 or bf16, not in " + to_string(dtype));
}

cuda::DeviceActivation device_activation(Activation activation) {
  switch (activation) {
    case Activation::Relu:
      return cuda::DeviceActivation::Relu;
    case Activation::Gelu:
      return cuda::DeviceActivation::Gelu;
    case Activation::SwiGlu:
      return cuda::DeviceActivation::SwiGlu;
  }
  ensure(false, "an activation without a kernel");
  return {};
}

int multiprocessors_beside_exchanges(const CudaOptions& options) {
  if (options.exchange_ctas == 0) return 0;
  return cuda::current_device().multiprocessors - options.exchange_ctas;
}

cuda::DeviceLayerShape shape_of(const MoeLayer& layer, const CudaOptions& options, int num_ranks,
                                Degrees degrees) {
  return {.tokens = layer.tokens_per_rank,
          .model_dim = layer.model_dim,
          .hidden_dim = layer.hidden_dim,
          .num_experts = layer.num_experts,
          .top_k = layer.top_k,
          .capacity = layer.capacity_factor ? layer.capacity() : -1,
          .num_ranks = num_ranks,
          .element = element_of(layer.dtype),
          .activation = device_activation(layer.activation),
          .biases = options.data.biases,
          .auxiliary_loss_weight = static_cast<float>(options.data.auxiliary_loss_weight),
          .tf32 = options.tf32,
          .forward_degree = degrees.forward_degree,
          .backward_degree = degrees.backward_degree,
          .direct = options.exchanges == DeviceExchanges::Elided,
          .search = options.search,
          .packs = options.packs,
          .multiprocessors_beside_exchanges = multiprocessors_beside_exchanges(options)};
}

// As tasks of their own.
bool has_weight_gradients(const TaskGraph& graph) {
  return std::any_of(graph.tasks().begin(), graph.tasks().end(), [](const Task& task) {
    return task.key().operation == OperationKind::ExpertWeightGradient;
  });
}

// Converted on the device, for which it is nothing.
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

int device_of(ProcessGroup& group) {
  const std::vector<std::string> hosts = all_gather(group, provenance("").host);
  const auto mine = hosts.begin() + group.rank();
  const auto local_rank = static_cast<int>(std::count(hosts.begin(), mine, *mine));
  const int devices = cuda::device_count();
  if (devices == 0) throw RunError("there is no GPU that CUDA can use");
  return local_rank % devices;
}

std::int64_t free_bytes() {
  std::size_t free = 0, all = 0;
  check(cudaMemGetInfo(&free, &all));
  return static_cast<std::int64_t>(free);
}

double megabytes(std::int64_t bytes) { return 1e-6 * static_cast<double>(bytes); }

}  // namespace

std::unique_ptr<DeviceCommunicator> communicator_for(const CudaOptions& options,
                                                     ProcessGroup& group) {
  switch (options.exchanges) {
    case DeviceExchanges::Elided:
      return nullptr;
    case DeviceExchanges::Staged:
      return group.size() == 1 ? staged_communicator() : staged_communicator(group);
    case DeviceExchanges::Nccl:
      return nccl_communicator(group, options.exchange_ctas);
    case DeviceExchanges::NcclZeroCta:
      return nccl_zero_cta_communicator(group);
    case DeviceExchanges::PeerCopy:
      return peer_copy_communicator(group);
  }
  return nullptr;
}

struct CudaBackend::Tensors {
  Element element;
  DeviceBuffer input, output_gradient, output, input_gradient;
  DeviceBuffer gate, first, first_bias, second, second_bias;
  DeviceBuffer gate_to, first_to, first_bias_to, second_to, second_bias_to;

  Tensors(const LayerData& data, Element of)
      : element(of),
        input(upload(data.input, of)),
        output_gradient(upload(data.output_gradient, of)),
        output(like(input)),
        input_gradient(like(input)),
        gate(upload(data.gate, Element::Fp32)),
        first(upload(data.first, of)),
        first_bias(upload(data.first_bias, of)),
        second(upload(data.second, of)),
        second_bias(upload(data.second_bias, of)),
        gate_to(like(gate)),
        first_to(like(first)),
        first_bias_to(like(first_bias)),
        second_to(like(second)),
        second_bias_to(like(second_bias)) {}

  cuda::DeviceWeights weights() const {
    return {gate.as<float>(), first.data(), first_bias.data(), second.data(), second_bias.data()};
  }
  cuda::DeviceGradients gradients() const {
    return {gate_to.as<float>(), first_to.data(), first_bias_to.data(), second_to.data(),
            second_bias_to.data()};
  }
  cuda::DeviceTokens tokens() const {
    return {input.data(), output_gradient.data(), output.data(), input_gradient.data()};
  }
  std::int64_t bytes() const {
    std::size_t sum = 0;
    for (const DeviceBuffer* buffer :
         {&input, &output_gradient, &output, &input_gradient, &gate, &first, &first_bias, &second,
          &second_bias, &gate_to, &first_to, &first_bias_to, &second_to, &second_bias_to}) {
      sum += buffer->bytes();
    }
    return static_cast<std::int64_t>(sum);
  }
};

void use_device_of(ProcessGroup& group) { check(cudaSetDevice(device_of(group))); }

void CudaBackend::check(const MoeLayer& layer, const CudaOptions& options, int num_ranks) {
  check_fits_ranks(layer, num_ranks);
  if (options.exchanges == DeviceExchanges::Elided && num_ranks > 1) {
    throw InputError(fmt::format("exchanges can be elided on one rank only, not on {}", num_ranks));
  }
  if (options.exchange_ctas > 0 && multiprocessors_beside_exchanges(options) < 1) {
    throw InputError(fmt::format("--exchange-ctas {} leaves none of the {} multiprocessors of {}",
                                 options.exchange_ctas, cuda::current_device().multiprocessors,
                                 cuda::current_device().name));
  }
  if (options.exchanges == DeviceExchanges::NcclZeroCta) check_zero_cta();
  if (options.exchanges == DeviceExchanges::PeerCopy) check_peer_access(num_ranks);
  const char* equal_parts = options.exchanges == DeviceExchanges::NcclZeroCta ? "nccl-zero-cta"
                            : options.exchanges == DeviceExchanges::PeerCopy  ? "peer-copy"
                                                                              : nullptr;
  if (equal_parts != nullptr && !layer.capacity_factor) {
    throw InputError(fmt::format(
        "--communicator {} exchanges equal parts, and a dropless layer's are not: use nccl",
        equal_parts));
  }
  if (options.packs == false && !layer.capacity_factor) {
    throw InputError("--no-pack-rows needs a capacity, and this layer is dropless");
  }
  cuda::check_runs_here(shape_of(layer, options, num_ranks, {}));
}

CudaBackend::CudaBackend(const MoeLayer& layer, const CudaOptions& options, ProcessGroup& group)
    : layer_(layer), options_(options), group_(group) {
  use_device_of(group);
  // A dropless layer's counts come to the host in every iteration, which no graph can hold.
  if (!layer.capacity_factor) options_.graph.cuda_graph = false;
  const LayerData data = draw_data(layer, group.size(), group.rank(), options.data);
  const std::int64_t before = free_bytes();
  tensors_ = std::make_shared<Tensors>(data, element_of(layer.dtype));
  tensors_taken_ = before - free_bytes();
  communicator_ = communicator_for(options, group);
}

std::string CudaBackend::name() const {
  const bool asynchronous = communicator_ == nullptr || communicator_->asynchronous();
  return fmt::format("{}, {}{}", cuda::current_device().name,
                     communicator_ == nullptr ? "exchanges elided" : communicator_->name(),
                     !asynchronous               ? ", each task waited for"
                     : options_.graph.cuda_graph ? ", CUDA graph"
                                                 : ", no CUDA graph");
}

std::map<std::string, std::string> CudaBackend::versions() const {
  const cuda::Device device = cuda::current_device();
  const auto dotted = [](int version) {
    return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
  };
  return {{"device", device.name},
          {"CUDA driver supports", dotted(device.driver)},
          {"CUDA runtime", dotted(device.runtime)},
          {"cuBLASLt", cuda::Matmuls::version()},
          {"ranks", group_.name()},
          {"exchanges", communicator_ == nullptr ? "elided" : communicator_->name()}};
}

// Of a layer with a capacity on several ranks.
bool CudaBackend::exchanges_by_expert() const {
  const std::int64_t experts = layer_.num_experts / group_.size();
  return experts <= communicator_->most_blocks() && (experts == 1 || !options_.packs);
}

// Packed rows are moved to where both degrees want them.
bool CudaBackend::regroups() const {
  if (communicator_ == nullptr) return false;
  if (!layer_.capacity_factor || group_.size() == 1) return true;
  const bool packed = layer_.num_experts > group_.size() && options_.packs.value_or(false);
  return !packed && !exchanges_by_expert();
}

void CudaBackend::place_dropless_rows(DeviceLayer& layer, cudaStream_t stream) {
  const std::vector<std::int64_t> sent = layer.read_counts(stream);
  const std::int64_t ranks = group_.size(), local = layer_.num_experts / ranks;
  std::vector<std::int64_t> received;
  for (const auto& of_rank : all_gather(group_, sent)) {
    const auto begin = of_rank.begin() + group_.rank() * local;
    received.insert(received.end(), begin, begin + local);
  }
  layer.place_rows(sent, kernels::ReceivedRows(ranks, local, std::move(received)), stream);
}

// What has been given of an iteration.
struct CudaBackend::Iteration {
  bool weight_gradient = false;  ///< of any chunk
  bool gate_input_gradient = false;
  std::map<TaskKey, int> exchanges;  ///< numbers, in the order in which they were given

  void begin() { *this = {}; }
};

void CudaBackend::give(const Task& task, DeviceLayer& layer, Iteration& iteration,
                       cudaStream_t stream, const std::stop_token& stop) {
  const bool forward = task.phase == Phase::Forward;
  const Direction direction = forward ? Direction::Forward : Direction::Backward;
  const auto weight_gradient = [&] {
    layer.expert_weight_gradient(task.chunk, std::exchange(iteration.weight_gradient, true),
                                 stream);
  };
  const auto gate_input_gradient = [&] {  // permute_backward adds what it leaves
    if (!std::exchange(iteration.gate_input_gradient, true)) layer.gate_input_gradient(stream);
  };
  switch (task.key().operation) {
    case OperationKind::Gate:
      if (!forward) {
        gate_input_gradient();
        return layer.gate_weight_gradient(stream);
      }
      layer.gate(stream);
      if (!layer_.capacity_factor) place_dropless_rows(layer, stream);
      return;
    case OperationKind::Permute:
      if (forward) return layer.permute(stream);
      gate_input_gradient();
      return layer.permute_backward(stream);
    case OperationKind::Unpermute:
      return forward ? layer.combine(stream) : layer.combine_backward(stream);
    case OperationKind::Dispatch:
    case OperationKind::Combine: {
      if (communicator_ == nullptr) return;
      iteration.exchanges.emplace(task.key(), static_cast<int>(iteration.exchanges.size()));
      const bool to_experts = (task.key().operation == OperationKind::Dispatch) == forward;
      return communicator_->exchange(to_experts ? layer.dispatch(direction, task.chunk)
                                                : layer.combine_exchange(direction, task.chunk),
                                     stream, stop);
    }
    case OperationKind::Expert:
      if (forward) return layer.expert_forward(task.chunk, stream);
      layer.expert_input_gradient(task.chunk, stream);
      return weight_gradient();
    case OperationKind::ExpertInputGradient:
      return layer.expert_input_gradient(task.chunk, stream);
    case OperationKind::ExpertWeightGradient:
      return weight_gradient();
  }
}

// Empty where an exchange that is done has brought what it brings.
std::function<void(const Task&, cudaStream_t)> CudaBackend::await_of(
    const std::shared_ptr<Iteration>& iteration) {
  if (communicator_ == nullptr || !communicator_->awaits()) return {};
  return [this, iteration](const Task& exchange, cudaStream_t stream) {
    communicator_->await(iteration->exchanges.at(exchange.key()), stream);
  };
}

std::unique_ptr<GraphRunner> CudaBackend::prepare(const TaskGraph& graph) {
  check_graph(layer_, graph, group_.size());
  const std::int64_t before = free_bytes();
  cuda::DeviceLayerShape shape = shape_of(layer_, options_, group_.size(), degrees_of(graph));
  shape.defers_weight_gradients = has_weight_gradients(graph);
  if (communicator_ != nullptr && layer_.capacity_factor && group_.size() > 1) {
    if (communicator_->keeps_own()) shape.keeps_own = group_.rank();
    shape.exchanges_by_expert = exchanges_by_expert();
  }
  const auto layer = std::make_shared<DeviceLayer>(
      shape, tensors_->weights(), tensors_->gradients(), tensors_->tokens(),
      communicator_ == nullptr ? cuda::DeviceAllocator() : communicator_->allocator());
  layer_taken_ = before - free_bytes();
  prepared_last_ = layer;
  const auto iteration = std::make_shared<Iteration>();
  if (communicator_ == nullptr || communicator_->asynchronous()) {
    return std::make_unique<DeviceGraph>(
        graph,
        DeviceGraph::Work{[this](cudaStream_t stream) {
                            if (communicator_ != nullptr) communicator_->align(stream);
                          },
                          [this, iteration] {
                            iteration->begin();
                            if (communicator_ != nullptr) communicator_->begin_iteration();
                          },
                          [this, layer, iteration](const Task& task, cudaStream_t stream) {
                            give(task, *layer, *iteration, stream, {});
                          },
                          await_of(iteration),
                          [layer](cudaGraph_t recorded) { layer->simplify(recorded); },
                          [this] {
                            if (communicator_ != nullptr) communicator_->check_progress();
                          },
                          [this] {
                            if (communicator_ != nullptr) communicator_->give_up();
                          }},
        options_.graph);
  }
  int device = 0;
  cuda::check(cudaGetDevice(&device));
  auto streams = std::make_shared<std::map<Stream, cuda::Stream>>();
  for (const Stream stream : kStreams) streams->emplace(stream, cuda::Stream());
  return std::make_unique<ThreadGraphRunner>(
      graph, [this, layer, iteration, streams, device](const Task& task, std::stop_token stop) {
        cuda::check(cudaSetDevice(device));
        if (task.key().operation == OperationKind::Gate && task.phase == Phase::Forward) {
          iteration->begin();
        }
        const cuda::Stream& stream = streams->at(task.stream);
        const ProfilerRange range(task.name().c_str());
        give(task, *layer, *iteration, stream.get(), stop);
        stream.synchronize();
      });
}

LayerResults CudaBackend::results() const {
  const Tensors& from = *tensors_;
  LayerResults results;
  results.experts.resize(static_cast<std::size_t>(layer_.tokens_per_rank * layer_.top_k));
  cuda::check(cudaMemcpy(results.experts.data(), prepared_last_->experts(),
                         results.experts.size() * sizeof(std::int32_t), cudaMemcpyDeviceToHost));
  results.output = download(from.output, from.element);
  results.input_gradient = download(from.input_gradient, from.element);
  results.gate_gradient = download(from.gate_to, Element::Fp32);
  results.first_gradient = download(from.first_to, from.element);
  results.first_bias_gradient = download(from.first_bias_to, from.element);
  results.second_gradient = download(from.second_to, from.element);
  results.second_bias_gradient = download(from.second_bias_to, from.element);
  return results;
}

void CudaBackend::poison() {
  const cuda::Stream stream;
  prepared_last_->poison(stream);
  for (const DeviceBuffer* buffer :
       {&tensors_->output, &tensors_->input_gradient, &tensors_->gate_to, &tensors_->first_to,
        &tensors_->first_bias_to, &tensors_->second_to, &tensors_->second_bias_to}) {
    if (buffer->bytes() == 0) continue;
    cuda::check(cudaMemsetAsync(buffer->data(), 0xff, buffer->bytes(), stream));
  }
  stream.synchronize();
}

std::vector<std::pair<std::string, std::size_t>> CudaBackend::bytes() const {
  return prepared_last_->bytes();
}

std::vector<std::string> CudaBackend::notes() const {
  std::int64_t layer = 0;
  for (const auto& [name, size] : bytes()) layer += static_cast<std::int64_t>(size);
  const std::int64_t tensors = tensors_->bytes(), planned = tensors + layer;
  const std::int64_t taken = tensors_taken_ + layer_taken_;
  const std::int64_t model = layer_.memory_per_rank(group_.size()).count;
  const auto ratio = [&](std::int64_t to) {
    return static_cast<double>(planned) / static_cast<double>(std::max<std::int64_t>(1, to));
  };
  return {fmt::format(
      "device memory of rank {}: planned {:.2f} MB ({:.2f} tokens, weights and gradients; {:.2f} "
      "buffers and workspaces), {:.2f} times the {:.2f} MB that the device gave; {:.2f} times the "
      "{:.2f} MB that the memory model of plans and studies says",
      group_.rank(), megabytes(planned), megabytes(tensors), megabytes(layer), ratio(taken),
      megabytes(taken), ratio(model), megabytes(model))};
}

}  // namespace pipemoe::exec
