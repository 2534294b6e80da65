#include "experiments/timeline_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "experiments/terminal.hpp"
#include "models/files.hpp"
#include "models/timeline_io.hpp"

namespace pipemoe::program {
namespace {

int num_ranks(const Timeline& timeline) {
  std::set<int> ranks;
  for (const Span& span : timeline.spans) ranks.insert(span.rank);
  return std::max(1, static_cast<int>(ranks.size()));
}

void print_steps(const Timeline& timeline) {
  struct Row {
    int tasks = 0;
    Seconds time{};
    std::map<int, Seconds> of_rank;
  };
  std::map<std::pair<Pass, Step>, Row> rows;
  for (const Span& span : timeline.spans) {
    Row& row = rows[{span.task.pass, span.task.step}];
    ++row.tasks;
    row.time += span.duration();
    row.of_rank[span.rank] += span.duration();
  }
  const int ranks = num_ranks(timeline);
  fmt::print("  {:<9} {:<23} {:>5} {:>12} {:>12}{}\n", "pass", "step", "tasks", "each (ms)",
             "all (ms)", ranks > 1 ? fmt::format(" {:>13}", "busiest rank") : "");
  for (const auto& [key, row] : rows) {
    if (row.time <= Seconds{}) continue;  // the notes name what costs nothing
    Seconds most{};
    for (const auto& [rank, time] : row.of_rank) most = std::max(most, time);
    fmt::print("  {:<9} {:<23} {:>5} {:>12.3f} {:>12.3f}{}\n", to_string(key.first),
               to_string(key.second), row.tasks / ranks, milliseconds(row.time) / row.tasks,
               milliseconds(row.time) / ranks,
               ranks > 1 ? fmt::format(" {:>13.3f}", milliseconds(most)) : "");
  }
}

void print_repeats(const Timeline& timeline) {
  if (timeline.repeats.empty()) return;
  const auto [least, most] = std::minmax_element(timeline.repeats.begin(), timeline.repeats.end());
  fmt::print("  median of {} iterations, {:.3f} to {:.3f} ms\n", timeline.repeats.size(),
             milliseconds(*least), milliseconds(*most));
}

}  // namespace

void add_timeline_outputs(CLI::App& command, TimelineOutputs& outputs) {
  command.add_option("--trace", outputs.trace, "Write a trace for Perfetto")->type_name("FILE");
  command.add_option("--csv", outputs.csv, "Write the spans as CSV")->type_name("FILE");
  command.add_option("--output", outputs.output, "Write the timeline as JSON")->type_name("FILE");
  command.add_flag("--json", outputs.json, "Print the timeline as JSON");
}

void check_outputs(const std::vector<NamedFile>& inputs, const TimelineOutputs& outputs) {
  check_outputs(inputs,
                {{"--trace", outputs.trace}, {"--csv", outputs.csv}, {"--output", outputs.output}});
}

void write_outputs(const Timeline& timeline, const TimelineOutputs& outputs) {
  if (!outputs.trace.empty()) {
    write_file(outputs.trace, to_chrome_trace({{timeline.provenance.made_by, &timeline}}));
  }
  if (!outputs.csv.empty()) write_file(outputs.csv, to_csv(timeline));
  if (!outputs.output.empty()) write_file(outputs.output, to_json(timeline));
}

void print_timeline(const Timeline& timeline) {
  print_steps(timeline);
  fmt::print("\n{}\n", draw_timeline(timeline, terminal_columns()));
  fmt::print("  makespan {:.3f} ms = forward {:.3f} + backward {:.3f}\n",
             milliseconds(timeline.makespan()), milliseconds(timeline.forward()),
             milliseconds(timeline.backward()));
  print_repeats(timeline);
  fmt::print("  compute busy {:.3f} ms; communication {:.3f} ms, {:.1f} % of it hidden\n",
             milliseconds(timeline.busy(Resource::Compute)), milliseconds(timeline.communication()),
             100 * timeline.overlap_ratio());
  if (timeline.basis) print_basis(*timeline.basis);
  print_notes(timeline.provenance.notes);
}

}  // namespace pipemoe::program
