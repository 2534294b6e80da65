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
#include "models/error.hpp"
#include "models/provenance.hpp"
#include "models/search.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

struct PlanOptions {
  InputOptions inputs;
  std::vector<std::string> other_clusters;
  bool without_contention = false;
  std::string schedule = all_schedules().front().name;
  std::string network = to_string(NetworkLevel::Fitted);
  std::int64_t max_degree = kDefaultMaxDegree;
  std::optional<double> tolerance;
  bool json = false;
};

// The layer on one of the profiles.
struct Candidate {
  Inputs inputs;
  Plan plan;
};

Candidate candidate(const PlanOptions& options, const std::string& cluster) {
  InputOptions input_options = options.inputs;
  input_options.cluster = cluster;
  Candidate made{read_inputs(input_options), {}};
  Inputs& inputs = made.inputs;
  if (options.without_contention) inputs.cluster.contention.reset();
  Preference preference = preference_of(inputs.cluster.conditions);
  preference.max_degree = options.max_degree;
  if (options.tolerance) preference.tolerance = *options.tolerance;
  const NetworkLevel level = network_level_from(options.network);
  made.plan = search(find_schedule(options.schedule), inputs.layer, inputs.cluster, preference,
                     evaluator_for(level));
  auto& notes = made.plan.notes;
  const auto add = [&](const std::vector<std::string>& more) {
    notes.insert(notes.end(), more.begin(), more.end());
  };
  add(notes_of(preference));
  add(made.plan.not_tried);
  add(inert_overrides(inputs.cluster_overrides, level));
  if (const std::int64_t ctas = condition(inputs.cluster.conditions, "exchange_ctas", 0);
      ctas > 0) {
    notes.push_back(fmt::format(
        "the profile was measured with exchanges limited to {} multiprocessors, which experts "
        "beside them leave free: run --communicator nccl does so with this profile",
        ctas));
  }
  return made;
}

// The fastest first; the order of the options among equals.
std::vector<Candidate> candidates(const PlanOptions& options) {
  std::vector<Candidate> all{candidate(options, options.inputs.cluster)};
  for (const std::string& path : options.other_clusters) {
    all.push_back(candidate(options, path));
    const Cluster &first = all.front().inputs.cluster, &other = all.back().inputs.cluster;
    if (other.num_ranks() != first.num_ranks()) {
      throw InputError(fmt::format("--or {} is of {} ranks, {} of {}: no choice for one layer",
                                   path, other.num_ranks(), first.name, first.num_ranks()));
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.plan.iteration() < b.plan.iteration();
  });
  return all;
}

Json pass_json(const PassPlan& pass) {
  Json by_degree = Json::array();
  for (const auto& [degree, time] : pass.by_degree) {
    by_degree.push_back({{"degree", degree}, {"time_s", time.count()}});
  }
  return {{"degree", pass.choice.degree},
          {"time_s", pass.choice.time.count()},
          {"by_degree", std::move(by_degree)}};
}

Json others_json(const std::vector<Candidate>& candidates) {
  Json others = Json::array();
  for (std::size_t i = 1; i < candidates.size(); ++i) {
    const Plan& plan = candidates[i].plan;
    others.push_back({{"cluster", candidates[i].inputs.cluster.name},
                      {"forward_degree", plan.forward.choice.degree},
                      {"backward_degree", plan.backward.choice.degree},
                      {"iteration_s", plan.iteration().count()}});
  }
  return others;
}

void print_json(const std::vector<Candidate>& candidates) {
  const auto& [inputs, plan] = candidates.front();
  const Provenance from = provenance("plan");
  Json basis;
  for (const auto& [name, share] : named(plan.basis)) basis[name] = share;
  const Json json{{"cluster", inputs.cluster.name},
                  {"schedule", plan.schedule},
                  {"network", to_string(plan.level)},
                  {"pipeline", plan.pipelines()},
                  {"forward", pass_json(plan.forward)},
                  {"backward", pass_json(plan.backward)},
                  {"iteration_s", plan.iteration().count()},
                  {"basis", std::move(basis)},
                  {"slower", others_json(candidates)},
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

std::string cell(const PassPlan& pass, std::size_t row) {
  const auto& [degree, time] = pass.by_degree[row];
  const double worse = percent(time - pass.choice.time, pass.choice.time);
  return fmt::format("{:>10.3f} {}", milliseconds(time),
                     degree == pass.choice.degree ? "  chosen" : fmt::format("{:+7.1f}%", worse));
}

void print_table(const Plan& plan, const MoeLayer& layer) {
  if (plan.forward.by_degree.size() == 1) return;
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

void print_why(const char* name, const PassPlan& pass) {
  const PassBreakdown& now = pass.chosen;
  const PassBreakdown& next = pass.next;
  fmt::print("  {}: degree {}, {:.3f} ms\n", name, now.degree, milliseconds(now.time));
  fmt::print("    bound by       {}\n", now.binding == PassBreakdown::Binding::Serial
                                            ? "nothing: each step waits for the last"
                                            : to_string(now.binding));
  fmt::print("    start-up       {:.3f} ms, {:.1f} % of the time\n", milliseconds(now.startup),
             percent(now.startup, now.time));
  fmt::print("    overlap hides  {:.3f} of {:.3f} ms communication ({:.1f} %)\n",
             milliseconds(now.hidden), milliseconds(now.communication),
             percent(now.hidden, now.communication));
  if (next.degree == now.degree) {
    fmt::print("    degree {} is the largest allowed\n", now.degree);
    return;
  }
  print_line(fmt::format(
                 "    degree {} would take {:.3f} ms ({}): start-up {}, the rest {}; bound by {}",
                 next.degree, milliseconds(next.time), change(now.time, next.time),
                 change(now.startup, next.startup),
                 change(now.time - now.startup, next.time - next.startup), to_string(next.binding)),
             6);
}

// What two chunks would change.
void print_do_not_pipeline(const Plan& plan) {
  Seconds longer{}, hidden{};
  for (const PassPlan* pass : {&plan.forward, &plan.backward}) {
    const PassBreakdown &now = pass->chosen, &next = pass->next;
    longer += next.communication + next.compute - now.communication - now.compute;
    hidden += next.hidden - now.hidden;
  }
  fmt::print("\n  do not pipeline: ");
  if (plan.forward.next.degree == 1) {
    fmt::print("one chunk is the largest degree allowed\n");
  } else {
    fmt::print(
        "two chunks would hide {:.3f} ms more and take {:.3f} ms longer by themselves (launches, "
        "start-up,\n  smaller products)\n",
        milliseconds(hidden), milliseconds(longer));
  }
}

void print_candidates(const std::vector<Candidate>& candidates) {
  if (candidates.size() == 1) return;
  fmt::print("  {:<32} {:>8} {:>9} {:>15}\n", "profile", "forward", "backward", "iteration (ms)");
  for (const auto& [inputs, plan] : candidates) {
    fmt::print("  {:<32} {:>8} {:>9} {:>15.3f}{}\n", inputs.cluster.name,
               plan.forward.choice.degree, plan.backward.choice.degree,
               milliseconds(plan.iteration()), &plan == &candidates.front().plan ? "  chosen" : "");
  }
  fmt::print("\n");
}

void print_text(const std::vector<Candidate>& candidates) {
  const auto& [inputs, plan] = candidates.front();
  print_heading(inputs.layer, inputs.cluster);
  fmt::print("\n");
  print_candidates(candidates);
  print_table(plan, inputs.layer);
  fmt::print("\n");
  print_why("forward", plan.forward);
  print_why("backward", plan.backward);
  if (!plan.pipelines()) print_do_not_pipeline(plan);
  fmt::print("\n  iteration: {:.3f} ms{}\n", milliseconds(plan.iteration()),
             plan.closed_form ? "" : " (degrees compared on their task graphs: no closed form)");
  print_basis(plan.basis);
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
  command
      ->add_option("--or", options->other_clusters,
                   "Profile of the same ranks with another all-to-all, to choose from; may be "
                   "repeated")
      ->type_name("FILE");
  command->add_flag("--without-contention", options->without_contention,
                    "Leave out that compute and communication slow each other");
  command->add_option("--schedule", options->schedule, schedule_list())->capture_default_str();
  command->add_option("--network", options->network, kLevelsHelp)->capture_default_str();
  command
      ->add_option("--tolerance", options->tolerance,
                   "Choose the fewest chunks within this share of the fastest [the profile's]")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--max-degree", options->max_degree, "Largest degree to consider")
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] {
    const std::vector<Candidate> all = candidates(*options);
    if (options->json) {
      print_json(all);
    } else {
      print_text(all);
    }
  });
}

}  // namespace pipemoe::program
