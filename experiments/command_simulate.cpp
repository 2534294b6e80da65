// pipemoe simulate: one iteration on a virtual cluster.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "experiments/commands.hpp"
#include "experiments/inputs.hpp"
#include "experiments/terminal.hpp"
#include "experiments/timeline_report.hpp"
#include "models/error.hpp"
#include "models/files.hpp"
#include "models/task_graph_io.hpp"
#include "models/timeline_io.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

struct SimulateOptions {
  InputOptions inputs;
  ScheduleOptions schedule;
  std::string graph;
  std::string network = to_string(NetworkLevel::Fitted);
  TimelineOutputs outputs;
};

struct Prepared {
  Inputs inputs;
  TaskGraph graph;
  std::vector<std::string> notes;  // of how degrees were chosen
};

Prepared prepare(const SimulateOptions& options, NetworkLevel level) {
  if (options.graph.empty()) {
    Inputs inputs = read_inputs(options.inputs);
    Scheduled scheduled = make_schedule(options.schedule, inputs, evaluator_for(level));
    return {std::move(inputs), std::move(scheduled.graph), std::move(scheduled.notes)};
  }
  if (!options.inputs.layer.empty() || options.schedule.forward_degree ||
      options.schedule.backward_degree) {
    throw InputError("--graph excludes --layer, --forward-degree and --backward-degree");
  }
  TaskGraph graph = task_graph_from_json(read_file(options.graph, "task graph"), options.graph);
  return {read_cluster_only(options.inputs), std::move(graph), {}};
}

std::string configuration(const SimulateOptions& options, const Prepared& prepared) {
  Json json = Json::parse(prepared.inputs.configuration);
  json["schedule"] = prepared.graph.schedule();
  json["network"] = options.network;
  if (!options.graph.empty()) json["graph"] = options.graph;
  const Degrees degrees = degrees_of(prepared.graph);
  json["forward_degree"] = degrees.forward_degree;
  json["backward_degree"] = degrees.backward_degree;
  return json.dump();
}

void print_text(const SimulateOptions& options, const Prepared& prepared,
                const Timeline& timeline) {
  if (options.graph.empty()) print_heading(prepared.inputs.layer, prepared.inputs.cluster);
  const Json configured = Json::parse(timeline.provenance.configuration);
  fmt::print("schedule {}, degree {} forward, {} backward; network level {}\n\n",
             prepared.graph.schedule(), configured["forward_degree"].get<int>(),
             configured["backward_degree"].get<int>(), options.network);
  print_timeline(timeline);
}

void run(const SimulateOptions& options) {
  std::vector<NamedFile> inputs = input_files(options.inputs);
  inputs.push_back({"--graph", options.graph});
  check_outputs(inputs, options.outputs);
  const NetworkLevel level = network_level_from(options.network);
  const Prepared prepared = prepare(options, level);
  const Costs costs(prepared.graph, prepared.inputs.cluster);
  Timeline timeline;
  {
    Progress progress("simulating");
    timeline = evaluate_for(level, costs, [&](std::size_t done, std::size_t total) {
                 progress.update(done, total);
               }).timeline;
  }
  timeline.provenance.configuration = configuration(options, prepared);
  std::vector<std::string>& notes = timeline.provenance.notes;
  notes.insert(notes.end(), prepared.notes.begin(), prepared.notes.end());
  const auto inert = inert_overrides(prepared.inputs.cluster_overrides, level);
  notes.insert(notes.end(), inert.begin(), inert.end());
  write_outputs(timeline, options.outputs);
  if (options.outputs.json) {
    fmt::print("{}", to_json(timeline));
  } else {
    print_text(options, prepared, timeline);
  }
}

}  // namespace

void add_simulate_command(CLI::App& app) {
  auto options = std::make_shared<SimulateOptions>();
  CLI::App* command = app.add_subcommand("simulate", "Run one iteration on a virtual cluster");
  command->footer(
      "Example:\n  pipemoe simulate --layer experiments/layers/pipemoe-example.toml "
      "--cluster experiments/clusters/rtx2080ti-100gib-64.toml --network node --trace trace.json");
  add_input_options(*command, options->inputs);
  add_schedule_options(*command, options->schedule);
  command->add_option("--graph", options->graph, "Run this task graph (JSON) instead of a layer")
      ->type_name("FILE");
  command->add_option("--network", options->network, kLevelsHelp)->capture_default_str();
  add_timeline_outputs(*command, options->outputs);
  command->callback([options] { run(*options); });
}

}  // namespace pipemoe::program
