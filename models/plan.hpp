// The degrees to use for a layer on a cluster, what they will cost, and why.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/cluster.hpp"
#include "models/degree.hpp"
#include "models/layer.hpp"

namespace pipemoe {

/// Tutel's limit on chunks, beyond which the authors' system cannot run.
inline constexpr std::int64_t kDefaultMaxDegree = 32;

/// What a phase's time consists of at one degree.
struct PhaseBreakdown {
  enum class Binding { Serial, Communication, Compute };

  std::int64_t degree = 1;
  Seconds time{};
  Binding binding = Binding::Serial;  ///< what the phase waits for; Serial: degree 1
  Seconds startup{};                  ///< start-up costs that lengthen the phase
  Seconds communication{};            ///< all all-to-alls
  Seconds hidden{};                   ///< the part of them that overlaps with experts
  Seconds compute{};                  ///< all experts
};
std::string to_string(PhaseBreakdown::Binding binding);

struct PhasePlan {
  DegreeChoice choice;
  std::vector<DegreeChoice> by_degree;  ///< 1, 2, .. up to the largest possible
  PhaseBreakdown chosen;
  PhaseBreakdown next;  ///< one degree more; equal to `chosen` at the largest possible
};

struct Plan {
  std::string schedule;
  PhasePlan forward;
  PhasePlan backward;
  bool closed_form = true;  ///< false: tables, overlap or deferral; each degree's graph was run
  std::vector<std::string> notes;      ///< costs not modelled, fits extrapolated
  std::vector<std::string> not_tried;  ///< degrees, and why

  Seconds iteration() const { return forward.choice.time + backward.choice.time; }
  Degrees degrees() const { return {forward.choice.degree, backward.choice.degree}; }
  /// False: one chunk is fastest, forward and backward.
  bool pipelines() const { return forward.choice.degree > 1 || backward.choice.degree > 1; }
};

/// Degrees 1..min(max_degree, layer.slots()), or fewer where more would make chunks smaller than
/// what the profile's fits were made on, which not_tried says; one for both phases where the
/// profile has equal_degrees, and the fewest chunks within its degree_tolerance. With alpha-beta
/// costs a degree's time is the closed form, which takes chunks as equal; where the degree does not
/// divide the slots the largest chunk is up to one slot larger. With tables or overlap slowdowns it
/// is that of the degree's task graph, and so it is of schedule pipemoe-deferred. Throws InputError
/// when the cluster lacks a fit, the experts do not divide over the ranks, or the schedule is
/// neither pipemoe nor pipemoe-deferred.
Plan make_plan(const MoeLayer& layer, const Cluster& cluster,
               std::int64_t max_degree = kDefaultMaxDegree,
               const std::string& schedule_name = "pipemoe");

/// A lower bound of an iteration whose chunks are no more efficient than the whole: gate and
/// permutations, which nothing hides, and in each phase the longer of all all-to-alls and all
/// experts, each in one chunk and none slowed.
Seconds makespan_limit(const MoeLayer& layer, const Cluster& cluster);

/// The best degrees of schedule pipemoe by its task graphs' analytic times, chunks of whole slots
/// included: slower than the closed form and a little better where the slots do not divide.
Degrees choose_degrees_by_graph(const MoeLayer& layer, const Cluster& cluster,
                                std::int64_t max_degree = kDefaultMaxDegree);

/// The backward degree of schedule pipemoe-deferred, the smallest among equals: every degree's
/// task graph is evaluated, since where its weight gradients go depends on the degree.
DegreeChoice choose_deferred_degree(const MoeLayer& layer, const Cluster& cluster,
                                    std::int64_t max_degree = kDefaultMaxDegree);

}  // namespace pipemoe
