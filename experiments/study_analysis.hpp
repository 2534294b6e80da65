// What a study's points say: chosen against best degrees, regrets, speedups over other schedules.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "experiments/study_point.hpp"

namespace pipemoe::program {

/// A degree chosen from the cost model against the best one of the simulated truth.
struct PhaseOutcome {
  std::int64_t chosen = 0;
  std::int64_t best = 0;  ///< the smallest of the equally fast
  double chosen_s = 0;
  double best_s = 0;

  std::int64_t whole_slots = 0;  ///< best by the cost model with chunks of whole slots

  double regret() const { return chosen_s / best_s - 1; }
  /// Why the choice misses; empty when it is as fast as the best.
  std::string miss() const;
  /// As fast as the best: equal times of other degrees count.
  bool is_best() const;
};

struct PointOutcome {
  PhaseOutcome forward;
  PhaseOutcome backward;
  PhaseOutcome deferred;  ///< backward of pipemoe-deferred; times 0 when not studied
  /// Other schedules by name: sequential, tutel-4, tutel-adaptive (the fastest of Tutel's), ..
  std::map<std::string, PointRun> others;
  /// Regret of an iteration at a fixed degree for both phases: always-1, -2, -4 (and best-of-1248).
  std::map<std::string, double> fixed_regret;

  double iteration_s() const { return forward.chosen_s + backward.chosen_s; }
  double best_iteration_s() const { return forward.best_s + backward.best_s; }
  double regret() const { return iteration_s() / best_iteration_s() - 1; }
  double deferred_iteration_s() const { return forward.chosen_s + deferred.chosen_s; }
};

/// Requires runs of pipemoe. Throws RunError when a chosen degree was not simulated.
PointOutcome outcome_of(const PointResult& result);

struct Distribution {
  double min = 0, mean = 0, p95 = 0, max = 0;
};
/// p95 by nearest rank. Requires at least one value.
Distribution distribution_of(std::vector<double> values);

/// One cluster's points.
struct StudySummary {
  std::string cluster;
  std::size_t points = 0;
  std::size_t failed = 0;
  double forward_best = 0, backward_best = 0, both_best = 0;  ///< shares of points, 0..1
  double within_1_percent = 0;                                ///< of iterations
  Distribution regret;
  std::map<std::string, Distribution> fixed_regret;
  // Another schedule's time over ours.
  std::map<std::string, Distribution> speedup, forward_speedup, backward_speedup;
  Distribution deferred_gain;  ///< ours over deferred's, minus 1
  double deferred_best = 0;
};

/// In the order of the study's clusters. Points that failed count only as failed.
std::vector<StudySummary> summarise(const Study& study,
                                    const std::map<std::size_t, PointResult>& results);

}  // namespace pipemoe::program
