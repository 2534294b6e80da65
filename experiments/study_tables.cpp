#include "experiments/study_tables.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "models/error.hpp"
#include "models/files.hpp"
#include "models/provenance.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

std::string quoted(const std::string& text) {
  std::string escaped;
  for (const char c : text) escaped += c == '"' ? "\"\"" : std::string(1, c);
  return "\"" + escaped + "\"";
}

// Columns of other schedules, the same for every point.
std::vector<std::string> other_names(const std::map<std::size_t, PointResult>& results) {
  std::set<std::string> names;
  for (const auto& [index, result] : results) {
    if (!result.error.empty()) continue;
    for (const auto& [name, run] : outcome_of(result).others) names.insert(name);
  }
  return {names.begin(), names.end()};
}

std::string phase_columns(const PhaseOutcome& phase) {
  return fmt::format(",{},{},{},{},{},{}", phase.chosen, phase.best, phase.chosen_s, phase.best_s,
                     phase.best_s > 0 ? phase.regret() : 0, phase.miss());
}

std::string points_header(const Study& study, const std::vector<std::string>& others) {
  std::string header = "point,study,cluster,ranks";
  for (const std::string& key : study.grid_keys) header += "," + key;
  header += ",tokens_per_rank,memory_bytes";
  for (const char* phase : {"forward", "backward", "deferred_backward"}) {
    header += fmt::format(
        ",{0}_chosen_degree,{0}_best_degree,{0}_chosen_s,{0}_best_s,{0}_regret,{0}_miss", phase);
  }
  header += ",iteration_s,iteration_regret,deferred_iteration_s";
  for (const std::string& name : others) header += "," + name + "_s";
  return header + ",error\n";
}

std::string point_row(const Study& study, const StudyPoint& point, const PointResult& result,
                      const std::vector<std::string>& others) {
  std::string row = fmt::format("{},{},{},{}", point.index, study.name, point.cluster.name,
                                point.cluster.num_ranks());
  for (const auto& [key, value] : point.values) row += "," + value;
  row += fmt::format(",{},{}", point.layer.tokens_per_rank,
                     point.layer.memory_per_rank(point.cluster.num_ranks()).count);
  if (!result.error.empty()) {
    return row + std::string(21 + others.size(), ',') + "," + quoted(result.error) + "\n";
  }
  const PointOutcome outcome = outcome_of(result);
  row += phase_columns(outcome.forward) + phase_columns(outcome.backward) +
         phase_columns(outcome.deferred);
  row += fmt::format(",{},{},{}", outcome.iteration_s(), outcome.regret(),
                     outcome.deferred.best_s > 0 ? outcome.deferred_iteration_s() : 0);
  for (const std::string& name : others) {
    const auto found = outcome.others.find(name);
    row += found == outcome.others.end() ? "," : fmt::format(",{}", found->second.iteration_s());
  }
  return row + ",\n";
}

std::string points_csv(const Study& study, const std::map<std::size_t, PointResult>& results) {
  const std::vector<std::string> others = other_names(results);
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
    if (point.cluster.name != cluster || found == results.end()) continue;
    std::map<std::int64_t, double> deferred;
    for (const PointRun& run : found->second.runs) {
      if (run.schedule == "pipemoe-deferred") deferred[run.degree] = run.backward_s;
    }
    for (const PointRun& run : found->second.runs) {
      if (run.schedule != "pipemoe") continue;
      const auto also = deferred.find(run.degree);
      text += fmt::format("{},{},{},{},{},{}\n", point.index, study.name, run.degree, run.forward_s,
                          run.backward_s,
                          also == deferred.end() ? "" : fmt::format("{}", also->second));
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
          {"deferred_gain", json_of(summary.deferred_gain)},
          {"deferred_chosen_is_best_share", summary.deferred_best}};
}

Json summary_json(const Study& study, const std::vector<StudySummary>& summaries) {
  const Provenance from = provenance("study");
  Json json{{"schema", "pipemoe.study/1"},
            {"study", study.name},
            {"note", study.note},
            {"network", sim::to_string(study.network)},
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

std::string cluster_text(const StudySummary& one) {
  std::string text = fmt::format("  {}: {} layers{}\n", one.cluster, one.points,
                                 one.failed ? fmt::format(", {} FAILED", one.failed) : "");
  if (one.points == 0) return text;
  text += fmt::format(
      "    chosen degree is the best: forward {}, backward {}, both {}; "
      "iteration within 1 %: {}\n",
      percent(one.forward_best), percent(one.backward_best), percent(one.both_best),
      percent(one.within_1_percent));
  text += "   regret of an iteration against the best degrees\n";
  text += regret_line("chosen", one.regret);
  for (const auto& [name, regret] : one.fixed_regret) text += regret_line(name, regret);
  if (!one.speedup.empty()) text += "   time over ours\n";
  for (const auto& [name, speedup] : one.speedup) {
    text += fmt::format("    {:<14} min {:>8.3f}  mean {:>7.3f}  max {:>8.3f}\n", name, speedup.min,
                        speedup.mean, speedup.max);
  }
  if (one.deferred_best > 0) {
    text += fmt::format(
        "   deferred weight gradients: gain min {}, mean {}, max {}; "
        "chosen degree is the best {}\n",
        percent(one.deferred_gain.min), percent(one.deferred_gain.mean),
        percent(one.deferred_gain.max), percent(one.deferred_best));
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
      fmt::format("study {}, network level {}\n", study.name, sim::to_string(study.network));
  if (!study.note.empty()) text += fmt::format("  note: {}\n", study.note);
  for (const StudySummary& summary : summaries) text += cluster_text(summary);
  return text;
}

}  // namespace pipemoe::program
