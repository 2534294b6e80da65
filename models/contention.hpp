// Contention: a rank's tasks slow each other while the rank computes and communicates at once.
#pragma once

#include <string>
#include <vector>

#include "models/task_graph.hpp"

namespace pipemoe {

/// Factors, at least 1, on the times of tasks that run beside each other.
struct Slowdowns {
  double products = 1;     ///< on the time of products, or of another computation
  double collectives = 1;  ///< on the time of the collectives beside it, start-up included
  bool operator==(const Slowdowns&) const = default;
};

/// Input gradients, weight gradients and both at once are one kind.
struct SlowdownsByKind {
  Slowdowns forward;
  Slowdowns gradients = forward;

  const Slowdowns& of(ProductKind kind) const {
    return kind == ProductKind::Forward ? forward : gradients;
  }
  bool operator==(const SlowdownsByKind&) const = default;
};

/// Slowdowns while experts of these sizes compute.
struct ExpertContention {
  ExpertSizes sizes;
  SlowdownsByKind slowdowns;
  bool operator==(const ExpertContention&) const = default;
};

/// What a rank's queues cost each other: a collective's kernel takes multiprocessors from the
/// experts, which take memory bandwidth from it. While a rank computes and takes part in a
/// collective, the computation advances at 1/products of its speed alone and the collective at
/// 1/collectives.
struct Contention {
  SlowdownsByKind general;
  std::string source;
  std::vector<ExpertContention> experts = {};  ///< of calibrated sizes; they override the general

  /// Slowdowns while this task computes. A computation that is no product, as a gate's gradients
  /// are, takes the general ones of its pass: it was not measured beside a collective.
  const Slowdowns& of(const Task& task) const;
  bool operator==(const Contention&) const = default;
};

}  // namespace pipemoe
