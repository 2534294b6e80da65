// A prediction against a measurement of the same task graph.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "models/timeline.hpp"

namespace pipemoe {

/// One quantity of both.
struct Compared {
  Seconds predicted{};
  Seconds measured{};

  Seconds error() const { return predicted - measured; }
  /// error over measured; absent where nothing was measured.
  std::optional<double> relative_error() const;
  bool operator==(const Compared&) const = default;
};

/// All tasks of one step in one pass, of all layers and chunks.
struct StepComparison {
  Pass pass = Pass::Forward;
  Step step = Step::Gate;
  std::size_t tasks_per_rank = 0;
  Compared mean;  ///< of one task
  Compared sum;   ///< of one rank's tasks, mean over the ranks

  /// Whether the prediction has a time for it at all.
  bool modelled() const { return sum.predicted > Seconds{}; }
};

struct Comparison {
  std::vector<StepComparison> steps;  ///< forward first, in the order of Step
  // Until the latest rank is done.
  Compared forward;
  Compared backward;
  Compared makespan;
  // Mean over the ranks.
  Compared communication;
  Compared exposed_communication;
};

/// The two may show different numbers of ranks: a prediction may show one that stands for all.
/// Throws InputError naming the first task that one has and the other lacks, or that a rank lacks
/// or has twice; and when there are no tasks.
Comparison compare(const Timeline& predicted, const Timeline& measured);

}  // namespace pipemoe
