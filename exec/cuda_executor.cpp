#include "exec/cuda_executor.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "exec/block_state.hpp"
#include "exec/launcher.hpp"
#include "models/error.hpp"
#include "models/provenance.hpp"
#include "models/schedule.hpp"

namespace pipemoe::exec {
namespace {

using cuda::check;
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
          .direct = options.communicator == CudaCommunicatorKind::Elided,
          .search = options.search,
          .packs = options.packs,
          .multiprocessors_beside_exchanges = multiprocessors_beside_exchanges(options)};
}

// Whether weight gradients are tasks of their own.
bool has_weight_gradients(const TaskGraph& graph) {
  return std::any_of(graph.tasks().begin(), graph.tasks().end(), [](const Task& task) {
    return moe_step(task.key) == MoeStep::ExpertWeightGradient;
  });
}

CudaCommunicatorKind kind_of(const std::string& communicator) {
  if (communicator == "elided") return CudaCommunicatorKind::Elided;
  if (communicator == "nccl") return CudaCommunicatorKind::Nccl;
  if (communicator == "nccl-zero-cta") return CudaCommunicatorKind::NcclZeroCta;
  if (communicator == "peer-copy") return CudaCommunicatorKind::PeerCopy;
  ensure(communicator == "staged", "a communicator that check_options does not know");
  return CudaCommunicatorKind::Staged;
}

int device_of(ProcessGroup& group) {
  const std::vector<std::string> hosts = all_gather(group, provenance("").host);
  const auto mine = hosts.begin() + group.rank();
  const auto among_host = static_cast<int>(std::count(hosts.begin(), mine, *mine));
  const auto claim = launcher_claim();
  const int claimed = claim ? claim->local_rank.value_or(-1) : -1;
  const auto all_claimed = all_gather(group, claimed);
  const bool known = *std::min_element(all_claimed.begin(), all_claimed.end()) >= 0;
  const int local_rank = known ? claimed : among_host;
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

bool built_with_cuda() { return true; }

void check_cuda_layer(const MoeLayer& layer, const ExecutorOptions& options, int num_ranks) {
  CudaExecutor::check(layer, cuda_options(options), num_ranks);
}

std::unique_ptr<LayerExecutor> make_cuda_executor(const MoeLayer& layer,
                                                  const ExecutorOptions& options,
                                                  ProcessGroup& group) {
  return std::make_unique<CudaExecutor>(layer, cuda_options(options), group);
}

CudaOptions cuda_options(const ExecutorOptions& options) {
  return {.data = options.data,
          .communicator = kind_of(options.chosen_communicator()),
          .graph = {options.cuda_graph, options.communication_first},
          .tf32 = options.tf32,
          .packs = options.pack_rows,
          .exchange_ctas = options.exchange_ctas.value_or(0)};
}

void use_device_of(ProcessGroup& group) { check(cudaSetDevice(device_of(group))); }

void CudaExecutor::check(const MoeLayer& layer, const CudaOptions& options, int num_ranks) {
  check_fits_ranks(layer, num_ranks);
  if (options.communicator == CudaCommunicatorKind::Elided && num_ranks > 1) {
    throw InputError(fmt::format("exchanges can be elided on one rank only, not on {}", num_ranks));
  }
  if (options.exchange_ctas > 0 && multiprocessors_beside_exchanges(options) < 1) {
    throw InputError(fmt::format("--exchange-ctas {} leaves none of the {} multiprocessors of {}",
                                 options.exchange_ctas, cuda::current_device().multiprocessors,
                                 cuda::current_device().name));
  }
  if (options.communicator == CudaCommunicatorKind::NcclZeroCta) check_zero_cta();
  if (options.communicator == CudaCommunicatorKind::PeerCopy) check_peer_access(num_ranks);
  const char* equal_parts = options.communicator == CudaCommunicatorKind::NcclZeroCta
                                ? "nccl-zero-cta"
                            : options.communicator == CudaCommunicatorKind::PeerCopy ? "peer-copy"
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

CudaExecutor::CudaExecutor(const MoeLayer& layer, const CudaOptions& options, ProcessGroup& group)
    : layer_(layer), options_(options), group_(group) {
  use_device_of(group);
  // A dropless layer's counts come to the host in every iteration, which no CUDA graph can hold.
  if (!layer.capacity_factor) options_.graph.cuda_graph = false;
  if (group.size() > 1) options_.graph.group = &group;
  const LayerData data = draw_data(layer, group.size(), group.rank(), options.data);
  const std::int64_t before = free_bytes();
  tensors_ = std::make_shared<CudaTensors>(data, element_of(layer.dtype));
  tensors_taken_ = before - free_bytes();
  communicator_ = make_communicator(options.communicator, options.exchange_ctas, group);
}

std::string CudaExecutor::name() const {
  const bool asynchronous = communicator_ == nullptr || communicator_->asynchronous();
  return fmt::format("{}, {}{}", cuda::current_device().name,
                     communicator_ == nullptr ? "exchanges elided" : communicator_->name(),
                     !asynchronous               ? ", each task waited for"
                     : options_.graph.cuda_graph ? ", CUDA graph"
                                                 : ", no CUDA graph");
}

std::map<std::string, std::string> CudaExecutor::versions() const {
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

// Requires a layer with a capacity and several ranks.
bool CudaExecutor::exchanges_by_expert() const {
  const std::int64_t experts = layer_.num_experts / group_.size();
  return experts <= communicator_->most_blocks() && (experts == 1 || !options_.packs);
}

// Packed rows are moved to where both degrees expect them.
bool CudaExecutor::regroups() const {
  if (communicator_ == nullptr) return false;
  if (!layer_.capacity_factor || group_.size() == 1) return true;
  const bool packed = layer_.num_experts > group_.size() && options_.packs.value_or(false);
  return !packed && !exchanges_by_expert();
}

cuda::DeviceLayerShape CudaExecutor::shape_for(const TaskGraph& graph) const {
  cuda::DeviceLayerShape shape = shape_of(layer_, options_, group_.size(), degrees_of(graph));
  shape.defers_weight_gradients = has_weight_gradients(graph);
  if (communicator_ != nullptr && layer_.capacity_factor && group_.size() > 1) {
    if (communicator_->keeps_own()) shape.keeps_own = group_.rank();
    shape.exchanges_by_expert = exchanges_by_expert();
  }
  return shape;
}

std::unique_ptr<GraphRunner> CudaExecutor::prepare(const TaskGraph& graph) {
  check_graph(layer_, graph, group_.size());
  const std::int64_t before = free_bytes();
  const auto allocator =
      communicator_ == nullptr ? cuda::DeviceAllocator() : communicator_->allocator();
  prepared_last_ = std::make_shared<CudaMoeLayer>(shape_for(graph), tensors_, group_, allocator);
  layer_taken_ = before - free_bytes();
  if (communicator_ != nullptr && !communicator_->asynchronous()) {
    return synchronous_cuda_runner(graph, {prepared_last_}, *communicator_);
  }
  return std::make_unique<CudaGraphRunner>(graph, CudaBlocks{prepared_last_}, communicator_.get(),
                                           options_.graph);
}

std::vector<std::string> CudaExecutor::notes() const {
  std::int64_t layer = 0;
  for (const auto& [name, size] : prepared_last_->bytes()) layer += static_cast<std::int64_t>(size);
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
