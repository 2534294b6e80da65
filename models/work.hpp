// How much a task does, in one of four shapes, and for whom. Amounts only: a duration comes from
// whoever runs the graph.
#pragma once

#include <boost/container/static_vector.hpp>
#include <compare>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "models/units.hpp"

namespace pipemoe {

/// What differs between ranks: one value for all, or one for each.
template <class T>
class PerRank {
 public:
  PerRank(T all = {}) : all_(std::move(all)) {}  // NOLINT(google-explicit-constructor)
  /// Equal values become one value for all. Requires at least one.
  explicit PerRank(std::vector<T> each) : all_(each.front()) {
    for (const T& value : each) {
      if (value == all_) continue;
      each_ = std::make_shared<const std::vector<T>>(std::move(each));
      return;
    }
  }

  bool is_uniform() const { return each_ == nullptr; }
  const T& operator[](std::size_t rank) const { return is_uniform() ? all_ : (*each_)[rank]; }
  /// By rank; empty when one value stands for all.
  std::span<const T> each() const { return is_uniform() ? std::span<const T>() : *each_; }

  bool operator==(const PerRank& other) const {
    if (is_uniform() || other.is_uniform()) {
      return is_uniform() == other.is_uniform() && all_ == other.all_;
    }
    return *each_ == *other.each_;
  }

 private:
  T all_;
  std::shared_ptr<const std::vector<T>> each_;  // shared: graphs copy tasks
};

enum class Dtype { Fp32, Bf16, Fp16 };
enum class Activation { Relu, Gelu, SwiGlu };

std::string to_string(Dtype dtype);
std::string to_string(Activation activation);
/// Throw InputError naming the allowed words.
Dtype dtype_from(const std::string& name);
Activation activation_from(const std::string& name);

constexpr std::int64_t size_of(Dtype dtype) { return dtype == Dtype::Fp32 ? 4 : 2; }

/// One matrix product over `groups` local experts: `rows` tokens in all groups together, each
/// multiplied with (or, for a weight gradient, reduced into) its group's [k, n] matrix.
struct GemmShape {
  std::int64_t groups = 0;
  std::int64_t rows = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;

  constexpr Flops flops() const {
    return Flops{2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k)};
  }
  constexpr bool operator==(const GemmShape&) const = default;
};
using GemmShapes = boost::container::static_vector<GemmShape, 4>;

/// What an expert's products compute in one task.
enum class ProductKind {
  Forward,
  InputGradient,   ///< what the layer below waits for
  WeightGradient,  ///< what only the optimizer waits for
  BothGradients,   ///< in one task
};
std::string to_string(ProductKind kind);
ProductKind product_kind_from(const std::string& name);  ///< throws InputError naming the kinds

/// The experts of one rank.
struct ExpertSizes {
  std::int64_t experts_per_rank = 0;
  std::int64_t model_dim = 0;
  std::int64_t hidden_dim = 0;
  bool operator==(const ExpertSizes&) const = default;
};

/// Matrix products and the memory traffic around them: an expert's task.
struct Products {
  ProductKind kind = ProductKind::Forward;
  Dtype dtype = Dtype::Fp32;
  Activation activation = Activation::Relu;
  GemmShapes shapes;                    ///< without their rows, which are 0
  PerRank<std::int64_t> rows;           ///< of each product, on a rank
  Bytes activation_bytes_per_row = {};  ///< memory traffic of the activation function
  /// Memory traffic of the copies between received and packed order around the experts; 0 where a
  /// rank has one expert or there is one rank: the two orders are the same.
  Bytes layout_bytes_per_row = {};

  GemmShapes gemms(std::size_t rank = 0) const;  ///< with their rows
  Flops flops(std::size_t rank = 0) const;
  Bytes activation_bytes(std::size_t rank = 0) const;
  Bytes layout_bytes(std::size_t rank = 0) const;
  /// The experts that MoeLayer::gemms made these products for. Requires two products or four.
  ExpertSizes expert_sizes() const;
  bool operator==(const Products&) const = default;
};

/// The memory-bound kernels around and in the experts, as cluster profiles name them. The first
/// three are general: a profile without a specific kernel means the general one by it.
enum class MemoryKernel : std::size_t {
  Gate,
  Permutation,
  Activation,
  GateBackward,
  Permute,  ///< also the layout copies around a rank's experts
  PermuteBackward,
  Unpermute,
  UnpermuteBackward,
  ActivationBackward,
};
inline constexpr std::size_t kMemoryKernels = 9;

std::string to_string(MemoryKernel kernel);
MemoryKernel memory_kernel_from(const std::string& name);  ///< throws InputError naming them
/// Gate for GateBackward, Permutation for each kind of permute and unpermute, Activation for
/// ActivationBackward; a general kernel is its own general kernel.
MemoryKernel general_kernel(MemoryKernel kernel);

/// A memory-bound kernel by what it reads and writes.
struct MemoryTraffic {
  MemoryKernel kernel = MemoryKernel::Gate;
  PerRank<Bytes> bytes;
  bool operator==(const MemoryTraffic&) const = default;
};

/// Ranks that take part in one collective: `count` ranks that are `stride` apart. The ranks of a
/// graph form num_ranks / count such groups, which run the collective at the same time.
struct Group {
  std::int64_t count = 1;
  std::int64_t stride = 1;

  /// Number, 0-based, of the group that `rank` belongs to.
  std::int64_t index_of(std::int64_t rank) const {
    return rank / (count * stride) * stride + rank % stride;
  }
  /// The `member`-th rank of group `index`.
  std::int64_t rank(std::int64_t index, std::int64_t member) const {
    return index / stride * count * stride + index % stride + member * stride;
  }
  auto operator<=>(const Group&) const = default;
};
std::string to_string(Group group);         ///< "64", or "16x4": 16 ranks, 4 apart
Group group_from(const std::string& text);  ///< throws InputError ("must be ...")

/// Bytes each rank of a group sends to each of its ranks in one all-to-all, its own part included:
/// the same to all, the same to all ranks of one block of neighbours, or one number for each pair.
class TrafficMatrix {
 public:
  TrafficMatrix() = default;
  /// Every rank sends `per_rank` bytes in all, to every rank (itself included) the same.
  static TrafficMatrix uniform(Bytes per_rank);
  /// Ranks in blocks of `block_size` neighbours: those of block b send `per_rank` bytes each,
  /// evenly to the ranks of block b + shift (modulo the number of blocks).
  /// Throws InputError unless block_size >= 1 and shift >= 0.
  static TrafficMatrix between_blocks(Bytes per_rank, std::int64_t block_size, std::int64_t shift);
  /// `pairs` row-major by sender. Throws InputError unless it is num_ranks * num_ranks, none < 0.
  static TrafficMatrix of_pairs(std::int64_t num_ranks, std::vector<Bytes> pairs);

  bool is_uniform() const { return pairs_ == nullptr && block_size_ == 0; }
  /// Whether every rank sends and receives the same amount: all but a matrix of pairs.
  bool is_balanced() const { return pairs_ == nullptr; }
  /// What the busiest rank sends or receives, whichever is more: the same for a matrix and its
  /// transpose.
  Bytes per_rank() const { return per_rank_; }
  std::int64_t block_size() const { return block_size_; }  ///< 0: not between blocks
  std::int64_t block_shift() const { return block_shift_; }
  /// Bytes from `sender` to `receiver`; fractional where a balanced one does not divide.
  double between(std::int64_t sender, std::int64_t receiver, std::int64_t num_ranks) const;
  /// What `receiver` receives in all, its own part included.
  double received_by(std::int64_t receiver, std::int64_t num_ranks) const;
  std::span<const Bytes> pairs() const {
    return pairs_ == nullptr ? std::span<const Bytes>() : *pairs_;
  }

  bool operator==(const TrafficMatrix& other) const;

 private:
  Bytes per_rank_;
  std::int64_t block_size_ = 0;
  std::int64_t block_shift_ = 0;
  std::shared_ptr<const std::vector<Bytes>> pairs_;  // shared: graphs copy tasks
};

enum class CollectiveKind { AllToAll, AllReduce, AllGather, ReduceScatter };
std::string to_string(CollectiveKind kind);
CollectiveKind collective_kind_from(const std::string& name);  ///< throws InputError naming them

struct Collective {
  CollectiveKind kind = CollectiveKind::AllToAll;
  Group group;
  /// Only an all-to-all can be uneven. The others have a uniform one, whose per_rank() is the
  /// larger of a rank's two buffers (all-gather: what it gets; reduce-scatter: what it gives), as
  /// nccl-tests count.
  TrafficMatrix traffic;

  Bytes bytes() const { return traffic.per_rank(); }
  bool operator==(const Collective&) const = default;
};

/// A duration that was measured elsewhere.
struct Timed {
  PerRank<Seconds> duration;
  bool operator==(const Timed&) const = default;
};

/// Whoever handles work visits it with `Overloaded` and no catch-all, so that a fifth alternative
/// does not compile until it is handled everywhere.
#ifndef PIPEMOE_PROBE_FIFTH_WORK
using Work = std::variant<Products, MemoryTraffic, Collective, Timed>;
#else  // tests/models/fifth_work.cmake checks that this compiles nowhere
struct Probe {
  bool operator==(const Probe&) const = default;
};
using Work = std::variant<Products, MemoryTraffic, Collective, Timed, Probe>;
#endif

template <class... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};
template <class... Handlers>
Overloaded(Handlers...) -> Overloaded<Handlers...>;

/// Null where the work has another shape.
const Products* products_of(const Work& work);
const Collective* collective_of(const Work& work);
/// Bytes of a collective, those of the busiest rank; 0 for all else.
Bytes collective_bytes(const Work& work);
/// Flops of a rank's products; 0 for all else.
Flops product_flops(const Work& work, std::size_t rank = 0);
/// Whether the ranks do different amounts of it by themselves (a collective never does).
bool differs_between_ranks(const Work& work);

}  // namespace pipemoe
