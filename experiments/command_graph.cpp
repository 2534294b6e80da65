// pipemoe graph: the task graph of a schedule, as text.
#include <fmt/format.h>

#include <memory>

#include "experiments/commands.hpp"
#include "experiments/inputs.hpp"
#include "models/error.hpp"
#include "models/files.hpp"
#include "models/task_graph_io.hpp"

namespace pipemoe::program {
namespace {

struct GraphOptions {
  InputOptions inputs;
  ScheduleOptions schedule;
  std::string format = "json";
  std::string output;
};

std::string formatted(const TaskGraph& graph, const std::string& format) {
  if (format == "json") return to_json(graph);
  if (format == "dot") return to_dot(graph);
  if (format == "graphml") return to_graphml(graph);
  throw InputError(fmt::format("--format is {}, must be one of json, dot, graphml", format));
}

}  // namespace

void add_graph_command(CLI::App& app) {
  auto options = std::make_shared<GraphOptions>();
  CLI::App* command = app.add_subcommand("graph", "Print the task graph of a schedule");
  command->footer(
      "Example:\n  pipemoe graph --format dot --layer experiments/layers/pipemoe-example.toml "
      "--cluster experiments/clusters/rtx2080ti-100gib-64.toml | dot -Tsvg -o graph.svg");
  add_input_options(*command, options->inputs);
  add_schedule_options(*command, options->schedule);
  command->add_option("--format", options->format, "json, dot or graphml")->capture_default_str();
  command->add_option("--output", options->output, "Write to a file instead")->type_name("FILE");
  command->callback([options] {
    check_outputs(input_files(options->inputs), {{"--output", options->output}});
    const Inputs inputs = read_inputs(options->inputs);
    const std::string text = formatted(
        make_schedule(options->schedule, inputs, evaluator_at(NetworkLevel::Fitted)).graph,
        options->format);
    if (options->output.empty()) {
      fmt::print("{}", text);
    } else {
      write_file(options->output, text);
    }
  });
}

}  // namespace pipemoe::program
