// pipemoe compare: a predicted timeline against a measured one.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>

#include "experiments/commands.hpp"
#include "experiments/terminal.hpp"
#include "models/comparison.hpp"
#include "models/error.hpp"
#include "models/files.hpp"
#include "models/timeline_io.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

struct CompareOptions {
  std::string predicted;
  std::string measured;
  std::string csv;
  std::string trace;
  bool json = false;
};

struct Both {
  Timeline predicted;
  Timeline measured;
  Comparison comparison;
};

// A quantity of the whole iteration: scope and name, as in JSON and CSV.
struct Whole {
  const char* scope;
  const char* name;
  const Compared& compared;
};

std::array<Whole, 5> wholes(const Comparison& comparison) {
  return {{{"forward", "pass", comparison.forward},
           {"backward", "pass", comparison.backward},
           {"iteration", "makespan", comparison.makespan},
           {"iteration", "communication", comparison.communication},
           {"iteration", "exposed_communication", comparison.exposed_communication}}};
}

Both read_both(const CompareOptions& options) {
  const auto read = [](const std::string& path) {
    return timeline_from_json(read_file(path, "timeline"), path);
  };
  Both both{read(options.predicted), read(options.measured), {}};
  try {
    both.comparison = compare(both.predicted, both.measured);
  } catch (const InputError& error) {
    throw InputError(
        fmt::format("{} and {}: {}", options.predicted, options.measured, error.what()));
  }
  return both;
}

Json compared_json(const Compared& compared) {
  const auto relative = compared.relative_error();
  return {{"predicted_s", compared.predicted.count()},
          {"measured_s", compared.measured.count()},
          {"error_s", compared.error().count()},
          {"relative_error", relative ? Json(*relative) : Json()}};
}

Json origin_json(const std::string& path, const Timeline& timeline) {
  const Provenance& from = timeline.provenance;
  return {{"file", path},
          {"program", from.program},
          {"commit", from.commit},
          {"host", from.host},
          {"made_by", from.made_by},
          {"ranks", timeline.ranks().size()},
          {"repeats", timeline.repeats.size()},
          {"notes", from.notes}};
}

void print_json(const CompareOptions& options, const Both& both) {
  Json json{{"schema", "pipemoe.comparison/2"},
            {"predicted", origin_json(options.predicted, both.predicted)},
            {"measured", origin_json(options.measured, both.measured)}};
  json["steps"] = Json::array();
  for (const StepComparison& row : both.comparison.steps) {
    json["steps"].push_back({{"pass", to_string(row.pass)},
                             {"step", to_string(row.step)},
                             {"tasks_per_rank", row.tasks_per_rank},
                             {"modelled", row.modelled()},
                             {"mean", compared_json(row.mean)},
                             {"sum", compared_json(row.sum)}});
  }
  for (const auto& [scope, name, compared] : wholes(both.comparison)) {
    json["whole"].push_back({{"scope", scope}, {"quantity", name}});
    json["whole"].back().update(compared_json(compared));
  }
  fmt::print("{}\n", json.dump(1));
}

std::string csv_columns(const Compared& compared) {
  const auto relative = compared.relative_error();
  return fmt::format("{},{},{},{}", compared.predicted.count(), compared.measured.count(),
                     compared.error().count(), relative ? fmt::format("{}", *relative) : "");
}

// Steps first; tasks and means are of those only.
std::string csv_table(const Comparison& comparison) {
  std::string text =
      "scope,quantity,tasks_per_rank,modelled,predicted_mean_s,measured_mean_s,"
      "predicted_s,measured_s,error_s,relative_error\n";
  for (const StepComparison& row : comparison.steps) {
    text += fmt::format("{},{},{},{},{},{},{}\n", to_string(row.pass), to_string(row.step),
                        row.tasks_per_rank, row.modelled(), row.mean.predicted.count(),
                        row.mean.measured.count(), csv_columns(row.sum));
  }
  for (const auto& [scope, name, compared] : wholes(comparison)) {
    text += fmt::format("{},{},,true,,,{}\n", scope, name, csv_columns(compared));
  }
  return text;
}

std::string error_text(const Compared& compared) {
  const auto relative = compared.relative_error();
  return fmt::format("{:>+10.3f} {:>9}", milliseconds(compared.error()),
                     relative ? fmt::format("{:+.1f} %", 100 * *relative) : "-");
}

void print_origin(const char* what, const Timeline& timeline) {
  const std::size_t ranks = timeline.ranks().size();
  fmt::print("{:<10} {} ({} rank{})\n", what, timeline.provenance.made_by, ranks,
             ranks == 1 ? "" : "s");
}

void print_steps(const Comparison& comparison) {
  fmt::print("  {:<9} {:<23} {:>5} {:>19} {:>19} {:>20}\n", "", "", "", "one task (ms)",
             "all of a rank (ms)", "error");
  fmt::print("  {:<9} {:<23} {:>5} {:>9} {:>9} {:>9} {:>9} {:>10}\n", "pass", "step", "tasks",
             "predicted", "measured", "predicted", "measured", "(ms)");
  for (const StepComparison& row : comparison.steps) {
    fmt::print("  {:<9} {:<23} {:>5} {:>9.3f} {:>9.3f} {:>9.3f} {:>9.3f} {}\n", to_string(row.pass),
               to_string(row.step), row.tasks_per_rank, milliseconds(row.mean.predicted),
               milliseconds(row.mean.measured), milliseconds(row.sum.predicted),
               milliseconds(row.sum.measured),
               row.modelled() ? error_text(row.sum) : fmt::format("{:>20}", "not modelled"));
  }
}

void print_wholes(const Comparison& comparison) {
  const auto print = [](const char* name, const Compared& compared) {
    fmt::print("  {:<58} {:>9.3f} {:>9.3f} {}\n", name, milliseconds(compared.predicted),
               milliseconds(compared.measured), error_text(compared));
  };
  print("forward", comparison.forward);
  print("backward", comparison.backward);
  print("iteration", comparison.makespan);
  print("communication", comparison.communication);
  print("  of it beside no computation", comparison.exposed_communication);
}

void print_repeats(std::vector<Seconds> repeats) {
  if (repeats.empty()) return;
  std::sort(repeats.begin(), repeats.end());
  const Seconds median = repeats[(repeats.size() - 1) / 2];  // the one that `run` shows
  fmt::print(
      "\n  measured iterations: {}, {:.3f} ms the fastest, {:.3f} the median, {:.3f} the "
      "slowest\n",
      repeats.size(), milliseconds(repeats.front()), milliseconds(median),
      milliseconds(repeats.back()));
}

// The notes of both, each once.
std::vector<std::string> all_notes(const Both& both) {
  std::vector<std::string> notes = both.predicted.provenance.notes;
  for (const std::string& note : both.measured.provenance.notes) {
    if (std::find(notes.begin(), notes.end(), note) == notes.end()) notes.push_back(note);
  }
  return notes;
}

void print_text(const Both& both) {
  print_origin("predicted", both.predicted);
  print_origin("measured", both.measured);
  fmt::print("\n");
  print_steps(both.comparison);
  fmt::print("\n");
  print_wholes(both.comparison);
  print_repeats(both.measured.repeats);
  if (both.predicted.basis) print_basis(*both.predicted.basis);
  print_notes(all_notes(both));
}

void run(const CompareOptions& options) {
  check_outputs(
      {{"the predicted timeline", options.predicted}, {"the measured timeline", options.measured}},
      {{"--trace", options.trace}, {"--csv", options.csv}});
  const Both both = read_both(options);
  if (!options.trace.empty()) {
    write_file(
        options.trace,
        to_chrome_trace({{"predicted: " + both.predicted.provenance.made_by, &both.predicted},
                         {"measured: " + both.measured.provenance.made_by, &both.measured}}));
  }
  if (!options.csv.empty()) write_file(options.csv, csv_table(both.comparison));
  if (options.json) {
    print_json(options, both);
  } else {
    print_text(both);
  }
}

}  // namespace

void add_compare_command(CLI::App& app) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App* command =
      app.add_subcommand("compare", "Compare a predicted timeline with a measured one");
  command->footer(
      "Example:\n  pipemoe compare predicted.json measured.json --trace both.json\n"
      "  Both are timelines of one task graph, as simulate --output writes them.");
  command->add_option("predicted", options->predicted, "Timeline (JSON)")
      ->type_name("FILE")
      ->required();
  command->add_option("measured", options->measured, "Timeline (JSON) of the same task graph")
      ->type_name("FILE")
      ->required();
  command->add_option("--csv", options->csv, "Write the table as CSV")->type_name("FILE");
  command
      ->add_option("--trace", options->trace, "Write both for Perfetto, predicted above measured")
      ->type_name("FILE");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] { run(*options); });
}

}  // namespace pipemoe::program
