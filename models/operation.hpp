// What a task does and on how much work. Work only: a duration comes from whoever runs the graph.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "models/layer.hpp"
#include "models/units.hpp"

namespace pipemoe {

/// Bytes each rank sends to each rank in one exchange, its own part included: the same to all, the
/// same to all ranks of one group, or one number for each pair.
class TrafficMatrix {
 public:
  TrafficMatrix() = default;
  /// Every rank sends `per_rank` bytes in all, to every rank (itself included) the same.
  static TrafficMatrix uniform(Bytes per_rank);
  /// Ranks in groups of `group_size` neighbours: those of group g send `per_rank` bytes each,
  /// evenly to the ranks of group g + shift (modulo the number of groups).
  /// Throws InputError unless group_size >= 1 and shift >= 0.
  static TrafficMatrix between_groups(Bytes per_rank, std::int64_t group_size, std::int64_t shift);
  /// `pairs` row-major by sender. Throws InputError unless it is num_ranks * num_ranks, none < 0.
  static TrafficMatrix of_pairs(std::int64_t num_ranks, std::vector<Bytes> pairs);

  bool is_uniform() const { return pairs_.empty() && group_size_ == 0; }
  /// Whether every rank sends and receives the same amount: all but a matrix of pairs.
  bool is_balanced() const { return pairs_.empty(); }
  /// A balanced exchange's bytes per rank; of a matrix, the busiest sender's.
  Bytes per_rank() const { return per_rank_; }
  std::int64_t group_size() const { return group_size_; }  ///< 0: not between groups
  std::int64_t group_shift() const { return group_shift_; }
  /// Bytes from `sender` to `receiver`; fractional where a balanced exchange does not divide.
  double between(std::int64_t sender, std::int64_t receiver, std::int64_t num_ranks) const;
  const std::vector<Bytes>& pairs() const { return pairs_; }

  bool operator==(const TrafficMatrix&) const = default;

 private:
  Bytes per_rank_;
  std::int64_t group_size_ = 0;
  std::int64_t group_shift_ = 0;
  std::vector<Bytes> pairs_;
};

enum class Purpose { Dispatch, Combine };

/// Scores the tokens and picks top_k experts each.
struct Gate {
  Bytes traffic;  ///< memory read and written
  bool operator==(const Gate&) const = default;
};
/// Lays tokens out by expert.
struct Permute {
  Bytes traffic;
  bool operator==(const Permute&) const = default;
};
struct AllToAll {
  Purpose purpose = Purpose::Dispatch;
  TrafficMatrix traffic;
  ExpertSizes experts = {};  ///< of its layer; none: not known
  bool operator==(const AllToAll&) const = default;
};
struct ExpertFfn {
  Pass pass = Pass::Forward;
  Dtype dtype = Dtype::Fp32;
  GemmShapes gemms;
  Activation activation = Activation::Relu;
  Bytes activation_traffic{};
  /// Memory traffic of the copies between received and packed order around the experts; zero where
  /// a rank has one expert or there is one rank: the two orders are the same.
  Bytes layout_traffic{};
  bool operator==(const ExpertFfn&) const = default;
};
/// Brings rows back into token order, weighted by the gate.
struct Unpermute {
  Bytes traffic;
  bool operator==(const Unpermute&) const = default;
};

using Operation = std::variant<Gate, Permute, AllToAll, ExpertFfn, Unpermute>;

/// An operation's name in files, tables and pictures. In the backward phase a name stands for the
/// gradient of that step: a backward `combine` is the all-to-all that runs first.
enum class OperationKind {
  Gate,
  Permute,
  Dispatch,
  Expert,
  ExpertInputGradient,
  ExpertWeightGradient,
  Combine,
  Unpermute,
};

OperationKind kind_of(const Operation& operation);
std::string to_string(OperationKind kind);
/// Throws InputError naming the known operations.
OperationKind operation_kind_from(const std::string& name);

/// Bytes of an all-to-all per rank; 0 for all else.
Bytes exchanged_bytes(const Operation& operation);
/// Flops of an expert's matrix products; 0 for all else.
Flops expert_flops(const Operation& operation);

}  // namespace pipemoe
