#include "models/search.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "models/error.hpp"
#include "models/limits.hpp"
#include "models/names.hpp"
#include "models/schedules/layer_tasks.hpp"

namespace pipemoe {
namespace {

using Binding = PassBreakdown::Binding;
constexpr Names<Binding, 3> kBindings{{{Binding::Serial, "serial"},
                                       {Binding::Communication, "communication"},
                                       {Binding::Compute, "compute"}}};

bool are_equal(Degrees degrees) { return degrees.forward_degree == degrees.backward_degree; }
std::int64_t chunks(Degrees degrees) { return degrees.forward_degree + degrees.backward_degree; }

// The fewest chunks among candidates that take at most `tolerance` longer than the fastest, and the
// fastest of these. `for_each` calls what it is given with every candidate.
template <class ForEach>
TimedDegrees fewest_chunks(ForEach for_each, double tolerance, bool only_equal) {
  Seconds fastest = Seconds::max();
  const auto counts = [&](const TimedDegrees& one) {
    return !only_equal || are_equal(one.degrees);
  };
  for_each([&](const TimedDegrees& one) {
    if (counts(one)) fastest = std::min(fastest, one.time);
  });
  std::optional<TimedDegrees> best;
  for_each([&](const TimedDegrees& one) {
    if (!counts(one) || one.time > (1 + tolerance) * fastest) return;
    const auto rank = [](const TimedDegrees& of) { return std::pair(chunks(of.degrees), of.time); };
    if (!best || rank(one) < rank(*best)) best = one;
  });
  return required(best, "choose_degrees of nothing");
}

template <class ForEach>
Degrees choose(ForEach for_each, const Preference& preference) {
  if (preference.equal_degrees) {
    return fewest_chunks(for_each, preference.tolerance, true).degrees;
  }
  const TimedDegrees any = fewest_chunks(for_each, preference.tolerance, false);
  if (preference.unequal_gain == 0) return any.degrees;
  const TimedDegrees equal = fewest_chunks(for_each, preference.tolerance, true);
  return any.time < (1 - preference.unequal_gain) * equal.time ? any.degrees : equal.degrees;
}

// The knobs of one pass, tried at the same place of their values at once: they do not meet.
struct Candidate {
  Choice choice;
  Degrees degrees;
  PassTimes times;
};

struct Candidates {
  std::vector<Candidate> all;                    ///< ascending in their degrees
  bool by_pass = false;                          ///< any forward one goes with any backward one
  std::optional<std::int64_t> largest_measured;  ///< degree; absent: all were tried
};

std::size_t num_places(const std::vector<Knob>& knobs) {
  std::size_t places = 1;
  for (const Knob& knob : knobs) places = std::max(places, knob.values.size());
  return places;
}

Choice choice_at(const std::vector<Knob>& knobs, std::size_t place) {
  Choice choice;
  for (const Knob& knob : knobs) {
    choice.emplace_back(knob.name, knob.values[std::min(place, knob.values.size() - 1)]);
  }
  return choice;
}

// Products and collectives whose amount no fit was made on.
bool extrapolates(const Costs& costs) {
  for (TaskId id = 0; id < costs.graph().size(); ++id) {
    const TaskCost& cost = costs.at(id);
    if (!cost.extrapolates) continue;
    if (cost.is_collective || products_of(costs.graph().task(id).work) != nullptr) return true;
  }
  return false;
}

class Search {
 public:
  Search(const Schedule& schedule, const MoeLayer& layer, const Cluster& cluster,
         const Preference& preference, const Evaluator& evaluator)
      : schedule_(schedule),
        layer_(layer),
        cluster_(cluster),
        preference_(preference),
        evaluator_(evaluator) {
    if (preference.max_degree < 1 || preference.max_degree > kMostDegree) {
      throw InputError(fmt::format("the largest degree to consider is {}, must be 1..{}",
                                   preference.max_degree, kMostDegree));
    }
    check_fits_ranks(layer, cluster.num_ranks());
    knobs_ = schedule.knobs(layer, cluster, preference.max_degree);
    keep_preferred_degrees();
    const bool fast = preference.closed_form && evaluator.level == NetworkLevel::Fitted;
    if (fast && schedule.closed_form != nullptr)
      closed_form_ = schedule.closed_form(layer, cluster);
    try_all();
  }

  Choice choice() const {
    const Degrees degrees = chosen_degrees();
    if (!candidates_.by_pass) return at(degrees).choice;
    Choice choice;
    for (const Knob& knob : knobs_) {
      const bool forward = knob.only == Pass::Forward;
      choice.emplace_back(
          knob.name, value_of(at_degree(forward ? Pass::Forward : Pass::Backward,
                                        forward ? degrees.forward_degree : degrees.backward_degree)
                                  .choice,
                              knob.name));
    }
    return choice;
  }

  Plan plan() const;

 private:
  void keep_preferred_degrees() {
    const std::vector<std::int64_t>& kept = preference_.degrees;
    if (kept.empty()) return;
    for (Knob& knob : knobs_) {
      std::erase_if(knob.values, [&](std::int64_t value) {
        return std::find(kept.begin(), kept.end(), value) == kept.end();
      });
      if (!knob.values.empty()) continue;
      throw InputError(fmt::format("{}: none of the degrees {} is one that schedule {} can have",
                                   layer_.name, fmt::join(kept, ", "), schedule_.name));
    }
  }

  // With the closed form, what a profile was measured on is still asked of each degree's graph.
  void try_all() {
    candidates_.by_pass =
        !knobs_.empty() && std::all_of(knobs_.begin(), knobs_.end(),
                                       [](const Knob& knob) { return knob.only.has_value(); });
    bool whole_extrapolates = false;
    for (std::size_t place = 0; place < num_places(knobs_); ++place) {
      Candidate candidate{choice_at(knobs_, place), {}, {}};
      const TaskGraph graph = build_graph(schedule_, layer_, cluster_, candidate.choice);
      const Costs costs(graph, cluster_);
      candidate.degrees = degrees_of(graph);
      const bool outside = extrapolates(costs);
      if (place == 0) {
        whole_extrapolates = outside;
      } else if (outside && !whole_extrapolates) {
        candidates_.largest_measured = candidates_.all.back().degrees.forward_degree;
        return;
      }
      candidate.times =
          closed_form_
              ? PassTimes{pipelined_time(closed_form_->forward, candidate.degrees.forward_degree),
                          pipelined_time(closed_form_->backward, candidate.degrees.backward_degree)}
              : evaluator_.times(costs);
      candidates_.all.push_back(std::move(candidate));
    }
  }

  Degrees chosen_degrees() const {
    if (closed_form_ && preference_.takes_fastest() && preference_.degrees.empty()) {
      const std::int64_t largest = candidates_.all.back().degrees.forward_degree;
      return {choose_degree(closed_form_->forward, largest).degree,
              choose_degree(closed_form_->backward, largest).degree};
    }
    return choose(
        [&](auto visit) {
          for (const Candidate& forward : candidates_.all) {
            if (!candidates_.by_pass) {
              visit(TimedDegrees{forward.degrees, forward.times.makespan()});
              continue;
            }
            for (const Candidate& backward : candidates_.all) {
              visit(TimedDegrees{{forward.degrees.forward_degree, backward.degrees.backward_degree},
                                 forward.times.forward + backward.times.backward});
            }
          }
        },
        preference_);
  }

  const Candidate& at(Degrees degrees) const {
    return *std::find_if(candidates_.all.begin(), candidates_.all.end(),
                         [&](const Candidate& one) { return one.degrees == degrees; });
  }
  const Candidate& at_degree(Pass pass, std::int64_t degree) const {
    return *std::find_if(candidates_.all.begin(), candidates_.all.end(),
                         [&](const Candidate& one) { return degree_of(one, pass) == degree; });
  }
  static std::int64_t degree_of(const Candidate& one, Pass pass) {
    return pass == Pass::Forward ? one.degrees.forward_degree : one.degrees.backward_degree;
  }
  static Seconds time_of(const Candidate& one, Pass pass) {
    return pass == Pass::Forward ? one.times.forward : one.times.backward;
  }

  PassPlan pass_plan(Pass pass, Degrees chosen, const Choice& choice) const;
  PassBreakdown breakdown(Pass pass, const DegreeChoice& at, const Choice& choice) const;

  const Schedule& schedule_;
  const MoeLayer& layer_;
  const Cluster& cluster_;
  const Preference& preference_;
  const Evaluator& evaluator_;
  std::vector<Knob> knobs_;
  std::optional<PipelineCosts> closed_form_;
  Candidates candidates_;
};

// What the evaluated graph of a choice says of one pass.
PassBreakdown Search::breakdown(Pass pass, const DegreeChoice& at, const Choice& choice) const {
  const TaskGraph graph = build_graph(schedule_, layer_, cluster_, choice);
  const Costs costs(graph, cluster_);
  Evaluation evaluation = evaluator_.evaluation(costs);
  Timeline& timeline = evaluation.timeline;
  std::erase_if(timeline.spans, [&](const Span& span) { return span.task.pass != pass; });
  PassBreakdown parts{.degree = at.degree, .time = at.time};
  parts.communication = timeline.communication();
  parts.hidden = parts.communication - timeline.exposed_communication();
  parts.compute = timeline.busy(Resource::Compute);
  Seconds first = Seconds::max(), last{};
  for (const Span& span : timeline.spans) {
    if (!is_communication(timeline.resource_of(span))) continue;
    first = std::min(first, span.start);
    last = std::max(last, span.end);
  }
  constexpr double kRounding = 1e-9;
  if (at.degree > 1 || parts.hidden > kRounding * parts.communication) {
    // Communication binds where its queue never waits.
    const bool never_waits = parts.communication >= (last - first) * (1 - kRounding);
    parts.binding = never_waits ? Binding::Communication : Binding::Compute;
  }
  for (const PathTask& task : evaluation.critical_path) {
    if (graph.task(task.task).key.pass == pass) {
      parts.startup += std::min(costs.at(task.task, task.rank_class).startup, task.time);
    }
  }
  return parts;
}

PassPlan Search::pass_plan(Pass pass, Degrees chosen, const Choice& choice) const {
  const std::int64_t degree =
      pass == Pass::Forward ? chosen.forward_degree : chosen.backward_degree;
  PassPlan plan;
  std::size_t place = 0;
  for (std::size_t i = 0; i < candidates_.all.size(); ++i) {
    const Candidate& one = candidates_.all[i];
    if (!plan.by_degree.empty() && plan.by_degree.back().degree == degree_of(one, pass)) continue;
    if (degree_of(one, pass) == degree) place = plan.by_degree.size();
    plan.by_degree.push_back({degree_of(one, pass), time_of(one, pass)});
  }
  plan.choice = plan.by_degree[place];
  plan.chosen = breakdown(pass, plan.choice, choice);
  if (place + 1 == plan.by_degree.size()) {
    plan.next = plan.chosen;
    return plan;
  }
  const DegreeChoice& after = plan.by_degree[place + 1];
  const Choice& diagonal = at_degree(pass, after.degree).choice;
  Choice next = choice;
  for (std::size_t i = 0; i < knobs_.size(); ++i) {
    if (knobs_[i].only.value_or(pass) == pass) next[i].second = diagonal[i].second;
  }
  plan.next = breakdown(pass, after, next);
  return plan;
}

Plan Search::plan() const {
  const Degrees chosen = chosen_degrees();
  Plan plan;
  plan.schedule = schedule_.name;
  plan.level = evaluator_.level;
  plan.choice = choice();
  plan.closed_form = closed_form_.has_value();
  plan.forward = pass_plan(Pass::Forward, chosen, plan.choice);
  plan.backward = pass_plan(Pass::Backward, chosen, plan.choice);
  const TaskGraph graph = build_graph(schedule_, layer_, cluster_, plan.choice);
  const Costs costs(graph, cluster_);
  const Timeline timeline = evaluator_.evaluation(costs).timeline;
  plan.basis = timeline.basis.value_or(BasisShares{});
  plan.notes = timeline.provenance.notes;
  if (candidates_.largest_measured) {
    plan.not_tried.push_back(
        fmt::format("degrees above {} are left out: their chunks are smaller than any that the "
                    "profile was fitted on",
                    *candidates_.largest_measured));
  }
  return plan;
}

}  // namespace

Degrees choose_degrees(const std::vector<TimedDegrees>& candidates, const Preference& preference) {
  return choose(
      [&](auto visit) {
        for (const TimedDegrees& one : candidates) visit(one);
      },
      preference);
}

std::string to_string(Binding binding) { return name_of(kBindings, binding); }

Evaluator evaluator_at(NetworkLevel level) {
  return {level, [level](const Costs& costs) { return evaluate_at(level, costs); },
          [level](const Costs& costs) { return evaluation_at(level, costs); }};
}

Plan search(const Schedule& schedule, const MoeLayer& layer, const Cluster& cluster,
            const Preference& preference, const Evaluator& evaluator) {
  return Search(schedule, layer, cluster, preference, evaluator).plan();
}

Choice search_choice(const Schedule& schedule, const MoeLayer& layer, const Cluster& cluster,
                     const Preference& preference, const Evaluator& evaluator) {
  return Search(schedule, layer, cluster, preference, evaluator).choice();
}

Seconds makespan_limit(const MoeLayer& layer, const Cluster& cluster) {
  const CostModel cost(cluster);
  const schedules::LayerTasks tasks(layer, cluster.num_ranks());
  const auto time = [&](const Task& task) { return cost(task.work).total(); };
  Seconds limit{};
  for (const Pass pass : {Pass::Forward, Pass::Backward}) {
    const ProductKind kind =
        pass == Pass::Forward ? ProductKind::Forward : ProductKind::BothGradients;
    limit += time(tasks.gate(pass)) + time(tasks.permute(pass)) + time(tasks.unpermute(pass)) +
             std::max(2 * time(tasks.all_to_all(Step::Dispatch, pass, 0, layer.rows())),
                      time(tasks.expert(kind, 0, layer.rows())));
  }
  return limit;
}

}  // namespace pipemoe
