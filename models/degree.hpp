// The pipeline degree that minimises one phase's time, exactly, and why it is the one.
#pragma once

#include <cstdint>
#include <vector>

#include "models/cluster.hpp"
#include "models/layer.hpp"
#include "models/task_graph.hpp"
#include "models/units.hpp"

namespace pipemoe {

/// One phase of a pipelined layer under alpha-beta costs (PipeMoE's performance model): with degree
/// r an all-to-all takes d(r) = startup + transfer / r, an expert chunk e(r) likewise.
struct PipelineCost {
  Seconds fixed{};  ///< gate, permutation and un-permutation, which do not pipeline
  Seconds all_to_all_startup{};
  Seconds all_to_all_transfer{};
  Seconds expert_startup{};
  Seconds expert_work{};
};

/// T(1) = 2d + e and, for r >= 2, T(r) = max(2rd, 2d + re), plus the fixed part: the makespan of
/// equal chunks with all dispatches before all combines on the communication stream.
/// Requires degree >= 1.
Seconds pipelined_time(const PipelineCost& cost, std::int64_t degree);

struct DegreeChoice {
  std::int64_t degree = 1;
  Seconds time{};
  bool operator==(const DegreeChoice&) const = default;
};

/// The best degree in 1..max_degree, the smallest among equals; O(1). T is convex on r >= 2: its
/// branches are a rising line and a convex curve, so the minimum lies next to the curve's own
/// minimum, to a crossing of the two, or at an end.
DegreeChoice choose_degree(const PipelineCost& cost, std::int64_t max_degree);

/// The same by trying every degree.
DegreeChoice choose_degree_exhaustively(const PipelineCost& cost, std::int64_t max_degree);

struct TimedDegrees {
  Degrees degrees;
  Seconds time{};
};
/// What the rule says of candidates. The fewest chunks are of forward and backward together; of as
/// few, the fastest. Requires candidates, and equal degrees among them where the rule speaks of
/// these.
Degrees choose_degrees(const std::vector<TimedDegrees>& candidates, const DegreeRule& rule);
/// The same of all pairs of a forward and a backward degree; both have the same degrees.
Degrees choose_degrees(const std::vector<DegreeChoice>& forward,
                       const std::vector<DegreeChoice>& backward, const DegreeRule& rule);

/// One phase of schedule pipemoe. Throws InputError when the cluster lacks a fit; requires that it
/// `has_closed_form`.
PipelineCost pipeline_cost(const MoeLayer& layer, const Cluster& cluster, Phase phase);
/// Whether pipelined_time holds: the costs of all-to-alls and experts are alpha-beta, none a table,
/// and they do not slow each other.
bool has_closed_form(const MoeLayer& layer, const Cluster& cluster);

}  // namespace pipemoe
