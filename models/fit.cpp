#include "models/fit.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "models/error.hpp"
#include "models/limits.hpp"

namespace pipemoe {

Seconds TimeTable::operator()(double amount) const {
  if (amount <= points.front().first) return points.front().second;
  const auto above = std::upper_bound(points.begin() + 1, points.end() - 1, amount,
                                      [](double n, const auto& point) { return n < point.first; });
  const auto& [n1, t1] = *above;
  const auto& [n0, t0] = *(above - 1);
  return t0 + (t1 - t0) * ((amount - n0) / (n1 - n0));
}

void check_table(const TimeTable& table, const std::string& where) {
  const auto& points = table.points;
  if (points.size() < 2) throw InputError(where + " needs at least 2 points");
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto [amount, time] = points[i];
    if (!(amount >= 0 && amount <= kMostAmount && time.count() >= 0 &&
          time.count() <= kLongestTask)) {
      throw InputError(fmt::format("{} point {} must be of an amount 0..{:g} and take 0..{:g} s",
                                   where, i, kMostAmount, kLongestTask));
    }
    if (i == 0) continue;
    if (amount <= points[i - 1].first) {
      throw InputError(fmt::format("{} amounts must increase, point {} does not", where, i));
    }
    if (time < points[i - 1].second) {
      throw InputError(fmt::format("{} times must not fall, point {} does", where, i));
    }
  }
}

LineFit fit_line(const std::vector<double>& amounts, const std::vector<double>& seconds) {
  const std::size_t count = amounts.size();
  if (count != seconds.size()) throw InputError("fit: as many times as amounts are needed");
  const auto finite = [](double x) { return std::isfinite(x); };
  if (!std::all_of(amounts.begin(), amounts.end(), finite) ||
      !std::all_of(seconds.begin(), seconds.end(), finite)) {
    throw InputError("fit: amounts and times must be finite");
  }
  const double n = static_cast<double>(count);
  const double mean_x = std::accumulate(amounts.begin(), amounts.end(), 0.0) / n;
  const double mean_y = std::accumulate(seconds.begin(), seconds.end(), 0.0) / n;
  double sxx = 0, sxy = 0, syy = 0;  // centred sums: no cancellation of large squares
  for (std::size_t i = 0; i < count; ++i) {
    const double dx = amounts[i] - mean_x, dy = seconds[i] - mean_y;
    sxx += dx * dx;
    sxy += dx * dy;
    syy += dy * dy;
  }
  // Equal amounts need not have a mean that equals them.
  const auto [least, most] = std::minmax_element(amounts.begin(), amounts.end());
  if (count < 2 || *least == *most || sxx == 0)
    throw InputError("fit: at least two different amounts are needed");

  LineFit fit;
  fit.beta_s_per_unit = sxy / sxx;
  fit.alpha_s = mean_y - fit.beta_s_per_unit * mean_x;
  double unexplained = 0;
  for (std::size_t i = 0; i < count; ++i) {
    fit.residuals_s.push_back(seconds[i] - (fit.alpha_s + fit.beta_s_per_unit * amounts[i]));
    unexplained += fit.residuals_s.back() * fit.residuals_s.back();
  }
  fit.r_squared = syy > 0 ? 1 - unexplained / syy : 1;
  return fit;
}

double weighted_median(std::vector<std::pair<double, double>> values) {
  std::sort(values.begin(), values.end());
  double total = 0, passed = 0;
  for (const auto& [value, weight] : values) total += weight;
  ensure(total > 0, "weighted_median: no weight");
  for (const auto& [value, weight] : values) {
    passed += weight;
    if (passed >= total / 2) return value;
  }
  return values.back().first;
}

Seconds median_saving(const Fit<Bytes>& alone, const Fit<Bytes>& queued,
                      const std::vector<Bytes>& sizes) {
  std::vector<std::pair<double, double>> savings;
  for (const Bytes size : sizes) {
    const Seconds saving = std::min(alone(size) - queued(size), alone.startup());
    savings.emplace_back(std::max(0.0, saving.count()), 1);
  }
  return Seconds{weighted_median(std::move(savings))};
}

Lengthening fit_lengthening(const std::vector<LengthenedTime>& points) {
  double largest = 1;
  for (const LengthenedTime& point : points) largest = std::max(largest, point.factor);
  if (largest <= 1) return {};
  const auto best_more = [&](double times) {
    std::vector<std::pair<double, double>> seconds;  // that meet a point, and their weights
    for (const auto& [by_itself, factor] : points) {
      seconds.emplace_back((factor - times) * by_itself.count(), 1 / by_itself.count());
    }
    return Seconds{std::max(0.0, weighted_median(std::move(seconds)))};
  };
  const auto error = [&](double times) {
    const Seconds more = best_more(times);
    double sum = 0;
    for (const auto& [by_itself, factor] : points) {
      sum += std::abs(times + more / by_itself - factor);
    }
    return sum;
  };
  double from = 1, to = largest;  // the error is convex
  for (int i = 0; i < 100; ++i) {
    const double lower = from + (to - from) / 3, upper = to - (to - from) / 3;
    if (error(lower) <= error(upper)) {
      to = upper;
    } else {
      from = lower;
    }
  }
  return {from, best_more(from)};
}

}  // namespace pipemoe
