#include "models/plan.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "models/analytic.hpp"
#include "models/cost_model.hpp"
#include "models/error.hpp"
#include "models/names.hpp"
#include "models/schedule.hpp"
#include "models/schedules/layer_tasks.hpp"

namespace pipemoe {
namespace {

/// The schedule with a closed form.
const char* const kPlain = "pipemoe";

using Binding = PhaseBreakdown::Binding;
constexpr Names<Binding, 3> kBindings{{{Binding::Serial, "serial"},
                                       {Binding::Communication, "communication"},
                                       {Binding::Compute, "compute"}}};

// Times of both phases for degrees 1, 2, ..
struct Candidates {
  std::vector<DegreeChoice> forward, backward;
};

Candidates closed_form_times(const MoeLayer& layer, const Cluster& cluster,
                             std::int64_t max_degree) {
  const PipelineCost forward = pipeline_cost(layer, cluster, Phase::Forward);
  const PipelineCost backward = pipeline_cost(layer, cluster, Phase::Backward);
  Candidates times;
  for (std::int64_t degree = 1; degree <= max_degree; ++degree) {
    times.forward.push_back({degree, pipelined_time(forward, degree)});
    times.backward.push_back({degree, pipelined_time(backward, degree)});
  }
  return times;
}

Candidates graph_times(const std::string& schedule_name, const MoeLayer& layer,
                       const Cluster& cluster, std::int64_t max_degree) {
  const CostModel cost(cluster);
  Candidates times;
  for (std::int64_t degree = 1; degree <= max_degree; ++degree) {
    const PhaseTimes phases =
        analytic_times(schedule(schedule_name, layer, cluster, {degree, degree}), cost);
    times.forward.push_back({degree, phases.forward});
    times.backward.push_back({degree, phases.backward});
  }
  return times;
}

DegreeChoice fastest(const std::vector<DegreeChoice>& times) {
  return *std::min_element(times.begin(), times.end(),
                           [](const auto& a, const auto& b) { return a.time < b.time; });
}

// Times of degrees 1, 2, .., or their closed form.
Degrees choose(const Plan& plan, const MoeLayer& layer, const Cluster& cluster,
               const Candidates& times) {
  if (!plan.closed_form || !cluster.degrees.takes_fastest()) {
    return choose_degrees(times.forward, times.backward, cluster.degrees);
  }
  const auto of = [&](Phase phase) {
    const auto largest = static_cast<std::int64_t>(times.forward.size());
    return choose_degree(pipeline_cost(layer, cluster, phase), largest).degree;
  };
  return {of(Phase::Forward), of(Phase::Backward)};
}

// One mean chunk of a phase at a degree.
struct ChunkCosts {
  TaskCost all_to_all, expert;
};

ChunkCosts chunk_costs(const MoeLayer& layer, const Cluster& cluster, Phase phase,
                       std::int64_t degree) {
  const CostModel cost(cluster);
  const schedules::LayerTasks tasks(layer, cluster.num_ranks());
  const Pass pass = phase == Phase::Forward ? Pass::Forward : Pass::Backward;
  ChunkCosts sum;
  for (const std::int64_t rows : layer.chunk_rows(degree)) {
    sum.all_to_all += cost(tasks.all_to_all(Purpose::Dispatch, phase, 0, rows));
    sum.expert += cost(tasks.expert(pass, 0, rows));
  }
  const double chunks = static_cast<double>(degree);
  const auto mean = [&](TaskCost all) { return TaskCost{all.startup / chunks, all.work / chunks}; };
  return {mean(sum.all_to_all), mean(sum.expert)};
}

// The chunks' spans of a phase, evaluated.
Timeline chunk_spans(const std::string& schedule_name, const MoeLayer& layer,
                     const Cluster& cluster, Phase phase, std::int64_t degree) {
  Timeline timeline =
      analytic_timeline(schedule(schedule_name, layer, cluster, {degree, degree}), cluster);
  std::erase_if(timeline.spans, [&](const Span& span) {
    const OperationKind kind = span.task.operation;
    return span.task.phase != phase || kind == OperationKind::Gate ||
           kind == OperationKind::Permute || kind == OperationKind::Unpermute;
  });
  return timeline;
}

// Where tasks slow each other or are deferred, times are those of the evaluated graph; start-up is
// as if alone.
void use_spans(PhaseBreakdown& parts, const Timeline& chunks) {
  Seconds first = Seconds::max(), last{};
  for (const Span& span : chunks.spans) {
    if (span.stream == Stream::Compute) continue;
    first = std::min(first, span.start);
    last = std::max(last, span.end);
  }
  parts.communication = chunks.communication();
  parts.hidden = parts.communication - chunks.exposed_communication();
  parts.compute = chunks.busy(Stream::Compute);
  // Communication binds where its stream never waits.
  const bool communicates = parts.communication >= (last - first) * (1 - 1e-9);
  if (parts.degree > 1 || parts.hidden > Seconds{}) {
    parts.binding = communicates ? Binding::Communication : Binding::Compute;
  }
}

PhaseBreakdown breakdown(const std::string& schedule_name, const MoeLayer& layer,
                         const Cluster& cluster, Phase phase, const DegreeChoice& at) {
  const ChunkCosts chunk = chunk_costs(layer, cluster, phase, at.degree);
  const double r = static_cast<double>(at.degree);
  const Seconds communication = 2 * r * chunk.all_to_all.total();
  const Seconds compute = r * chunk.expert.total();
  const Seconds compute_bound = 2 * chunk.all_to_all.total() + compute;
  PhaseBreakdown parts{at.degree, at.time, Binding::Serial, {}, communication, {}, compute};
  if (at.degree > 1) {
    const bool communicates = communication >= compute_bound;
    parts.binding = communicates ? Binding::Communication : Binding::Compute;
    // Something always runs, so what communication does not show is hidden.
    parts.hidden = communication + compute - std::max(communication, compute_bound);
  }
  if (cluster.overlap || schedule_name != kPlain) {
    use_spans(parts, chunk_spans(schedule_name, layer, cluster, phase, at.degree));
  }
  parts.startup = parts.binding == Binding::Communication
                      ? 2 * r * chunk.all_to_all.startup
                      : 2 * chunk.all_to_all.startup + r * chunk.expert.startup;
  return parts;
}

// The largest degree up to which chunks are as long as those that the profile was made on; all
// where no fit says what that is, or the whole layer is outside already.
std::int64_t largest_measured(const MoeLayer& layer, const Cluster& cluster, std::int64_t largest) {
  const CostModel cost(cluster);
  const schedules::LayerTasks tasks(layer, cluster.num_ranks());
  const auto measured = [&](std::int64_t degree) {
    const std::int64_t rows = layer.chunk_rows(degree).back();
    return !cost.extrapolates(tasks.expert(Pass::Forward, 0, rows)) &&
           !cost.extrapolates(tasks.expert(Pass::Backward, 0, rows)) &&
           !cost.extrapolates(tasks.all_to_all(Purpose::Dispatch, Phase::Forward, 0, rows));
  };
  if (!measured(1)) return largest;
  std::int64_t degree = 1;
  while (degree < largest && measured(degree + 1)) ++degree;
  return degree;
}

// by_degree: of degrees 1, 2, ..
PhasePlan phase_plan(const std::string& schedule_name, const MoeLayer& layer,
                     const Cluster& cluster, Phase phase, std::int64_t degree,
                     std::vector<DegreeChoice> by_degree) {
  const auto at = static_cast<std::size_t>(degree - 1);
  const DegreeChoice choice = by_degree[at],
                     next = by_degree[std::min(at + 1, by_degree.size() - 1)];
  const PhaseBreakdown chosen = breakdown(schedule_name, layer, cluster, phase, choice);
  const PhaseBreakdown after = breakdown(schedule_name, layer, cluster, phase, next);
  return {choice, std::move(by_degree), chosen, after};
}

}  // namespace

std::string to_string(Binding binding) { return name_of(kBindings, binding); }

Plan make_plan(const MoeLayer& layer, const Cluster& cluster, std::int64_t max_degree,
               const std::string& schedule_name) {
  if (max_degree < 1) throw InputError("max degree must be at least 1");
  if (schedule_name != kPlain && schedule_name != "pipemoe-deferred") {
    throw InputError(
        fmt::format("schedule is {}: plan chooses the degrees of pipemoe and of pipemoe-deferred",
                    schedule_name));
  }
  const std::int64_t allowed = std::min(max_degree, layer.slots());
  const std::int64_t largest = largest_measured(layer, cluster, allowed);
  Plan plan{.schedule = schedule_name};
  plan.closed_form = schedule_name == kPlain && has_closed_form(layer, cluster);
  Candidates times = plan.closed_form ? closed_form_times(layer, cluster, largest)
                                      : graph_times(schedule_name, layer, cluster, largest);
  const Degrees chosen = choose(plan, layer, cluster, times);
  plan.forward = phase_plan(schedule_name, layer, cluster, Phase::Forward, chosen.forward_degree,
                            std::move(times.forward));
  plan.backward = phase_plan(schedule_name, layer, cluster, Phase::Backward, chosen.backward_degree,
                             std::move(times.backward));
  plan.notes = CostModel(cluster).check(schedule(schedule_name, layer, cluster, plan.degrees()));
  if (cluster.degrees.equal) {
    plan.not_tried.push_back(
        "unequal degrees are left out: the executor would move rows between them, which the "
        "profile does not fit");
  }
  if (cluster.degrees.tolerance > 0) {
    plan.notes.push_back(fmt::format(
        "the fewest chunks within {:g} % of the fastest are chosen: the profile's predictions do "
        "not tell less apart",
        100 * cluster.degrees.tolerance));
  }
  if (cluster.degrees.unequal_gain > 0 && !cluster.degrees.equal) {
    plan.notes.push_back(fmt::format(
        "unequal degrees are chosen only where they are more than {:g} % faster than equal ones: "
        "the profile does not fit what they cost",
        100 * cluster.degrees.unequal_gain));
  }
  if (cluster.exchange_ctas > 0) {
    plan.notes.push_back(
        fmt::format("exchanges are limited to {} multiprocessors, which experts beside them leave "
                    "free: run --communicator nccl does so with this profile",
                    cluster.exchange_ctas));
  }
  if (largest < allowed) {
    plan.not_tried.push_back(fmt::format(
        "degrees above {} are left out: their chunks are smaller than any that the profile was "
        "fitted on",
        largest));
  }
  return plan;
}

Seconds makespan_limit(const MoeLayer& layer, const Cluster& cluster) {
  const CostModel cost(cluster);
  const schedules::LayerTasks tasks(layer, cluster.num_ranks());
  Seconds limit{};
  for (const Phase phase : {Phase::Forward, Phase::Backward}) {
    const ChunkCosts whole = chunk_costs(layer, cluster, phase, 1);
    limit += cost(tasks.gate(phase)).total() + cost(tasks.permute(phase)).total() +
             cost(tasks.unpermute(phase)).total() +
             std::max(2 * whole.all_to_all.total(), whole.expert.total());
  }
  return limit;
}

Degrees choose_degrees_by_graph(const MoeLayer& layer, const Cluster& cluster,
                                std::int64_t max_degree) {
  const Candidates times =
      graph_times("pipemoe", layer, cluster, std::min(max_degree, layer.slots()));
  return {fastest(times.forward).degree, fastest(times.backward).degree};
}

DegreeChoice choose_deferred_degree(const MoeLayer& layer, const Cluster& cluster,
                                    std::int64_t max_degree) {
  const std::int64_t largest = std::min(max_degree, layer.slots());
  return fastest(graph_times("pipemoe-deferred", layer, cluster, largest).backward);
}

}  // namespace pipemoe
