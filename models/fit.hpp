// Measured or published cost of one operation as a function of its work.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "models/units.hpp"

namespace pipemoe {

/// Measured points, interpolated linearly between neighbours. Below the first point the time is
/// the first point's (a GPU's GEMM time is flat before it is linear); above the last it goes on
/// with the last segment's slope.
/// Requires >= 2 points, amounts strictly increasing, times non-decreasing (see `check_table`).
struct TimeTable {
  std::vector<std::pair<double, Seconds>> points;  ///< (amount of work, time)

  Seconds operator()(double amount) const;
  bool operator==(const TimeTable&) const = default;
};

/// Throws InputError, its text beginning with `where`, when `table` is not a valid TimeTable.
void check_table(const TimeTable& table, const std::string& where);

/// Amounts of work between which a fit was measured.
struct WorkRange {
  double from = 0;
  double to = 0;
  bool operator==(const WorkRange&) const = default;
};

/// One operation's cost with what is known of its origin.
template <class Work>
struct Fit {
  std::variant<AlphaBeta<Work>, TimeTable> model;
  std::optional<double> r_squared;  ///< absent: not published
  std::optional<WorkRange> range;   ///< absent: not published, so extrapolation cannot be told
  std::string source;

  Seconds operator()(Work n) const {
    if (const auto* line = std::get_if<AlphaBeta<Work>>(&model)) return (*line)(n);
    return std::get<TimeTable>(model)(n.amount());
  }
  /// The part paid whatever the amount: alpha, or a table's first time.
  Seconds startup() const { return (*this)(Work{}); }
  /// Null when the cost is a table.
  const AlphaBeta<Work>* line() const { return std::get_if<AlphaBeta<Work>>(&model); }
  /// Amounts between which it was measured: the range, or a table's own points. Null: not known.
  std::optional<WorkRange> measured_range() const {
    if (range || line() != nullptr) return range;
    const auto& points = std::get<TimeTable>(model).points;
    return WorkRange{points.front().first, points.back().first};
  }
  bool extrapolates_at(Work n) const {
    const auto measured = measured_range();
    return measured && (n.amount() < measured->from || n.amount() > measured->to);
  }
  bool operator==(const Fit&) const = default;
};

/// Least-squares line through (amount, seconds) points.
struct LineFit {
  double alpha_s = 0;
  double beta_s_per_unit = 0;
  double r_squared = 0;             ///< 1 when all times are equal and met
  std::vector<double> residuals_s;  ///< measured - fitted, in the order of the points
};

/// Ordinary least squares of seconds = alpha + beta * amount.
/// Throws InputError for fewer than two different amounts, unequal lengths or non-finite values.
LineFit fit_line(const std::vector<double>& amounts, const std::vector<double>& seconds);

}  // namespace pipemoe
