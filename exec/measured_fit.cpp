#include "exec/measured_fit.hpp"

#include <algorithm>
#include <cmath>

#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

struct Pool {
  double amount = 0;  // sums over `count` points
  double seconds = 0;
  double count = 0;

  double mean_amount() const { return amount / count; }
  double mean_seconds() const { return seconds / count; }
};

std::vector<MeasuredPoint> merge_close(std::vector<MeasuredPoint> points) {
  std::sort(points.begin(), points.end(),
            [](const auto& a, const auto& b) { return a.amount < b.amount; });
  std::vector<Pool> pools;
  for (const MeasuredPoint& point : points) {
    if (pools.empty() || point.amount > 1.01 * pools.back().mean_amount()) pools.emplace_back();
    Pool& pool = pools.back();
    pool.amount += point.amount;
    pool.seconds += point.seconds;
    pool.count += 1;
  }
  std::vector<MeasuredPoint> merged;
  for (const Pool& pool : pools) merged.push_back({pool.mean_amount(), pool.mean_seconds()});
  return merged;
}

// Pool adjacent violators: the nearest times, in squares, that do not fall.
std::vector<MeasuredPoint> isotonic(std::vector<MeasuredPoint> points) {
  struct Block {
    double seconds;
    std::size_t count;
    double mean() const { return seconds / static_cast<double>(count); }
  };
  std::vector<Block> blocks;
  for (const MeasuredPoint& point : points) {
    blocks.push_back({point.seconds, 1});
    while (blocks.size() > 1 && blocks[blocks.size() - 2].mean() > blocks.back().mean()) {
      const Block last = blocks.back();
      blocks.pop_back();
      blocks.back().seconds += last.seconds;
      blocks.back().count += last.count;
    }
  }
  std::size_t next = 0;
  for (const Block& block : blocks) {
    for (std::size_t i = 0; i < block.count; ++i) points[next++].seconds = block.mean();
  }
  return points;
}

struct Line {
  double alpha = 0;
  double beta = 0;
};

// Least squares of the relative errors: weights 1 / seconds^2. Where the best line would have a
// negative term, the best with that term 0.
Line relative_line(const std::vector<MeasuredPoint>& points) {
  double s0 = 0, s1 = 0, s2 = 0, t0 = 0, t1 = 0;
  for (const auto& [amount, seconds] : points) {
    const double weight = 1 / (seconds * seconds);
    s0 += weight;
    s1 += weight * amount;
    s2 += weight * amount * amount;
    t0 += weight * seconds;
    t1 += weight * amount * seconds;
  }
  if (points.size() == 1) return {0, t1 / s2};
  const double determinant = s0 * s2 - s1 * s1;
  const Line line{(t0 * s2 - t1 * s1) / determinant, (s0 * t1 - s1 * t0) / determinant};
  if (line.alpha < 0) return {0, t1 / s2};
  if (line.beta < 0) return {t0 / s0, 0};
  return line;
}

double r_squared(const std::vector<MeasuredPoint>& points, const Line& line) {
  double mean = 0, all = 0, unexplained = 0;
  for (const auto& point : points) mean += point.seconds / static_cast<double>(points.size());
  for (const auto& [amount, seconds] : points) {
    const double residual = seconds - (line.alpha + line.beta * amount);
    unexplained += residual * residual;
    all += (seconds - mean) * (seconds - mean);
  }
  return all > 0 ? std::max(-1.0, 1 - unexplained / all) : 1;
}

}  // namespace

MeasuredFit fit_points(std::vector<MeasuredPoint> points) {
  points = merge_close(std::move(points));
  ensure(!points.empty(), "fit_points: no points");
  for (const auto& [amount, seconds] : points) {
    ensure(amount > 0 && seconds > 0, "fit_points: an amount or a time is not positive");
  }
  const Line line = relative_line(points);
  MeasuredFit fit{line.alpha, line.beta, r_squared(points, line)};
  for (const auto& [amount, seconds] : points) {
    const double error = std::abs(line.alpha + line.beta * amount - seconds) / seconds;
    fit.largest_relative_error = std::max(fit.largest_relative_error, error);
  }
  for (const auto& [amount, seconds] : isotonic(points)) {
    fit.table.points.emplace_back(amount, Seconds{seconds});
  }
  if (points.size() > 1) fit.range = {points.front().amount, points.back().amount};
  return fit;
}

}  // namespace pipemoe::exec
