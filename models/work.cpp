#include "models/work.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "models/error.hpp"
#include "models/names.hpp"

namespace pipemoe {
namespace {

constexpr Names<Dtype, 3> kDtypes{
    {{Dtype::Fp32, "fp32"}, {Dtype::Bf16, "bf16"}, {Dtype::Fp16, "fp16"}}};
constexpr Names<Activation, 3> kActivations{
    {{Activation::Relu, "relu"}, {Activation::Gelu, "gelu"}, {Activation::SwiGlu, "swiglu"}}};
constexpr Names<ProductKind, 4> kProductKinds{{{ProductKind::Forward, "forward"},
                                               {ProductKind::InputGradient, "input_gradient"},
                                               {ProductKind::WeightGradient, "weight_gradient"},
                                               {ProductKind::BothGradients, "both_gradients"}}};
constexpr Names<MemoryKernel, kMemoryKernels> kKernels{{
    {MemoryKernel::Gate, "gate"},
    {MemoryKernel::Permutation, "permutation"},
    {MemoryKernel::Activation, "activation"},
    {MemoryKernel::GateBackward, "gate_backward"},
    {MemoryKernel::Permute, "permute"},
    {MemoryKernel::PermuteBackward, "permute_backward"},
    {MemoryKernel::Unpermute, "unpermute"},
    {MemoryKernel::UnpermuteBackward, "unpermute_backward"},
    {MemoryKernel::ActivationBackward, "activation_backward"},
}};
constexpr Names<CollectiveKind, 4> kCollectives{
    {{CollectiveKind::AllToAll, "all_to_all"},
     {CollectiveKind::AllReduce, "all_reduce"},
     {CollectiveKind::AllGather, "all_gather"},
     {CollectiveKind::ReduceScatter, "reduce_scatter"}}};

void add_checked(Bytes& sum, Bytes bytes, const char* what, std::size_t rank) {
  if (bytes.count > std::numeric_limits<std::int64_t>::max() - sum.count) {
    throw InputError(fmt::format("traffic {} rank {} exceeds 2^63 bytes", what, rank));
  }
  sum += bytes;
}

}  // namespace

std::string to_string(Dtype dtype) { return name_of(kDtypes, dtype); }
std::string to_string(Activation activation) { return name_of(kActivations, activation); }
std::string to_string(ProductKind kind) { return name_of(kProductKinds, kind); }
std::string to_string(MemoryKernel kernel) { return name_of(kKernels, kernel); }
std::string to_string(CollectiveKind kind) { return name_of(kCollectives, kind); }
Dtype dtype_from(const std::string& name) { return value_of(kDtypes, name); }
Activation activation_from(const std::string& name) { return value_of(kActivations, name); }
ProductKind product_kind_from(const std::string& name) { return value_of(kProductKinds, name); }
MemoryKernel memory_kernel_from(const std::string& name) { return value_of(kKernels, name); }
CollectiveKind collective_kind_from(const std::string& name) {
  return value_of(kCollectives, name);
}

MemoryKernel general_kernel(MemoryKernel kernel) {
  switch (kernel) {
    case MemoryKernel::Gate:
    case MemoryKernel::GateBackward:
      return MemoryKernel::Gate;
    case MemoryKernel::Activation:
    case MemoryKernel::ActivationBackward:
      return MemoryKernel::Activation;
    case MemoryKernel::Permutation:
    case MemoryKernel::Permute:
    case MemoryKernel::PermuteBackward:
    case MemoryKernel::Unpermute:
    case MemoryKernel::UnpermuteBackward:
      return MemoryKernel::Permutation;
  }
  throw std::logic_error("pipemoe bug: unknown memory kernel");
}

GemmShapes Products::gemms(std::size_t rank) const {
  GemmShapes with_rows = shapes;
  for (GemmShape& gemm : with_rows) gemm.rows = rows[rank];
  return with_rows;
}

Flops Products::flops(std::size_t rank) const {
  Flops sum;
  for (GemmShape gemm : shapes) {
    gemm.rows = rows[rank];
    sum += gemm.flops();
  }
  return sum;
}

Bytes Products::activation_bytes(std::size_t rank) const {
  return {rows[rank] * activation_bytes_per_row.count};
}

Bytes Products::layout_bytes(std::size_t rank) const {
  return {rows[rank] * layout_bytes_per_row.count};
}

ExpertSizes Products::expert_sizes() const {
  ensure(shapes.size() >= 2, "an expert without its products");
  const GemmShape &first = shapes[0], &second = shapes[1];
  switch (kind) {
    case ProductKind::Forward:
      return {first.groups, second.n, second.k};
    case ProductKind::InputGradient:
    case ProductKind::BothGradients:
      return {first.groups, first.k, first.n};
    case ProductKind::WeightGradient:
      return {first.groups, first.n, first.k};
  }
  throw std::logic_error("pipemoe bug: unknown kind of product");
}

std::string to_string(Group group) {
  return group.stride == 1 ? fmt::format("{}", group.count)
                           : fmt::format("{}x{}", group.count, group.stride);
}

Group group_from(const std::string& text) {
  const char *at = text.data(), *end = text.data() + text.size();
  const auto number = [&](std::int64_t& to) {
    const auto [stop, error] = std::from_chars(at, end, to);
    at = stop;
    return error == std::errc{} && to >= 1;
  };
  Group group;
  const bool whole = number(group.count) && (at == end || (*at++ == 'x' && number(group.stride)));
  if (whole && at == end) return group;
  throw InputError(fmt::format(
      "is {}, must be a number of ranks, or COUNTxSTRIDE: 16x4 means 16 ranks that are 4 apart",
      text));
}

TrafficMatrix TrafficMatrix::uniform(Bytes per_rank) {
  TrafficMatrix matrix;
  matrix.per_rank_ = per_rank;
  return matrix;
}

TrafficMatrix TrafficMatrix::between_blocks(Bytes per_rank, std::int64_t block_size,
                                            std::int64_t shift) {
  if (block_size < 1 || shift < 0) {
    throw InputError(fmt::format(
        "traffic between blocks has size {} and shift {}, must have at least 1 and at least 0",
        block_size, shift));
  }
  TrafficMatrix matrix = uniform(per_rank);
  matrix.block_size_ = block_size;
  matrix.block_shift_ = shift;
  return matrix;
}

TrafficMatrix TrafficMatrix::of_pairs(std::int64_t num_ranks, std::vector<Bytes> pairs) {
  const auto ranks = static_cast<std::size_t>(num_ranks);
  if (num_ranks < 1 || pairs.size() != ranks * ranks) {
    throw InputError(fmt::format("traffic has {} pairs, must have {} for {} ranks", pairs.size(),
                                 ranks * ranks, num_ranks));
  }
  std::vector<Bytes> sent(ranks), received(ranks);
  for (std::size_t sender = 0; sender < ranks; ++sender) {
    for (std::size_t receiver = 0; receiver < ranks; ++receiver) {
      const Bytes bytes = pairs[sender * ranks + receiver];
      if (bytes.count < 0) {
        throw InputError(fmt::format("traffic from rank {} to {} is {}, must be at least 0", sender,
                                     receiver, bytes.count));
      }
      add_checked(sent[sender], bytes, "from", sender);
      add_checked(received[receiver], bytes, "to", receiver);
    }
  }
  TrafficMatrix matrix;
  matrix.per_rank_ = std::max(*std::max_element(sent.begin(), sent.end()),
                              *std::max_element(received.begin(), received.end()));
  matrix.pairs_ = std::make_shared<const std::vector<Bytes>>(std::move(pairs));
  return matrix;
}

double TrafficMatrix::between(std::int64_t sender, std::int64_t receiver,
                              std::int64_t num_ranks) const {
  if (is_uniform()) return per_rank_.amount() / static_cast<double>(num_ranks);
  if (block_size_ > 0) {
    const std::int64_t blocks = num_ranks / block_size_;
    const bool meets = receiver / block_size_ == (sender / block_size_ + block_shift_) % blocks;
    return meets ? per_rank_.amount() / static_cast<double>(block_size_) : 0;
  }
  return (*pairs_)[static_cast<std::size_t>(sender * num_ranks + receiver)].amount();
}

double TrafficMatrix::received_by(std::int64_t receiver, std::int64_t num_ranks) const {
  if (is_balanced()) return per_rank_.amount();
  double sum = 0;
  for (std::int64_t sender = 0; sender < num_ranks; ++sender) {
    sum += between(sender, receiver, num_ranks);
  }
  return sum;
}

bool TrafficMatrix::operator==(const TrafficMatrix& other) const {
  return per_rank_ == other.per_rank_ && block_size_ == other.block_size_ &&
         block_shift_ == other.block_shift_ && std::ranges::equal(pairs(), other.pairs());
}

const Products* products_of(const Work& work) {
  return std::visit(Overloaded{[](const Products& products) { return &products; },
                               [](const MemoryTraffic&) -> const Products* { return nullptr; },
                               [](const Collective&) -> const Products* { return nullptr; },
                               [](const Timed&) -> const Products* { return nullptr; }},
                    work);
}

const Collective* collective_of(const Work& work) {
  return std::visit(Overloaded{[](const Products&) -> const Collective* { return nullptr; },
                               [](const MemoryTraffic&) -> const Collective* { return nullptr; },
                               [](const Collective& collective) { return &collective; },
                               [](const Timed&) -> const Collective* { return nullptr; }},
                    work);
}

Bytes collective_bytes(const Work& work) {
  const Collective* collective = collective_of(work);
  return collective == nullptr ? Bytes{} : collective->bytes();
}

Flops product_flops(const Work& work, std::size_t rank) {
  const Products* products = products_of(work);
  return products == nullptr ? Flops{} : products->flops(rank);
}

bool differs_between_ranks(const Work& work) {
  return std::visit(
      Overloaded{[](const Products& products) { return !products.rows.is_uniform(); },
                 [](const MemoryTraffic& memory) { return !memory.bytes.is_uniform(); },
                 [](const Collective&) { return false; },
                 [](const Timed& timed) { return !timed.duration.is_uniform(); }},
      work);
}

}  // namespace pipemoe
