// Which values of a schedule's knobs are fastest for a layer on a cluster, what they will cost, and
// why. Every command chooses through `search`.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/evaluate.hpp"
#include "models/schedule.hpp"

namespace pipemoe {

/// How a choice is made from predicted times. The default: the fastest.
struct Preference {
  std::int64_t max_degree = kDefaultMaxDegree;
  std::vector<std::int64_t> degrees = {};  ///< the only ones to try, ascending; empty: all
  bool equal_degrees = false;              ///< one degree for both passes
  /// Share by which times must differ to be told apart: the fewest chunks are chosen among degrees
  /// that are no further from the fastest.
  double tolerance = 0;
  /// Share by which unequal degrees must be faster than the equal ones that would be chosen.
  double unequal_gain = 0;
  /// Whether PipeMoE's closed form may stand for evaluations; it takes chunks as equal.
  bool closed_form = true;

  bool takes_fastest() const { return !equal_degrees && tolerance == 0 && unequal_gain == 0; }
  bool operator==(const Preference&) const = default;
};

struct TimedDegrees {
  Degrees degrees;
  Seconds time{};
};
/// Which of the candidates a preference takes. Chunks of forward and backward count together; the
/// fastest of as few is taken. Requires candidates, and equal degrees among them where these are
/// preferred.
Degrees choose_degrees(const std::vector<TimedDegrees>& candidates, const Preference& preference);

/// Evaluates a graph at some network level.
struct Evaluator {
  NetworkLevel level = NetworkLevel::Fitted;
  std::function<PassTimes(const Costs&)> times;
  std::function<Evaluation(const Costs&)> evaluation;
};
/// At level Fitted or Links.
Evaluator evaluator_at(NetworkLevel level);

/// What a pass's time consists of.
struct PassBreakdown {
  enum class Binding { Serial, Communication, Compute };

  std::int64_t degree = 1;
  Seconds time{};
  Binding binding = Binding::Serial;  ///< what the pass waits for; Serial: nothing overlaps
  Seconds startup{};                  ///< start-up costs on the critical path
  Seconds communication{};            ///< all collectives
  Seconds hidden{};                   ///< the part of them beside which something is computed
  Seconds compute{};                  ///< everything that is computed
};
std::string to_string(PassBreakdown::Binding binding);

struct PassPlan {
  DegreeChoice choice;
  std::vector<DegreeChoice> by_degree;  ///< what was tried, ascending
  PassBreakdown chosen;
  PassBreakdown next;  ///< the next degree that was tried; equal to `chosen` at the largest
};

struct Plan {
  std::string schedule;
  NetworkLevel level = NetworkLevel::Fitted;
  Choice choice;
  PassPlan forward, backward;
  bool closed_form = false;            ///< times are PipeMoE's closed form, not evaluated graphs
  BasisShares basis{};                 ///< of the evaluated choice
  std::vector<std::string> notes;      ///< Costs::notes of the chosen graph
  std::vector<std::string> not_tried;  ///< degrees, and why

  Seconds iteration() const { return forward.choice.time + backward.choice.time; }
  Degrees degrees() const { return {forward.choice.degree, backward.choice.degree}; }
  /// False: one chunk is fastest, forward and backward.
  bool pipelines() const { return forward.choice.degree > 1 || backward.choice.degree > 1; }
};

/// Tries every value of the schedule's knobs up to max_degree, or fewer where more would make
/// chunks smaller than what the profile's fits were made on, which not_tried says. A knob that
/// changes one pass alone is tried together with those of the other pass. Throws InputError when
/// the cluster lacks a cost or the experts do not divide over the ranks.
Plan search(const Schedule& schedule, const MoeLayer& layer, const Cluster& cluster,
            const Preference& preference = {},
            const Evaluator& evaluator = evaluator_at(NetworkLevel::Fitted));

/// The choice alone, without why: for searches over many layers.
Choice search_choice(const Schedule& schedule, const MoeLayer& layer, const Cluster& cluster,
                     const Preference& preference = {},
                     const Evaluator& evaluator = evaluator_at(NetworkLevel::Fitted));

/// A lower bound of an iteration whose chunks are no more efficient than the whole: what does not
/// pipeline, and in each pass the longer of all all-to-alls and all experts, each in one chunk and
/// none slowed.
Seconds makespan_limit(const MoeLayer& layer, const Cluster& cluster);

}  // namespace pipemoe
