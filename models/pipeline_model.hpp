// PipeMoE's performance model of one pass of a layer under alpha-beta costs, and the degree that
// minimises it, exactly.
#pragma once

#include <cstdint>

#include "models/units.hpp"

namespace pipemoe {

/// With degree r an all-to-all takes d(r) = startup + transfer / r, an expert chunk e(r) likewise.
struct PipelineCost {
  Seconds fixed{};  ///< gate, permutation and un-permutation, which do not pipeline
  Seconds all_to_all_startup{};
  Seconds all_to_all_transfer{};
  Seconds expert_startup{};
  Seconds expert_work{};
};
struct PipelineCosts {
  PipelineCost forward, backward;
};

/// T(1) = 2d + e and, for r >= 2, T(r) = max(2rd, 2d + re), plus the fixed part: the makespan of
/// equal chunks with all dispatches before all combines on the communication queue.
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

}  // namespace pipemoe
