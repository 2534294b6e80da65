// What a study's points say, as files and as text: chosen against best degrees, regrets, speedups
// over other schedules.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "experiments/study.hpp"

namespace pipemoe::program {

/// A degree chosen from the cost model against the best one of the simulated truth.
struct PassOutcome {
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
  PassOutcome forward;
  PassOutcome backward;
  PassOutcome variant;  ///< backward of the variant; times 0 when not studied
  /// Other schedules by name; one with degrees as <name>-<degree>, and <name>-adaptive, its
  /// fastest.
  std::map<std::string, PointRun> others;
  BasisShares basis{};  ///< of the subject at the chosen degrees
  /// Regret of an iteration at a fixed degree for both passes: always-1, -2, -4 (and best-of-1248).
  std::map<std::string, double> fixed_regret;

  double iteration_s() const { return forward.chosen_s + backward.chosen_s; }
  double best_iteration_s() const { return forward.best_s + backward.best_s; }
  double regret() const { return iteration_s() / best_iteration_s() - 1; }
  double variant_iteration_s() const { return forward.chosen_s + variant.chosen_s; }
};

/// Requires runs of the study's subject. Throws RunError when a chosen degree was not evaluated.
PointOutcome outcome_of(const Study& study, const PointResult& result);

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
  Distribution variant_gain;  ///< the subject's time over the variant's, minus 1
  double variant_best = 0;
  BasisShares basis{};  ///< means over the points
};

/// In the order of the study's clusters. Points that failed count only as failed.
std::vector<StudySummary> summarise(const Study& study,
                                    const std::map<std::size_t, PointResult>& results);

/// points.csv (a row a point: degrees, times, regrets), <cluster>-degrees.csv (a row for each point
/// and degree of the subject) and summary.json, each written atomically, units in column names.
/// The same results give the same bytes. Columns named deferred_* are the variant's.
void write_tables(const Study& study, const std::map<std::size_t, PointResult>& results,
                  const std::filesystem::path& folder);

/// For a person.
std::string summary_text(const Study& study, const std::vector<StudySummary>& summaries);

}  // namespace pipemoe::program
