// Measured points to a fit: a line where one describes them, otherwise the points.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/fit.hpp"

namespace pipemoe::exec {

/// One amount of work and the time it took.
struct MeasuredPoint {
  double amount = 0;
  double seconds = 0;
};

/// A model of points, how well it does and where it holds.
struct MeasuredFit {
  double alpha_s = 0;  ///< of the line of least relative error, alpha and beta >= 0
  double beta_s_per_unit = 0;
  double r_squared = 0;
  double largest_relative_error = 0;  ///< of the line, over the points
  TimeTable table;                    ///< the points, see below
  std::optional<WorkRange> range;     ///< absent for points of one amount
};

/// Points whose amounts are within 1 % of each other count as one, their mean; times that fall with
/// the amount are pooled (isotonic regression). Points of one amount give a line through the
/// origin. Requires at least one point, amounts and times > 0.
MeasuredFit fit_points(std::vector<MeasuredPoint> points);

/// The line when it is within `tolerance` of every point, otherwise the table.
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

}  // namespace pipemoe::exec
