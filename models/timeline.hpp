// When each task ran, predicted or measured: the one result type.
#pragma once

#include <string>
#include <vector>

#include "models/provenance.hpp"
#include "models/task_graph.hpp"
#include "models/units.hpp"

namespace pipemoe {

/// One task on one rank; times since the iteration's start.
struct Span {
  TaskKey task;
  Stream stream = Stream::Compute;
  int rank = 0;
  Seconds start{};
  Seconds end{};

  Seconds duration() const { return end - start; }
  bool operator==(const Span&) const = default;
};

struct Timeline {
  Provenance provenance;
  std::vector<Span> spans;
  /// Makespans of all measured iterations in order; empty for a prediction.
  std::vector<Seconds> repeats = {};

  /// Ranks that have spans, ascending.
  std::vector<int> ranks() const;
  /// End of the last span.
  Seconds makespan() const;
  /// Until the last forward span ends; 0 without a forward phase.
  Seconds forward() const;
  /// The rest of the makespan.
  Seconds backward() const { return makespan() - forward(); }
  /// Time in which `rank`'s stream ran a task.
  Seconds busy(Stream stream, int rank = 0) const;
  /// Time in which any communication stream of `rank` ran a task.
  Seconds communication(int rank = 0) const;
  /// The part of it in which the rank computed nothing.
  Seconds exposed_communication(int rank = 0) const;
  /// Hidden communication over all communication, 0..1; 0 without communication.
  double overlap_ratio(int rank = 0) const;

  bool operator==(const Timeline&) const = default;
};

}  // namespace pipemoe
