// When each task ran, predicted or measured: the one result type.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "models/costs.hpp"
#include "models/provenance.hpp"
#include "models/task_graph.hpp"
#include "models/units.hpp"

namespace pipemoe {

/// One task on one rank; times since the iteration's start.
struct Span {
  TaskKey task;
  QueueId queue = 0;  ///< of the timeline's queues
  int rank = 0;
  Seconds start{};
  Seconds end{};

  Seconds duration() const { return end - start; }
  bool operator==(const Span&) const = default;
};

/// Shares of the makespan, 0..1, that rest on each basis of a cost, in the order of kBases.
using BasisShares = std::array<double, kBases.size()>;
/// Each share with the name of its basis, in the order of kBases.
std::vector<std::pair<std::string, double>> named(const BasisShares& shares);
/// The mean of each share. Requires at least one element.
BasisShares mean_of(const std::vector<BasisShares>& all);
/// For example "97.2 % measured, 2.8 % interpolated"; empty if no share is 0.05 % or more.
std::string to_string(const BasisShares& shares);

struct Timeline {
  Provenance provenance;
  std::vector<Queue> queues;
  std::vector<Span> spans;
  /// Makespans of all measured iterations in order; empty for a prediction.
  std::vector<Seconds> repeats = {};
  std::optional<BasisShares> basis = std::nullopt;  ///< of a prediction

  /// Ranks that have spans, ascending.
  std::vector<int> ranks() const;
  /// End of the last span.
  Seconds makespan() const;
  /// Until the last forward span ends; 0 without a forward pass.
  Seconds forward() const;
  /// The rest of the makespan.
  Seconds backward() const { return makespan() - forward(); }
  Resource resource_of(const Span& span) const { return queues[span.queue].resource; }
  /// Time in which any queue of `rank` with this resource ran a task.
  Seconds busy(Resource resource, int rank = 0) const;
  /// Time in which any communication queue of `rank` ran a task.
  Seconds communication(int rank = 0) const;
  /// The part of it in which the rank computed nothing.
  Seconds exposed_communication(int rank = 0) const;
  /// Hidden communication over all communication, 0..1; 0 without communication.
  double overlap_ratio(int rank = 0) const;

  bool operator==(const Timeline&) const = default;
};

}  // namespace pipemoe
