// pipemoe study: a sweep over layers, clusters, schedules and degrees; resumable.
#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "experiments/commands.hpp"
#include "experiments/journal.hpp"
#include "experiments/process_pool.hpp"
#include "experiments/study.hpp"
#include "experiments/study_results.hpp"
#include "experiments/terminal.hpp"
#include "models/error.hpp"
#include "models/version.hpp"

namespace pipemoe::program {
namespace {

struct StudyOptions {
  std::string file;
  std::string network;
  std::string output;
  std::string shard;
  std::size_t jobs = std::max(1u, std::thread::hardware_concurrency());
  bool list = false;
  bool force = false;
};

/// Part `index` of `count`, taking every count-th point.
struct Shard {
  std::size_t index = 0;
  std::size_t count = 1;
};

Shard parse_shard(const std::string& text) {
  if (text.empty()) return {};
  Shard shard;
  const char* end = text.data() + text.size();
  const auto slash = std::from_chars(text.data(), end, shard.index);
  const bool good = slash.ec == std::errc{} && slash.ptr != end && *slash.ptr == '/' &&
                    std::from_chars(slash.ptr + 1, end, shard.count).ptr == end;
  if (!good || shard.index >= shard.count) {
    throw InputError(fmt::format("--shard is {}, must be I/N with 0 <= I < N", text));
  }
  return shard;
}

// What results in a folder must have in common.
std::string header_of(const Study& study) {
  return nlohmann::ordered_json{
      {"schema", "pipemoe.study_points/1"},
      {"program", kVersion},
      {"study", study.name},
      {"network", to_string(study.network)},
      {"configuration", nlohmann::ordered_json::parse(study.configuration)}}
      .dump();
}

void list_points(const Study& study) {
  const auto print = [](const StudyPoint& point, const char* what) {
    fmt::print("{:<9} {:<22}", what, point.cluster->name);
    for (const auto& [key, value] : point.values) fmt::print(" {}={}", key, value);
    fmt::print("\n");
  };
  for (const StudyPoint& point : study.points) print(point, fmt::format("{}", point.index).c_str());
  for (const StudyPoint& point : study.left_out) print(point, "left out");
  fmt::print("{} points; {} left out: they need more than a GPU's usable memory\n",
             study.points.size(), study.left_out.size());
}

std::vector<const StudyPoint*> missing_points(const Study& study, const Shard& shard,
                                              const std::map<std::size_t, PointResult>& finished) {
  std::vector<const StudyPoint*> missing;
  for (const StudyPoint& point : study.points) {
    const bool ours = point.index % shard.count == shard.index;
    if (ours && !finished.contains(point.index)) missing.push_back(&point);
  }
  return missing;
}

// Points whose workers died, with the reason. Nothing is journaled of them, because a death by
// signal says nothing of the point: the next start tries them again.
using Deaths = std::vector<std::pair<std::size_t, std::string>>;

Deaths run_missing(const Study& study, const StudyOptions& options,
                   const std::vector<const StudyPoint*>& missing, Journal& journal) {
  Progress progress("study " + study.name);
  std::size_t done = 0;
  const PoolSummary summary = run_in_processes(
      missing.size(), options.jobs,
      [&](std::size_t job) { return to_json_line(run_point(study, *missing[job])); },
      [&](std::size_t, const std::string& line) {
        journal.append(line);
        progress.update(++done, missing.size());
      });
  if (summary.retried > 0) {
    print_error(fmt::format("note: {} workers died and were started again", summary.retried));
  }
  Deaths deaths;
  for (const auto& [job, how] : summary.given_up) deaths.emplace_back(missing[job]->index, how);
  return deaths;
}

std::vector<std::string> failures_of(const Deaths& deaths,
                                     const std::map<std::size_t, PointResult>& results) {
  std::vector<std::string> failures;
  for (const auto& [index, how] : deaths) {
    failures.push_back(
        fmt::format("point {}: its worker was {} {} times; start the study again to retry it",
                    index, how, kMostAttempts));
  }
  for (const auto& [index, result] : results) {
    if (result.error.empty()) continue;
    failures.push_back(fmt::format("point {}: {}", index, result.error));
  }
  return failures;
}

void print_first(const std::vector<std::string>& failures, const std::string& folder) {
  constexpr std::size_t kMost = 10;
  for (std::size_t i = 0; i < std::min(kMost, failures.size()); ++i) print_error(failures[i]);
  if (failures.size() <= kMost) return;
  print_error(fmt::format("{} more points failed; the journals in {} say why",
                          failures.size() - kMost, folder));
}

void run(const StudyOptions& options) {
  const Shard shard = parse_shard(options.shard);
  if (!options.list && options.output.empty()) throw InputError("--output FOLDER is required");
  const Study study = read_study(options.file, options.network);
  if (options.list) return list_points(study);
  const JournalHeader header(header_of(study),
                             options.force ? OtherCommit::Accept : OtherCommit::Refuse);
  std::string name = options.shard;
  std::replace(name.begin(), name.end(), '/', '-');
  Deaths deaths;
  {
    Journal journal(journal_path(options.output, name), header);
    const auto before = read_journals(options.output, header, study);
    deaths = run_missing(study, options, missing_points(study, shard, before), journal);
  }
  const auto results = read_journals(options.output, header, study);
  const std::vector<std::string> failures = failures_of(deaths, results);
  print_first(failures, options.output);
  if (results.size() + deaths.size() < study.points.size()) {
    fmt::print("{} of {} points done; the other shards write the tables when they end\n",
               results.size(), study.points.size());
    return;
  }
  write_tables(study, results, options.output);
  fmt::print("{}", summary_text(study, summarise(study, results)));
  if (!failures.empty()) {
    throw RunError(fmt::format("{} of {} points failed; the tables hold the others",
                               failures.size(), study.points.size()));
  }
}

}  // namespace

void add_study_command(CLI::App& app) {
  auto options = std::make_shared<StudyOptions>();
  CLI::App* command = app.add_subcommand("study", "Run a sweep described in a file; resumable");
  command->footer(
      "Example:\n  pipemoe study experiments/study174/study.toml --network fitted "
      "--output build/results/study174\nKilled, it goes on where it was when started again. "
      "In a job array:\n  pipemoe study FILE --output FOLDER --shard $SLURM_ARRAY_TASK_ID/8");
  command->add_option("file", options->file, "The study (TOML)")->type_name("FILE")->required();
  command->add_option("--network", options->network, "fitted, links, node or gpu [the file's]");
  command->add_option("--output", options->output, "Folder for journal and tables")
      ->type_name("FOLDER");
  command->add_option("--shard", options->shard, "Run part I of N")->type_name("I/N");
  command->add_option("--jobs", options->jobs, "Processes at a time")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_flag("--force", options->force,
                    "Continue results that another commit of the program has made");
  command->add_flag("--list", options->list, "Show what would run, and what is left out");
  command->callback([options] { run(*options); });
}

}  // namespace pipemoe::program
