#include "experiments/study_analysis.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "models/error.hpp"

namespace pipemoe::program {
namespace {

// Simulated times that differ by less are equal: which is smaller is rounding.
constexpr double kEqualTimes = 1 + 1e-9;

// Times by degree of one phase of one schedule.
using Times = std::map<std::int64_t, double>;

Times times_of(const PointResult& result, const std::string& schedule, double PointRun::*phase) {
  Times times;
  for (const PointRun& run : result.runs) {
    if (run.schedule == schedule) times[run.degree] = run.*phase;
  }
  return times;
}

PhaseOutcome compare(const Times& times, std::int64_t chosen) {
  if (times.empty()) return {};
  const auto at_chosen = times.find(chosen);
  if (at_chosen == times.end()) {
    throw RunError(fmt::format("the chosen degree {} was not simulated", chosen));
  }
  const auto best = std::min_element(
      times.begin(), times.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return {chosen, best->first, at_chosen->second, best->second, chosen};
}

void add_fixed_degrees(const PointResult& result, PointOutcome& outcome) {
  constexpr std::array<std::int64_t, 4> kFixed{1, 2, 4, 8};
  double fastest = 0;
  for (const PointRun& run : result.runs) {
    if (run.schedule != "pipemoe") continue;
    if (std::find(kFixed.begin(), kFixed.end(), run.degree) == kFixed.end()) continue;
    const double regret = run.iteration_s() / outcome.best_iteration_s() - 1;
    if (run.degree != 8) outcome.fixed_regret[fmt::format("always-{}", run.degree)] = regret;
    if (fastest == 0 || run.iteration_s() < fastest) fastest = run.iteration_s();
  }
  if (fastest > 0) {
    outcome.fixed_regret["best-of-1248"] = fastest / outcome.best_iteration_s() - 1;
  }
}

void add_others(const PointResult& result, PointOutcome& outcome) {
  for (const PointRun& run : result.runs) {
    if (run.schedule.starts_with("pipemoe")) continue;
    const bool is_tutel = run.schedule == "tutel";
    outcome.others[is_tutel ? fmt::format("tutel-{}", run.degree) : run.schedule] = run;
    if (!is_tutel) continue;
    const auto adaptive = outcome.others.try_emplace("tutel-adaptive", run).first;
    if (run.iteration_s() < adaptive->second.iteration_s()) adaptive->second = run;
  }
}

double share(std::size_t count, std::size_t all) {
  return all == 0 ? 0 : static_cast<double>(count) / static_cast<double>(all);
}

// Gathers values by name, then their distributions.
using Samples = std::map<std::string, std::vector<double>>;
std::map<std::string, Distribution> distributions_of(const Samples& samples) {
  std::map<std::string, Distribution> all;
  for (const auto& [name, values] : samples) all[name] = distribution_of(values);
  return all;
}

StudySummary summary_of(const std::string& cluster, std::size_t failed,
                        const std::vector<PointOutcome>& outcomes) {
  StudySummary summary;
  summary.cluster = cluster;
  summary.points = outcomes.size();
  summary.failed = failed;
  if (outcomes.empty()) return summary;
  const auto share_of = [&](auto is) {
    const auto count = std::count_if(outcomes.begin(), outcomes.end(), is);
    return share(static_cast<std::size_t>(count), outcomes.size());
  };
  summary.forward_best = share_of([](const auto& one) { return one.forward.is_best(); });
  summary.backward_best = share_of([](const auto& one) { return one.backward.is_best(); });
  summary.both_best =
      share_of([](const auto& one) { return one.forward.is_best() && one.backward.is_best(); });
  summary.within_1_percent = share_of([](const auto& one) { return one.regret() <= 0.01; });
  std::vector<double> regrets, gains;
  Samples fixed, speedups, forward, backward;
  for (const PointOutcome& one : outcomes) {
    regrets.push_back(one.regret());
    for (const auto& [name, regret] : one.fixed_regret) fixed[name].push_back(regret);
    for (const auto& [name, run] : one.others) {
      speedups[name].push_back(run.iteration_s() / one.iteration_s());
      forward[name].push_back(run.forward_s / one.forward.chosen_s);
      backward[name].push_back(run.backward_s / one.backward.chosen_s);
    }
    if (one.deferred.best_s > 0) {
      gains.push_back(one.iteration_s() / one.deferred_iteration_s() - 1);
    }
  }
  summary.regret = distribution_of(regrets);
  summary.fixed_regret = distributions_of(fixed);
  summary.speedup = distributions_of(speedups);
  summary.forward_speedup = distributions_of(forward);
  summary.backward_speedup = distributions_of(backward);
  if (!gains.empty()) {
    summary.deferred_gain = distribution_of(gains);
    summary.deferred_best = share_of([](const auto& one) { return one.deferred.is_best(); });
  }
  return summary;
}

}  // namespace

bool PhaseOutcome::is_best() const { return chosen_s <= best_s * kEqualTimes; }

std::string PhaseOutcome::miss() const {
  if (is_best()) return "";
  const bool uneven = whole_slots != chosen;  // the cost model itself would correct the choice
  const bool slope = whole_slots != best;     // ... and the simulated network still differs
  return uneven && slope ? "uneven chunks and link physics"
         : uneven        ? "uneven chunks"
                         : "link physics";
}

PointOutcome outcome_of(const PointResult& result) {
  const Times forward = times_of(result, "pipemoe", &PointRun::forward_s);
  ensure(!forward.empty(), "a study's outcome without pipemoe");
  PointOutcome outcome;
  outcome.forward = compare(forward, result.chosen.forward_degree);
  outcome.forward.whole_slots = result.whole_slots.forward_degree;
  outcome.backward =
      compare(times_of(result, "pipemoe", &PointRun::backward_s), result.chosen.backward_degree);
  outcome.backward.whole_slots = result.whole_slots.backward_degree;
  outcome.deferred =
      compare(times_of(result, "pipemoe-deferred", &PointRun::backward_s), result.deferred_degree);
  add_fixed_degrees(result, outcome);
  add_others(result, outcome);
  return outcome;
}

Distribution distribution_of(std::vector<double> values) {
  ensure(!values.empty(), "distribution of nothing");
  std::sort(values.begin(), values.end());
  const double count = static_cast<double>(values.size());
  const auto rank = static_cast<std::size_t>(std::ceil(0.95 * count)) - 1;
  return {values.front(), std::accumulate(values.begin(), values.end(), 0.0) / count, values[rank],
          values.back()};
}

std::vector<StudySummary> summarise(const Study& study,
                                    const std::map<std::size_t, PointResult>& results) {
  std::vector<std::string> clusters;
  std::map<std::string, std::vector<PointOutcome>> outcomes;
  std::map<std::string, std::size_t> failed;
  for (const StudyPoint& point : study.points) {
    const std::string& name = point.cluster.name;
    if (std::find(clusters.begin(), clusters.end(), name) == clusters.end()) {
      clusters.push_back(name);
    }
    const auto found = results.find(point.index);
    if (found == results.end()) continue;
    if (found->second.error.empty()) {
      outcomes[name].push_back(outcome_of(found->second));
    } else {
      ++failed[name];
    }
  }
  std::vector<StudySummary> summaries;
  for (const std::string& name : clusters) {
    summaries.push_back(summary_of(name, failed[name], outcomes[name]));
  }
  return summaries;
}

}  // namespace pipemoe::program
