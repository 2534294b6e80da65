// Constants of contention, made of what experts and exchanges beside each other took.
#pragma once

#include <optional>
#include <vector>

#include "exec/calibration/measurements.hpp"
#include "models/cluster.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

/// For each queue, the time alone of what it runs beside the other queue, divided by the queue's
/// whole time in the row. When its slowdown grows by 1 %, the queue's time grows by this many %.
struct ContentionWeights {
  double products = 0;
  double collectives = 0;
};
/// Returns the weights for a row of this layer. `cluster` says what the layer's tasks take by
/// themselves; it needs no contention.
ContentionWeights weights_of(const ContentionRow& row, const MoeLayer& layer,
                             const Cluster& cluster);

/// Experts of each measured size get the weighted mean of their rows, which meets the time of all
/// of them; other sizes the weighted median of all rows, since between sizes a mean is drawn off by
/// a few. No constant is below 1. A size that has no row for a queue takes the general constant.
/// Null where no rows say anything of one of the queues. Requires the layers of the rows.
std::optional<Contention> fit_contention(const std::vector<ContentionRow>& rows,
                                         const std::vector<MoeLayer>& layers,
                                         const Cluster& cluster);

}  // namespace pipemoe::exec
