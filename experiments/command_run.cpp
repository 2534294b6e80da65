// pipemoe run: one iteration for real on this machine's ranks, many times.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "exec/block_state.hpp"
#include "exec/execute.hpp"
#include "exec/executor.hpp"
#include "exec/verify.hpp"
#include "experiments/commands.hpp"
#include "experiments/exec_options.hpp"
#include "experiments/inputs.hpp"
#include "experiments/ranks.hpp"
#include "experiments/terminal.hpp"
#include "experiments/timeline_report.hpp"
#include "models/error.hpp"
#include "models/timeline_io.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

struct RunOptions {
  InputOptions inputs;
  ScheduleOptions schedule;
  ExecOptions exec;
  TimelineOutputs outputs;
  bool verify = false;
  RankOptions ranks;
};

Inputs read_run_inputs(const RunOptions& options, int num_ranks) {
  if (!options.inputs.cluster.empty()) {
    Inputs inputs = read_inputs(options.inputs);
    if (inputs.cluster.num_ranks() != num_ranks) {
      throw InputError(fmt::format("cluster {} has {} ranks, {} were started (mpirun -np {})",
                                   inputs.cluster.name, inputs.cluster.num_ranks(), num_ranks,
                                   inputs.cluster.num_ranks()));
    }
    return inputs;
  }
  const Schedule& schedule = find_schedule(options.schedule.schedule);
  if (schedule.needs_costs) {
    throw InputError(
        fmt::format("schedule {} needs --cluster: its order follows from costs", schedule.name));
  }
  const Inputs inputs = read_layer_only(options.inputs, num_ranks);
  const std::size_t knobs = schedule.knobs(inputs.layer, inputs.cluster, 1).size();
  const std::size_t given = std::size_t{options.schedule.forward_degree.has_value()} +
                            std::size_t{options.schedule.backward_degree.has_value()};
  if (given < knobs) {
    throw InputError(
        "degrees are chosen from a profile: give --cluster, or --forward-degree and "
        "--backward-degree");
  }
  return inputs;
}

std::string configuration(const RunOptions& options, const Inputs& inputs, const TaskGraph& graph) {
  const Degrees degrees = degrees_of(graph);
  Json json = Json::parse(inputs.configuration);
  json["schedule"] = graph.schedule();
  json["forward_degree"] = degrees.forward_degree;
  json["backward_degree"] = degrees.backward_degree;
  json["execution"] = to_json(options.exec);
  json["verify"] = options.verify;
  return json.dump();
}

void print_text(const Inputs& inputs, const TaskGraph& graph, const Timeline& timeline) {
  const Degrees degrees = degrees_of(graph);
  print_layer(inputs.layer);
  fmt::print("{} on {}\n", timeline.provenance.made_by, timeline.provenance.host);
  fmt::print("schedule {}, degree {} forward, {} backward\n\n", graph.schedule(),
             degrees.forward_degree, degrees.backward_degree);
  print_timeline(timeline);
}

// Poisons what an iteration must write, runs one, compares. On rank 0 throws RunError when a tensor
// is not as the reference says.
void verify_numerics(const RunOptions& options, const MoeLayer& layer, const TaskGraph& graph,
                     exec::LayerExecutor& executor, exec::ProcessGroup& group, Timeline& timeline) {
  struct Poisoned final : exec::Executor {
    exec::LayerExecutor& real;
    explicit Poisoned(exec::LayerExecutor& executor) : real(executor) {}
    std::string name() const override { return real.name(); }
    std::map<std::string, std::string> versions() const override { return real.versions(); }
    std::unique_ptr<exec::GraphRunner> prepare(const TaskGraph& of) override {
      auto prepared = real.prepare(of);
      real.poison();
      return prepared;
    }
  } poisoned(executor);
  exec::execute(graph, poisoned, group, {.warm_up = 0, .repeats = 1});
  const auto errors = exec::verify(layer, options.exec.backend.data, executor.results(), group);
  const double allowed = exec::tolerance(layer.dtype);
  double largest = 0;
  for (const auto& [tensor, error] : errors) {
    if (!(error <= allowed)) {
      throw RunError(fmt::format("{} differs from the float64 reference by {:.2e} (allowed {:.0e})",
                                 tensor, error, allowed));
    }
    largest = std::max(largest, error);
  }
  timeline.provenance.notes.push_back(fmt::format(
      "verified against a float64 reference: output and every gradient within {:.1e}", largest));
}

// What all ranks run.
struct Work {
  Inputs inputs;
  TaskGraph graph;
  std::vector<std::string> notes;
};

// Takes the exchange's multiprocessors from the profile into the options.
Work read_work(RunOptions& options, int num_ranks) {
  Inputs inputs = read_run_inputs(options, num_ranks);
  auto [graph, notes] = make_schedule(options.schedule, inputs, evaluator_at(NetworkLevel::Fitted));
  if (!options.inputs.cluster.empty()) {
    const auto note = take_exchange_ctas(options.exec.backend, inputs.cluster);
    if (note) notes.push_back(*note);
  }
  exec::check_graph(inputs.layer, graph, num_ranks);
  exec::check_layer(inputs.layer, options.exec.backend, num_ranks);
  return {std::move(inputs), std::move(graph), std::move(notes)};
}

void run_on(exec::ProcessGroup& group, RunOptions options) {
  std::optional<Work> agreed;
  agree(group, [&] {
    if (group.rank() == 0) check_outputs(input_files(options.inputs), options.outputs);
    exec::check_options(options.exec.backend);
    agreed = read_work(options, group.size());
    return configuration(options, agreed->inputs, agreed->graph);
  });
  const auto& [inputs, graph, notes] = required(agreed, "ranks that agreed on nothing");
  const auto executor = exec::make_executor(inputs.layer, options.exec.backend, group);
  Timeline timeline;
  {
    Progress progress("running");
    const auto show = [&](std::size_t done, std::size_t total) {
      if (group.rank() == 0) progress.update(done, total);
    };
    timeline = exec::execute(
        graph, *executor, group,
        {.warm_up = options.exec.warm_up, .repeats = options.exec.repeats, .progress = show});
  }
  timeline.provenance.configuration = configuration(options, inputs, graph);
  if (options.exec.backend.link) {
    timeline.provenance.notes.push_back("link emulated: " +
                                        exec::to_string(*options.exec.backend.link));
  }
  for (const std::string& note : executor->notes()) timeline.provenance.notes.push_back(note);
  for (const std::string& note : notes) timeline.provenance.notes.push_back(note);
  if (options.verify) {
    verify_numerics(options, inputs.layer, graph, *executor, group, timeline);
  }
  if (group.rank() == 0) {
    write_outputs(timeline, options.outputs);
    if (options.outputs.json) {
      fmt::print("{}", to_json(timeline));
    } else {
      print_text(inputs, graph, timeline);
    }
  }
  group.barrier();  // none leaves while another may still fail
}

}  // namespace

void add_run_command(CLI::App& app) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand("run", "Run iterations for real, and measure them");
  command->footer(
      "Example:\n  mpirun -np 2 pipemoe run --layer experiments/layers/cpu-example.toml "
      "--forward-degree 2 --backward-degree 2 --link alpha=1ms,beta=2e-9 --verify");
  add_input_options_without_cluster(*command, options->inputs);
  add_schedule_options(*command, options->schedule);
  add_exec_options(*command, options->exec);
  add_rank_options(*command, options->ranks);
  command->add_flag("--verify", options->verify,
                    "Compare output and gradients with a float64 reference");
  add_timeline_outputs(*command, options->outputs);
  command->callback([options] {
    on_ranks(options->ranks, [&](exec::ProcessGroup& group) { run_on(group, *options); });
  });
}

}  // namespace pipemoe::program
