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

/// The value at which the sum of weight * |value - x| is least; the lower of two. Requires values,
/// pairs of value and weight, with a weight above 0.
double weighted_median(std::vector<std::pair<double, double>> values);

/// The median over these sizes of what `queued` takes less than `alone`, as far as the latter's
/// start-up. Requires sizes.
Seconds median_saving(const Fit<Bytes>& alone, const Fit<Bytes>& queued,
                      const std::vector<Bytes>& sizes);

/// How much longer something takes in one place than by itself: times * t + more.
struct Lengthening {
  double times = 1;
  Seconds more{};

  template <class Work>
  void apply_to(Fit<Work>& fit) const {
    if (auto* line = std::get_if<AlphaBeta<Work>>(&fit.model)) {
      line->alpha = times * line->alpha + more;
      line->beta.value *= times;
    } else {
      for (auto& [amount, time] : std::get<TimeTable>(fit.model).points) time = times * time + more;
    }
  }
};

/// A time by itself, and how many times as long it was in that place.
struct LengthenedTime {
  Seconds by_itself{};
  double factor = 1;
};

/// Least sum of |times + more / by_itself - factor|, with times >= 1 and more >= 0. Nothing is
/// longer where there are no points. Requires times above 0.
Lengthening fit_lengthening(const std::vector<LengthenedTime>& points);

}  // namespace pipemoe
