// pipemoe validate: calibrates, predicts, then measures, and says how good the predictions were.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "exec/calibration/calibrate.hpp"
#include "exec/execute.hpp"
#include "exec/executor.hpp"
#include "experiments/calibration_report.hpp"
#include "experiments/commands.hpp"
#include "experiments/inputs.hpp"
#include "experiments/journal.hpp"
#include "experiments/ranks.hpp"
#include "experiments/terminal.hpp"
#include "experiments/validation.hpp"
#include "experiments/validation_summary.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"
#include "models/files.hpp"
#include "models/search.hpp"
#include "models/timeline_io.hpp"
#include "models/version.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

/// Turns that the degrees of a layer take.
constexpr int kRounds = 10;
/// Iterations of a turn for each of which spans are taken, where that takes an iteration of its
/// own.
constexpr int kSpansEvery = 3;
constexpr const char* kJournal = "points.jsonl";

struct ValidateOptions {
  std::string file;
  fs::path output;
  bool timelines = false;
  bool force = false;
  RankOptions ranks;
};

// What rank 0 says, on every rank.
std::string from_rank_0(exec::ProcessGroup& group, const std::string& mine) {
  return exec::all_gather(group, group.rank() == 0 ? mine : std::string()).front();
}

Degrees closed_form_choice(const std::vector<ValidationPoint>& points,
                           const Preference& preference) {
  std::vector<TimedDegrees> candidates;
  for (const auto& point : points) {
    candidates.push_back({point.degrees, point.closed_form_makespan});
  }
  return choose_degrees(candidates, preference);
}

ValidationPoint with_measurement(ValidationPoint point, const Timeline& measured) {
  point.measured_makespan =
      measured.repeats[exec::median_index(exec::in_seconds(measured.repeats))];
  point.measured_forward = point.measured_makespan * (measured.forward() / measured.makespan());
  const auto [least, most] = std::minmax_element(measured.repeats.begin(), measured.repeats.end());
  point.measured_least = *least;
  point.measured_most = *most;
  point.measured_hidden = measured.overlap_ratio();
  return point;
}

class Run {
 public:
  Run(exec::ProcessGroup& group, const Validation& validation, const ValidateOptions& options)
      : group_(group),
        validation_(validation),
        output_(options.output),
        other_commit_(options.force ? OtherCommit::Accept : OtherCommit::Refuse),
        keeps_timelines_(options.timelines) {}

  void run();

 private:
  void load_finished();
  Cluster profile_of(const Regime& regime);
  void check_has_profile(const Regime& regime, const fs::path& path, bool has) const;
  void check_predicted_alike(const ValidationPoint& finished,
                             const ValidationPoint& predicted) const;
  ValidationPoint predict(const Regime& regime, const MoeLayer& layer, const Cluster& cluster,
                          Degrees degrees) const;
  std::vector<ValidationPoint> predict(const Regime& regime, const MoeLayer& layer,
                                       const Cluster& cluster) const;
  void measure(const Regime& regime, const Cluster& cluster);
  void measure_layer(const Regime& regime, const MoeLayer& layer, const Cluster& cluster,
                     const std::vector<ValidationPoint>& predicted);
  void write_timelines(const ValidationPoint& point, const Timeline& predicted,
                       const Timeline& measured) const;
  void write_results() const;
  bool speaks() const { return group_.rank() == 0; }
  std::string header() const;
  fs::path profile_path(const std::string& regime) const {
    return output_ / ("profile-" + regime + ".toml");
  }

  exec::ProcessGroup& group_;
  const Validation& validation_;
  fs::path output_;
  OtherCommit other_commit_;
  bool keeps_timelines_;
  std::optional<Journal> journal_;  // on rank 0
  std::vector<ValidationPoint> finished_;
  std::map<std::string, std::string> versions_;  // where regimes differ: each
};

std::string Run::header() const {
  return Json{{"validation", Json::parse(validation_.configuration)},
              {"ranks", group_.size()},
              {"program", kVersion}}
      .dump();
}

// Rank 0's journal decides what is left to do.
void Run::load_finished() {
  std::string lines, problem;
  if (speaks()) {
    try {
      journal_.emplace(output_ / kJournal, JournalHeader(header(), other_commit_));
      for (const auto& point : validation_points_from(journal_->lines(), validation_)) {
        lines += to_json_line(point) + "\n";
      }
    } catch (const InputError& error) {
      problem = error.what();
    }
  }
  if (!from_rank_0(group_, problem).empty()) {
    if (speaks()) throw InputError(problem);
    throw SilentExit{2};
  }
  std::istringstream text(from_rank_0(group_, lines));
  for (std::string line; std::getline(text, line);) {
    finished_.push_back(validation_point_from({"rank 0's journal", line}, validation_));
  }
}

// The profile in the results folder, or a new calibration.
Cluster Run::profile_of(const Regime& regime) {
  const fs::path path = profile_path(regime.name);
  const bool known = speaks() && fs::exists(path);
  std::string text = from_rank_0(group_, known ? read_file(path, "cluster profile") : "");
  agree(group_, [&] {
    check_has_profile(regime, path, !text.empty());
    return std::string("null");
  });
  if (text.empty()) {
    Progress progress("calibrating " + regime.name);
    exec::CalibrateOptions options;
    options.name = regime.name;
    options.degrees = validation_.degrees;
    options.warm_up = validation_.warm_up;
    options.repeats = validation_.calibration_repeats;
    options.progress = [&](std::size_t done, std::size_t total) {
      if (speaks()) progress.update(done, total);
    };
    const auto tools = exec::calibration_tools(regime.backend, group_);
    const auto calibration = calibrate(regime.layers, tools, group_, options);
    if (speaks()) {
      write_file(output_ / ("calibration-" + regime.name + ".csv"), to_csv(calibration.rows));
      write_file(output_ / ("contention-" + regime.name + ".csv"), to_csv(calibration.contention));
      write_file(path, to_toml(calibration.cluster));
    }
    text = from_rank_0(group_, to_toml(calibration.cluster));
  }
  Cluster cluster;
  agree(group_, [&] {
    cluster = read_cluster(ConfigFile::parse(text, path.string(), "cluster"));
    if (cluster.name == regime.name) return std::string("null");
    throw InputError(fmt::format("{}: is the profile {}, must be that of the regime {}",
                                 path.string(), cluster.name, regime.name));
  });
  return cluster;
}

// A new calibration would predict otherwise than the points that there are.
void Run::check_has_profile(const Regime& regime, const fs::path& path, bool has) const {
  for (const ValidationPoint& point : finished_) {
    if (has || point.regime != regime.name) continue;
    throw InputError(fmt::format(
        "{}: is missing, and {} has points predicted from it: bring it back, or choose another "
        "--output",
        path.string(), (output_ / kJournal).string()));
  }
}

void Run::check_predicted_alike(const ValidationPoint& finished,
                                const ValidationPoint& predicted) const {
  if (!same_place(finished, predicted) || same_prediction(finished, predicted)) return;
  throw InputError(fmt::format(
      "{}: {} {} at {} was not predicted from {}: bring the profile of then back, or choose "
      "another --output",
      (output_ / kJournal).string(), predicted.regime, predicted.layer,
      to_string(predicted.degrees), profile_path(predicted.regime).string()));
}

ValidationPoint Run::predict(const Regime& regime, const MoeLayer& layer, const Cluster& cluster,
                             Degrees degrees) const {
  Cluster apart = cluster;
  apart.contention.reset();
  for (auto& [of, fit] : apart.collectives) fit.queued_saving = {};
  const TaskGraph graph = build_graph(validation_.schedule, layer, cluster, degrees);
  const Timeline timeline = evaluation_at(NetworkLevel::Fitted, Costs(graph, cluster)).timeline;
  ValidationPoint point{regime.name, layer.name, degrees, timeline.forward(), timeline.makespan()};
  point.predicted_hidden = timeline.overlap_ratio();
  point.basis = timeline.basis.value_or(BasisShares{});
  point.closed_form_makespan = evaluate(Costs(graph, apart)).makespan();
  point.limit = makespan_limit(layer, cluster);
  return point;
}

// At equal degrees, and at those that plan would choose of them, which may differ by pass.
std::vector<ValidationPoint> Run::predict(const Regime& regime, const MoeLayer& layer,
                                          const Cluster& cluster) const {
  std::vector<ValidationPoint> points;
  Preference preference = preference_of(cluster.conditions);
  for (const std::int64_t degree : validation_.degrees) {
    if (degree > layer.slots()) continue;
    points.push_back(predict(regime, layer, cluster, {degree, degree}));
    preference.degrees.push_back(degree);
  }
  preference.max_degree = preference.degrees.back();
  preference.closed_form = false;
  const Schedule& schedule = find_schedule(validation_.schedule);
  const Degrees chosen = degrees_of(
      build_graph(schedule, layer, cluster, search_choice(schedule, layer, cluster, preference)));
  if (chosen.forward_degree != chosen.backward_degree) {
    points.push_back(predict(regime, layer, cluster, chosen));
  }
  const Degrees closed_form = closed_form_choice(points, preference);
  for (ValidationPoint& point : points) {
    point.chosen = point.degrees == chosen;
    point.closed_form_chosen = point.degrees == closed_form;
  }
  return points;
}

// All degrees of a layer in turns.
void Run::measure_layer(const Regime& regime, const MoeLayer& layer, const Cluster& cluster,
                        const std::vector<ValidationPoint>& predicted) {
  std::vector<TaskGraph> graphs;
  for (const ValidationPoint& point : predicted) {
    graphs.push_back(build_graph(validation_.schedule, layer, cluster, point.degrees));
  }
  const auto executor = exec::make_executor(layer, regime.backend, group_);
  const auto timelines = exec::execute(graphs, *executor, group_,
                                       {.warm_up = validation_.warm_up,
                                        .repeats = validation_.repeats,
                                        .rounds = std::min(validation_.repeats, kRounds),
                                        .spans_every = kSpansEvery});
  for (const auto& [what, version] : executor->versions()) {
    std::string& known = versions_[what];
    if (known.find(version) == std::string::npos) known += (known.empty() ? "" : "; ") + version;
  }
  for (std::size_t i = 0; i < graphs.size(); ++i) {
    if (keeps_timelines_ && speaks()) {
      const Costs costs(graphs[i], cluster);
      write_timelines(predicted[i], evaluation_at(NetworkLevel::Fitted, costs).timeline,
                      timelines[i]);
    }
    finished_.push_back(with_measurement(predicted[i], timelines[i]));
    if (journal_) journal_->append(to_json_line(finished_.back()));
  }
}

void Run::write_timelines(const ValidationPoint& point, const Timeline& predicted,
                          const Timeline& measured) const {
  const fs::path folder = output_ / "timelines";
  fs::create_directories(folder);
  const auto write = [&](const char* which, const Timeline& timeline) {
    write_file(
        folder / fmt::format("{}-{}-{}-{}-{}.json", point.regime, point.layer,
                             point.degrees.forward_degree, point.degrees.backward_degree, which),
        to_json(timeline));
  };
  write("predicted", predicted);
  write("measured", measured);
}

void Run::measure(const Regime& regime, const Cluster& cluster) {
  Progress progress("measuring " + regime.name);
  std::size_t done = 0;
  for (const MoeLayer& layer : regime.layers) {
    std::vector<ValidationPoint> missing = predict(regime, layer, cluster);
    agree(group_, [&] {
      for (const ValidationPoint& point : missing) {
        for (const ValidationPoint& one : finished_) check_predicted_alike(one, point);
      }
      return std::string("null");
    });
    std::erase_if(missing, [&](const ValidationPoint& point) {
      return std::any_of(finished_.begin(), finished_.end(),
                         [&](const ValidationPoint& one) { return same_place(one, point); });
    });
    if (!missing.empty()) measure_layer(regime, layer, cluster, missing);
    if (speaks()) progress.update(++done, regime.layers.size());
  }
}

void Run::write_results() const {
  const ValidationSummary summary = summarise(finished_);
  Provenance from = provenance(fmt::format("pipemoe validate, {} ranks", group_.size()));
  from.configuration = validation_.configuration;
  from.versions = versions_;
  write_file(output_ / "points.csv", to_csv(finished_));
  write_file(output_ / "summary.json", to_json(summary, from));
  fmt::print("{}written: {}\n", to_text(summary), printable(output_.string()));
}

void Run::run() {
  load_finished();
  for (const Regime& regime : validation_.regimes) measure(regime, profile_of(regime));
  if (speaks()) write_results();
  group_.barrier();
}

void run_on(exec::ProcessGroup& group, const ValidateOptions& options) {
  Validation validation;
  agree(group, [&] {
    validation = read_validation(options.file);
    for (const Regime& regime : validation.regimes) {
      exec::check_options(regime.backend);
      exec::check_layers(regime.layers, validation.degrees);
      for (const MoeLayer& layer : regime.layers) {
        exec::check_layer(layer, regime.backend, group.size());
      }
    }
    return validation.configuration;
  });
  Run(group, validation, options).run();
}

}  // namespace

void add_validate_command(CLI::App& app) {
  auto options = std::make_shared<ValidateOptions>();
  CLI::App* command =
      app.add_subcommand("validate", "Calibrate, predict, measure, and compare over many layers");
  command->footer(
      "Example:\n  mpirun -np 2 pipemoe validate experiments/validation-cpu/validation.toml "
      "--output results\nA killed run goes on where it was.");
  command->add_option("file", options->file, "Validation (TOML)")->type_name("FILE")->required();
  command->add_option("--output", options->output, "Folder for the results")
      ->type_name("FOLDER")
      ->required();
  add_rank_options(*command, options->ranks);
  command->add_flag("--force", options->force,
                    "Continue results that another commit of the program has made");
  command->add_flag("--timelines", options->timelines,
                    "Keep the predicted and the measured timeline of every point, for compare");
  command->callback([options] {
    on_ranks(options->ranks, [&](exec::ProcessGroup& group) { run_on(group, *options); });
  });
}

}  // namespace pipemoe::program
