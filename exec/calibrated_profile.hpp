// What a calibration measured, and the cluster profile that follows from it.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "exec/calibrate.hpp"
#include "exec/measured_fit.hpp"

namespace pipemoe::exec {

/// Work and median times; the same on all ranks but the all-to-alls of groups that a rank is not
/// in.
struct CalibrationPoints {
  struct Expert {
    ExpertFit key;  ///< without a fit
    std::vector<MeasuredPoint> points;
  };

  std::map<MemoryPass, std::vector<MeasuredPoint>> passes;
  std::vector<Expert> experts;
  std::vector<MeasuredPoint> gemms;
  std::map<std::int64_t, std::vector<MeasuredPoint>> all_to_all;  ///< by number of ranks
  std::map<std::int64_t, std::vector<MeasuredPoint>> all_to_all_queued;
  /// Seconds that an exchange in a layer takes longer than these, for another stream waits for it;
  /// less where they are below 0, for what waits takes part of it: `join`.
  struct Handoffs {
    double alone = 0, queued = 0;
  };
  Handoffs handoffs;
  /// Seconds that a computation which waits for an exchange takes longer than measured by itself;
  /// included in the points of experts and passes.
  double join = 0;
  std::vector<ExchangesInLayers> in_layers;  ///< one for each layer
  std::vector<ContentionRow> contention;

  /// Those of one shape's expert pass.
  std::vector<MeasuredPoint>& of(const ExpertFit& key);
};

/// Lines where they describe the points, tables elsewhere; links as the all-to-all's slope has
/// them. Collective. Throws RunError when the ranks are spread unevenly over hosts.
Cluster calibrated_profile(const CalibrationPoints& points, Dtype dtype,
                           const CalibrationTools& tools, ProcessGroup& group,
                           const CalibrateOptions& options);

}  // namespace pipemoe::exec
