// pipemoe plan: which degrees to use, what an iteration will cost, and why.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "experiments/commands.hpp"
#include "experiments/inputs.hpp"
#include "experiments/terminal.hpp"
#include "models/plan.hpp"
#include "models/provenance.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

struct PlanOptions {
  InputOptions inputs;
  std::int64_t max_degree = kDefaultMaxDegree;
  bool json = false;
};

Json phase_json(const PhasePlan& phase) {
  Json by_degree = Json::array();
  for (const auto& [degree, time] : phase.by_degree) {
    by_degree.push_back({{"degree", degree}, {"time_s", time.count()}});
  }
  return {{"degree", phase.choice.degree},
          {"time_s", phase.choice.time.count()},
          {"by_degree", std::move(by_degree)}};
}

void print_json(const Plan& plan, const Inputs& inputs) {
  const Provenance from = provenance("plan");
  const Json json{{"forward", phase_json(plan.forward)},
                  {"backward", phase_json(plan.backward)},
                  {"iteration_s", plan.iteration().count()},
                  {"provenance",
                   {{"program", from.program},
                    {"commit", from.commit},
                    {"notes", plan.notes},
                    {"configuration", Json::parse(inputs.configuration)}}}};
  fmt::print("{}\n", json.dump(1));
}

// Every degree to twice the chosen ones, then only powers of two: the rest tells nothing new.
bool worth_a_row(std::int64_t degree, const Plan& plan) {
  const std::int64_t shown =
      2 * std::max({plan.forward.choice.degree, plan.backward.choice.degree, std::int64_t{4}});
  return degree <= shown || (degree & (degree - 1)) == 0;
}

std::string cell(const PhasePlan& phase, std::size_t row) {
  const auto& [degree, time] = phase.by_degree[row];
  const double worse = (time / phase.choice.time - 1) * 100;
  return fmt::format("{:>10.3f} {}", milliseconds(time),
                     degree == phase.choice.degree ? "  best  " : fmt::format("{:+7.1f}%", worse));
}

void print_table(const Plan& plan, const MoeLayer& layer) {
  bool uneven = false;
  fmt::print("  degree     forward (ms)        backward (ms)\n");
  for (std::size_t row = 0; row < plan.forward.by_degree.size(); ++row) {
    const std::int64_t degree = plan.forward.by_degree[row].degree;
    if (!worth_a_row(degree, plan)) continue;
    const bool divides = layer.slots() % degree == 0 || !plan.closed_form;
    uneven |= !divides;
    fmt::print("  {:>5}{}  {}  {}\n", degree, divides ? ' ' : '*', cell(plan.forward, row),
               cell(plan.backward, row));
  }
  if (uneven) {
    fmt::print(
        "  * does not divide the {} slots: the times are of equal chunks, the largest real one is\n"
        "    up to one slot larger (simulate shows it)\n",
        layer.slots());
  }
}

std::string change(Seconds from, Seconds to) {
  return fmt::format("{:+.3f} ms", milliseconds(to - from));
}

void print_why(const char* name, const PhasePlan& phase) {
  const PhaseBreakdown& now = phase.chosen;
  const PhaseBreakdown& next = phase.next;
  fmt::print("  {}: degree {}, {:.3f} ms\n", name, now.degree, milliseconds(now.time));
  fmt::print("    bound by       {}\n", now.binding == PhaseBreakdown::Binding::Serial
                                            ? "nothing: one chunk, each step waits for the last"
                                            : to_string(now.binding));
  fmt::print("    start-up       {:.3f} ms, {:.1f} % of the time\n", milliseconds(now.startup),
             100 * (now.startup / now.time));
  fmt::print("    overlap hides  {:.3f} of {:.3f} ms communication ({:.1f} %)\n",
             milliseconds(now.hidden), milliseconds(now.communication),
             100 * (now.hidden / now.communication));
  if (next.degree == now.degree) {
    fmt::print("    degree {} is the largest allowed\n", now.degree);
    return;
  }
  fmt::print("    degree {} would take {:.3f} ms ({}): start-up {}, the rest {}; bound by {}\n",
             next.degree, milliseconds(next.time), change(now.time, next.time),
             change(now.startup, next.startup),
             change(now.time - now.startup, next.time - next.startup), to_string(next.binding));
}

void print_text(const Plan& plan, const Inputs& inputs) {
  print_heading(inputs.layer, inputs.cluster);
  fmt::print("\n");
  print_table(plan, inputs.layer);
  fmt::print("\n");
  print_why("forward", plan.forward);
  print_why("backward", plan.backward);
  fmt::print("\n  iteration: {:.3f} ms{}\n", milliseconds(plan.iteration()),
             plan.closed_form ? "" : " (degrees compared on their task graphs: no closed form)");
  print_notes(plan.notes);
}

}  // namespace

void add_plan_command(CLI::App& app) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command = app.add_subcommand("plan", "Choose the pipeline degrees, and say why");
  command->footer(
      "Example:\n  pipemoe plan --layer experiments/layers/pipemoe-example.toml "
      "--cluster experiments/clusters/rtx2080ti-100gib-64.toml");
  add_input_options(*command, options->inputs);
  command->add_option("--max-degree", options->max_degree, "Largest degree to consider")
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] {
    const Inputs inputs = read_inputs(options->inputs);
    Plan plan = make_plan(inputs.layer, inputs.cluster, options->max_degree);
    plan.notes.insert(plan.notes.end(), inputs.fitted_notes.begin(), inputs.fitted_notes.end());
    if (options->json) {
      print_json(plan, inputs);
    } else {
      print_text(plan, inputs);
    }
  });
}

}  // namespace pipemoe::program
