#include "experiments/study_results.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "models/error.hpp"
#include "models/files.hpp"
#include "models/provenance.hpp"

namespace pipemoe::program {
namespace {

// Simulated times that differ by less are equal: which is smaller is rounding.
constexpr double kEqualTimes = 1 + 1e-9;

// Times by degree of one phase of one schedule.
using Times = std::map<std::int64_t, double>;

Times times_of(const PointResult& result, const std::string& schedule, double PointRun::*pass) {
  Times times;
  for (const PointRun& run : result.runs) {
    if (run.schedule == schedule) times[run.degree] = run.*pass;
  }
  return times;
}

PassOutcome compare(const Times& times, std::int64_t chosen) {
  if (times.empty()) return {};
  const auto at_chosen = times.find(chosen);
  if (at_chosen == times.end()) {
    throw RunError(fmt::format("the chosen degree {} was not evaluated", chosen));
  }
  const auto best = std::min_element(
      times.begin(), times.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return {chosen, best->first, at_chosen->second, best->second, chosen};
}

void add_fixed_degrees(const Study& study, const PointResult& result, PointOutcome& outcome) {
  constexpr std::array<std::int64_t, 4> kFixed{1, 2, 4, 8};
  double fastest = 0;
  for (const PointRun& run : result.runs) {
    if (run.schedule != study.subject) continue;
    if (std::find(kFixed.begin(), kFixed.end(), run.degree) == kFixed.end()) continue;
    const double regret = run.iteration_s() / outcome.best_iteration_s() - 1;
    if (run.degree != 8) outcome.fixed_regret[fmt::format("always-{}", run.degree)] = regret;
    if (fastest == 0 || run.iteration_s() < fastest) fastest = run.iteration_s();
  }
  if (fastest > 0) {
    outcome.fixed_regret["best-of-1248"] = fastest / outcome.best_iteration_s() - 1;
  }
}

void add_others(const Study& study, const PointResult& result, PointOutcome& outcome) {
  for (const StudySchedule& other : study.schedules) {
    if (other.name == study.subject || other.name == study.variant) continue;
    const bool has_degrees = other.degrees.size() > 1;
    for (const PointRun& run : result.runs) {
      if (run.schedule != other.name) continue;
      const std::string name =
          has_degrees ? fmt::format("{}-{}", run.schedule, run.degree) : run.schedule;
      outcome.others[name] = run;
      if (!has_degrees) continue;
      PointRun& fastest = outcome.others.try_emplace(run.schedule + "-adaptive", run).first->second;
      if (run.iteration_s() < fastest.iteration_s()) fastest = run;
    }
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
  std::vector<BasisShares> bases;
  Samples fixed, speedups, forward, backward;
  for (const PointOutcome& one : outcomes) {
    regrets.push_back(one.regret());
    bases.push_back(one.basis);
    for (const auto& [name, regret] : one.fixed_regret) fixed[name].push_back(regret);
    for (const auto& [name, run] : one.others) {
      speedups[name].push_back(run.iteration_s() / one.iteration_s());
      forward[name].push_back(run.forward_s / one.forward.chosen_s);
      backward[name].push_back(run.backward_s / one.backward.chosen_s);
    }
    if (one.variant.best_s > 0) {
      gains.push_back(one.iteration_s() / one.variant_iteration_s() - 1);
    }
  }
  summary.regret = distribution_of(regrets);
  summary.basis = mean_of(bases);
  summary.fixed_regret = distributions_of(fixed);
  summary.speedup = distributions_of(speedups);
  summary.forward_speedup = distributions_of(forward);
  summary.backward_speedup = distributions_of(backward);
  if (!gains.empty()) {
    summary.variant_gain = distribution_of(gains);
    summary.variant_best = share_of([](const auto& one) { return one.variant.is_best(); });
  }
  return summary;
}

}  // namespace

bool PassOutcome::is_best() const { return chosen_s <= best_s * kEqualTimes; }

std::string PassOutcome::miss() const {
  if (is_best()) return "";
  const bool uneven = whole_slots != chosen;  // the cost model itself would correct the choice
  const bool slope = whole_slots != best;     // ... and the simulated network still differs
  return uneven && slope ? "uneven chunks and link physics"
         : uneven        ? "uneven chunks"
                         : "link physics";
}

PointOutcome outcome_of(const Study& study, const PointResult& result) {
  const Times forward = times_of(result, study.subject, &PointRun::forward_s);
  ensure(!forward.empty(), "a study's outcome without its subject");
  PointOutcome outcome;
  outcome.forward = compare(forward, result.chosen.forward_degree);
  outcome.forward.whole_slots = result.whole_slots.forward_degree;
  outcome.backward = compare(times_of(result, study.subject, &PointRun::backward_s),
                             result.chosen.backward_degree);
  outcome.backward.whole_slots = result.whole_slots.backward_degree;
  outcome.variant =
      compare(times_of(result, study.variant, &PointRun::backward_s), result.variant_degree);
  outcome.basis = result.basis;
  add_fixed_degrees(study, result, outcome);
  add_others(study, result, outcome);
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
    const std::string& name = point.cluster->name;
    if (std::find(clusters.begin(), clusters.end(), name) == clusters.end()) {
      clusters.push_back(name);
    }
    const auto found = results.find(point.index);
    if (found == results.end()) continue;
    if (found->second.error.empty()) {
      outcomes[name].push_back(outcome_of(study, found->second));
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

namespace {

using Json = nlohmann::ordered_json;

std::string quoted(const std::string& text) {
  std::string escaped;
  for (const char c : text) escaped += c == '"' ? "\"\"" : std::string(1, c);
  return "\"" + escaped + "\"";
}

// Columns of other schedules, the same for every point.
std::vector<std::string> other_names(const Study& study,
                                     const std::map<std::size_t, PointResult>& results) {
  std::set<std::string> names;
  for (const auto& [index, result] : results) {
    if (!result.error.empty()) continue;
    for (const auto& [name, run] : outcome_of(study, result).others) names.insert(name);
  }
  return {names.begin(), names.end()};
}

std::string pass_columns(const PassOutcome& pass) {
  return fmt::format(",{},{},{},{},{},{}", pass.chosen, pass.best, pass.chosen_s, pass.best_s,
                     pass.best_s > 0 ? pass.regret() : 0, pass.miss());
}

std::string points_header(const Study& study, const std::vector<std::string>& others) {
  std::string header = "point,study,cluster,ranks";
  for (const std::string& key : study.grid_keys) header += "," + key;
  header += ",tokens_per_rank,memory_bytes";
  for (const char* pass : {"forward", "backward", "deferred_backward"}) {
    header += fmt::format(
        ",{0}_chosen_degree,{0}_best_degree,{0}_chosen_s,{0}_best_s,{0}_regret,{0}_miss", pass);
  }
  header += ",iteration_s,iteration_regret,deferred_iteration_s";
  for (const std::string& name : others) header += "," + name + "_s";
  for (const auto& [basis, share] : named(BasisShares{})) header += "," + basis + "_share";
  return header + ",error\n";
}

std::string point_row(const Study& study, const StudyPoint& point, const PointResult& result,
                      const std::vector<std::string>& others) {
  std::string row = fmt::format("{},{},{},{}", point.index, study.name, point.cluster->name,
                                point.cluster->num_ranks());
  for (const auto& [key, value] : point.values) row += "," + value;
  row += fmt::format(",{},{}", point.layer.tokens_per_rank,
                     point.layer.memory_per_rank(point.cluster->num_ranks()).count);
  if (!result.error.empty()) {
    return row + std::string(21 + others.size() + kBases.size(), ',') + "," + quoted(result.error) +
           "\n";
  }
  const PointOutcome outcome = outcome_of(study, result);
  row += pass_columns(outcome.forward) + pass_columns(outcome.backward) +
         pass_columns(outcome.variant);
  row += fmt::format(",{},{},{}", outcome.iteration_s(), outcome.regret(),
                     outcome.variant.best_s > 0 ? outcome.variant_iteration_s() : 0);
  for (const std::string& name : others) {
    const auto found = outcome.others.find(name);
    row += found == outcome.others.end() ? "," : fmt::format(",{}", found->second.iteration_s());
  }
  for (const double share : outcome.basis) row += fmt::format(",{}", share);
  return row + ",\n";
}

std::string points_csv(const Study& study, const std::map<std::size_t, PointResult>& results) {
  const std::vector<std::string> others = other_names(study, results);
  std::string text = points_header(study, others);
  for (const StudyPoint& point : study.points) {
    const auto found = results.find(point.index);
    if (found != results.end()) text += point_row(study, point, found->second, others);
  }
  return text;
}

std::string degrees_csv(const Study& study, const std::map<std::size_t, PointResult>& results,
                        const std::string& cluster) {
  std::string text = "point,study,degree,forward_s,backward_s,deferred_backward_s\n";
  for (const StudyPoint& point : study.points) {
    const auto found = results.find(point.index);
    if (point.cluster->name != cluster || found == results.end()) continue;
    std::map<std::int64_t, double> variant;
    for (const PointRun& run : found->second.runs) {
      if (run.schedule == study.variant) variant[run.degree] = run.backward_s;
    }
    for (const PointRun& run : found->second.runs) {
      if (run.schedule != study.subject) continue;
      const auto also = variant.find(run.degree);
      text +=
          fmt::format("{},{},{},{},{},{}\n", point.index, study.name, run.degree, run.forward_s,
                      run.backward_s, also == variant.end() ? "" : fmt::format("{}", also->second));
    }
  }
  return text;
}

Json json_of(const Distribution& values) {
  return {{"min", values.min}, {"mean", values.mean}, {"p95", values.p95}, {"max", values.max}};
}

Json json_of(const std::map<std::string, Distribution>& all) {
  Json json = Json::object();
  for (const auto& [name, values] : all) json[name] = json_of(values);
  return json;
}

Json json_of(const StudySummary& summary) {
  Json basis;
  for (const auto& [name, share] : named(summary.basis)) basis[name] = share;
  return {{"cluster", summary.cluster},
          {"points", summary.points},
          {"failed", summary.failed},
          {"chosen_is_best_share",
           {{"forward", summary.forward_best},
            {"backward", summary.backward_best},
            {"both", summary.both_best}}},
          {"within_1_percent_share", summary.within_1_percent},
          {"iteration_regret", json_of(summary.regret)},
          {"fixed_degree_regret", json_of(summary.fixed_regret)},
          {"speedup_over", json_of(summary.speedup)},
          {"forward_speedup_over", json_of(summary.forward_speedup)},
          {"backward_speedup_over", json_of(summary.backward_speedup)},
          {"deferred_gain", json_of(summary.variant_gain)},
          {"deferred_chosen_is_best_share", summary.variant_best},
          {"basis", std::move(basis)}};
}

Json summary_json(const Study& study, const std::vector<StudySummary>& summaries) {
  const Provenance from = provenance("study");
  Json json{{"schema", "pipemoe.study/1"},
            {"study", study.name},
            {"note", study.note},
            {"network", to_string(study.network)},
            {"provenance",
             {{"program", from.program},
              {"commit", from.commit},
              {"host", from.host},
              {"configuration", Json::parse(study.configuration)}}}};
  json["clusters"] = Json::array();
  for (const StudySummary& summary : summaries) json["clusters"].push_back(json_of(summary));
  return json;
}

std::string percent(double value) {
  const double shown = std::abs(value) < 5e-5 ? 0 : 100 * value;  // no "-0.00 %"
  return fmt::format("{:.2f} %", shown);
}

std::string regret_line(const std::string& name, const Distribution& regret) {
  return fmt::format("    {:<14} mean {:>8}  p95 {:>8}  max {:>8}\n", name, percent(regret.mean),
                     percent(regret.p95), percent(regret.max));
}

std::string cluster_text(const Study& study, const StudySummary& one) {
  std::string text = fmt::format("  {}: {} layers{}\n", one.cluster, one.points,
                                 one.failed ? fmt::format(", {} FAILED", one.failed) : "");
  if (one.points == 0) return text;
  text += fmt::format(
      "    chosen degree is the best: forward {}, backward {}, both {}; "
      "iteration within 1 %: {}\n",
      percent(one.forward_best), percent(one.backward_best), percent(one.both_best),
      percent(one.within_1_percent));
  text += "    costs of the chosen: " + to_string(one.basis) + "\n";
  text += "   regret of an iteration against the best degrees\n";
  text += regret_line("chosen", one.regret);
  for (const auto& [name, regret] : one.fixed_regret) text += regret_line(name, regret);
  if (!one.speedup.empty()) text += "   time over ours\n";
  for (const auto& [name, speedup] : one.speedup) {
    text += fmt::format("    {:<14} min {:>8.3f}  mean {:>7.3f}  max {:>8.3f}\n", name, speedup.min,
                        speedup.mean, speedup.max);
  }
  if (one.variant_best > 0) {
    text += fmt::format(
        "   {}: gain min {}, mean {}, max {}; "
        "chosen degree is the best {}\n",
        study.variant, percent(one.variant_gain.min), percent(one.variant_gain.mean),
        percent(one.variant_gain.max), percent(one.variant_best));
  }
  return text;
}

}  // namespace

void write_tables(const Study& study, const std::map<std::size_t, PointResult>& results,
                  const std::filesystem::path& folder) {
  const std::vector<StudySummary> summaries = summarise(study, results);
  write_file(folder / "points.csv", points_csv(study, results));
  for (const StudySummary& summary : summaries) {
    write_file(folder / (summary.cluster + "-degrees.csv"),
               degrees_csv(study, results, summary.cluster));
  }
  write_file(folder / "summary.json", summary_json(study, summaries).dump(1) + "\n");
}

std::string summary_text(const Study& study, const std::vector<StudySummary>& summaries) {
  std::string text =
      fmt::format("study {}, network level {}\n", study.name, to_string(study.network));
  if (!study.note.empty()) text += fmt::format("  note: {}\n", study.note);
  for (const StudySummary& summary : summaries) text += cluster_text(study, summary);
  return text;
}

}  // namespace pipemoe::program
