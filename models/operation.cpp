#include "models/operation.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <limits>

#include "models/error.hpp"
#include "models/names.hpp"

namespace pipemoe {
namespace {

constexpr Names<OperationKind, 8> kKinds{{
    {OperationKind::Gate, "gate"},
    {OperationKind::Permute, "permute"},
    {OperationKind::Dispatch, "dispatch"},
    {OperationKind::Expert, "expert"},
    {OperationKind::ExpertInputGradient, "expert_input_gradient"},
    {OperationKind::ExpertWeightGradient, "expert_weight_gradient"},
    {OperationKind::Combine, "combine"},
    {OperationKind::Unpermute, "unpermute"},
}};

struct KindOf {
  OperationKind operator()(const Gate&) const { return OperationKind::Gate; }
  OperationKind operator()(const Permute&) const { return OperationKind::Permute; }
  OperationKind operator()(const Unpermute&) const { return OperationKind::Unpermute; }
  OperationKind operator()(const AllToAll& exchange) const {
    return exchange.purpose == Purpose::Dispatch ? OperationKind::Dispatch : OperationKind::Combine;
  }
  OperationKind operator()(const ExpertFfn& expert) const {
    switch (expert.pass) {
      case Pass::InputGradient:
        return OperationKind::ExpertInputGradient;
      case Pass::WeightGradient:
        return OperationKind::ExpertWeightGradient;
      case Pass::Forward:
      case Pass::Backward:
        break;
    }
    return OperationKind::Expert;
  }
};

}  // namespace

TrafficMatrix TrafficMatrix::uniform(Bytes per_rank) {
  TrafficMatrix matrix;
  matrix.per_rank_ = per_rank;
  return matrix;
}

TrafficMatrix TrafficMatrix::between_groups(Bytes per_rank, std::int64_t group_size,
                                            std::int64_t shift) {
  if (group_size < 1 || shift < 0) {
    throw InputError(
        fmt::format("traffic between groups of {}, {} apart, must be of at least 1, "
                    "at least 0 apart",
                    group_size, shift));
  }
  TrafficMatrix matrix = uniform(per_rank);
  matrix.group_size_ = group_size;
  matrix.group_shift_ = shift;
  return matrix;
}

TrafficMatrix TrafficMatrix::of_pairs(std::int64_t num_ranks, std::vector<Bytes> pairs) {
  const auto ranks = static_cast<std::size_t>(num_ranks);
  if (num_ranks < 1 || pairs.size() != ranks * ranks) {
    throw InputError(fmt::format("traffic has {} pairs, must have {} for {} ranks", pairs.size(),
                                 ranks * ranks, num_ranks));
  }
  TrafficMatrix matrix;
  for (std::size_t sender = 0; sender < ranks; ++sender) {
    Bytes sent;
    for (std::size_t receiver = 0; receiver < ranks; ++receiver) {
      const Bytes bytes = pairs[sender * ranks + receiver];
      if (bytes.count < 0) {
        throw InputError(fmt::format("traffic from rank {} to {} is {}, must be at least 0", sender,
                                     receiver, bytes.count));
      }
      if (bytes.count > std::numeric_limits<std::int64_t>::max() - sent.count) {
        throw InputError(fmt::format("traffic from rank {} exceeds 2^63 bytes", sender));
      }
      sent += bytes;
    }
    matrix.per_rank_ = std::max(matrix.per_rank_, sent);
  }
  matrix.pairs_ = std::move(pairs);
  return matrix;
}

double TrafficMatrix::between(std::int64_t sender, std::int64_t receiver,
                              std::int64_t num_ranks) const {
  if (is_uniform()) return per_rank_.amount() / static_cast<double>(num_ranks);
  if (group_size_ > 0) {
    const std::int64_t groups = num_ranks / group_size_;
    const bool meets = receiver / group_size_ == (sender / group_size_ + group_shift_) % groups;
    return meets ? per_rank_.amount() / static_cast<double>(group_size_) : 0;
  }
  return pairs_[static_cast<std::size_t>(sender * num_ranks + receiver)].amount();
}

OperationKind kind_of(const Operation& operation) { return std::visit(KindOf{}, operation); }
std::string to_string(OperationKind kind) { return name_of(kKinds, kind); }
OperationKind operation_kind_from(const std::string& name) { return value_of(kKinds, name); }

Bytes exchanged_bytes(const Operation& operation) {
  const auto* exchange = std::get_if<AllToAll>(&operation);
  return exchange == nullptr ? Bytes{} : exchange->traffic.per_rank();
}

Flops expert_flops(const Operation& operation) {
  Flops sum;
  if (const auto* expert = std::get_if<ExpertFfn>(&operation)) {
    for (const GemmShape& gemm : expert->gemms) sum += gemm.flops();
  }
  return sum;
}

}  // namespace pipemoe
