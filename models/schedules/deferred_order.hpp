// Where weight gradients go in a pipelined backward pass.
#pragma once

#include <cstddef>
#include <vector>

#include "models/units.hpp"

namespace pipemoe::schedules {

/// Durations of one chunk's tasks in the backward pass.
struct DeferredChunk {
  Seconds exchange{};         ///< each of its two all-to-alls
  Seconds input_gradient{};   ///< what the second all-to-all waits for
  Seconds weight_gradient{};  ///< what nothing in this pass waits for
};

/// One task of the compute queue.
struct DeferredStep {
  std::size_t chunk = 0;
  bool weight_gradient = false;
  bool operator==(const DeferredStep&) const = default;
};
using DeferredOrder = std::vector<DeferredStep>;

/// End of the pass when the compute queue takes its tasks in `order` and the communication queue
/// all first all-to-alls, then all second ones.
Seconds deferred_makespan(const std::vector<DeferredChunk>& chunks, const DeferredOrder& order);

/// The better of: never idle while anything is ready, input gradients first; and all weight
/// gradients last. Requires at least one chunk.
/// Optimal among all interleavings for equal chunks, r = 1..7, in every one of the random cases
/// that the tests enumerate; from r = 3 the first kind alone is, and meets the lower bound. (Why:
/// with exchange d, input gradient g, weight gradient w: if g >= d no weight gradient comes before
/// the last input gradient; if g + w <= d each chunk is done before the next one arrives; between
/// the two the compute queue never idles, and what a weight gradient delays an input gradient by
/// is less than the r - 1 exchanges that its way back waits for anyway.)
DeferredOrder deferred_order(const std::vector<DeferredChunk>& chunks);

/// No order ends before: all communication (2rd); the first all-to-all and all computation
/// (d + r(g + w)); the first all-to-all, all input gradients, the last all-to-all (2d + rg).
/// Tight for equal chunks unless r = 2, where a weight gradient may have to wait or to hold up the
/// other chunk's input gradient.
Seconds deferred_lower_bound(const std::vector<DeferredChunk>& chunks);

}  // namespace pipemoe::schedules
