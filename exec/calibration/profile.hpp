// Turns a calibration's points into fits, and the fits into a cluster profile.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "exec/calibration/calibration_tools.hpp"
#include "exec/calibration/measurements.hpp"
#include "models/cluster.hpp"
#include "models/fit.hpp"

namespace pipemoe::exec {

/// A model of points, how well it fits and in which range.
struct MeasuredFit {
  double alpha_s = 0;  ///< of the line of least relative error, alpha and beta >= 0
  double beta_s_per_unit = 0;
  double r_squared = 0;
  double largest_relative_error = 0;  ///< of the line, over the points
  TimeTable table;                    ///< the points as fit_points combines them
  std::optional<WorkRange> range;     ///< absent if all points have one amount
};

/// Points whose amounts are within 1 % of each other count as one point, their mean. Times that
/// fall while the amount rises are pooled (isotonic regression). Points of one amount give a line
/// through the origin. Requires at least one point, and amounts and times > 0.
MeasuredFit fit_points(std::vector<MeasuredPoint> points);

/// The line if it is within `tolerance` of every point, otherwise the table.
template <class Work>
Fit<Work> choose_model(const MeasuredFit& measured, double tolerance, std::string source) {
  Fit<Work> fit;
  if (measured.largest_relative_error <= tolerance) {
    fit.model = AlphaBeta<Work>{Seconds{measured.alpha_s}, {measured.beta_s_per_unit}};
    fit.r_squared = measured.r_squared;
  } else {
    fit.model = measured.table;
  }
  fit.range = measured.range;
  fit.source = std::move(source);
  return fit;
}

/// A profile with a line where one describes the points, and a table elsewhere. Its links have the
/// bandwidth of the all-to-all's slope; it has no contention yet. Collective. Throws RunError if
/// the ranks are spread unevenly over hosts.
Cluster calibrated_profile(const CalibrationPoints& points, Dtype dtype,
                           const CalibrationTools& tools, ProcessGroup& group,
                           const CalibrateOptions& options);

}  // namespace pipemoe::exec
