#include "exec/calibration/profile.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "models/error.hpp"
#include "models/limits.hpp"
#include "models/provenance.hpp"
#include "models/version.hpp"

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

// Pools adjacent violators: finds the times nearest in least squares that do not fall.
std::vector<MeasuredPoint> isotonic(std::vector<MeasuredPoint> points) {
  struct Pooled {
    double seconds;
    std::size_t count;
    double mean() const { return seconds / static_cast<double>(count); }
  };
  std::vector<Pooled> pools;
  for (const MeasuredPoint& point : points) {
    pools.push_back({point.seconds, 1});
    while (pools.size() > 1 && pools[pools.size() - 2].mean() > pools.back().mean()) {
      const Pooled last = pools.back();
      pools.pop_back();
      pools.back().seconds += last.seconds;
      pools.back().count += last.count;
    }
  }
  std::size_t next = 0;
  for (const Pooled& pool : pools) {
    for (std::size_t i = 0; i < pool.count; ++i) points[next++].seconds = pool.mean();
  }
  return points;
}

struct Line {
  double alpha = 0;
  double beta = 0;
};

// Least squares of the relative errors: weights 1 / seconds^2. If the best line has a negative
// term, returns the best line without that term.
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

namespace {

/// A fit is a line if the line is this close to every point; otherwise it is a table.
constexpr double kLineTolerance = 0.03;

std::string source(const std::string& what, const CalibrateOptions& options, int ranks) {
  return fmt::format("pipemoe calibrate, {}: median of {} repeats on {} {}", what, options.repeats,
                     ranks, ranks == 1 ? "rank" : "ranks");
}

void fill_shape(ProcessGroup& group, Cluster& cluster) {
  const std::vector<std::string> hosts = all_gather(group, provenance("").host);
  const std::set<std::string> nodes(hosts.begin(), hosts.end());
  cluster.nodes = static_cast<std::int64_t>(nodes.size());
  if (group.size() % cluster.nodes != 0) {
    throw RunError(
        fmt::format("{} ranks are spread unevenly over {} hosts", group.size(), cluster.nodes));
  }
  cluster.gpus_per_node = group.size() / cluster.nodes;
  cluster.source =
      fmt::format("pipemoe calibrate at commit {} on {}", kCommit, fmt::join(nodes, ", "));
}

// All-to-alls of each number of ranks, with what handing over in a layer adds.
CollectiveFits fit_all_to_alls(const std::map<std::int64_t, std::vector<MeasuredPoint>>& by_ranks,
                               double handoff, const CalibrationTools& tools,
                               const CalibrateOptions& options) {
  std::string what = tools.network;
  if (handoff != 0) {
    what += fmt::format(", {:.1f} us of handoff in a layer included", 1e6 * handoff);
  }
  CollectiveFits fits;
  for (const auto& [count, of_group] : by_ranks) {
    std::vector<MeasuredPoint> in_layers = of_group;
    for (MeasuredPoint& point : in_layers) {
      point.seconds = std::max(point.seconds + handoff, point.seconds / 2);
    }
    fits[{CollectiveKind::AllToAll, {count, 1}}] = choose_model<Bytes>(
        fit_points(in_layers), kLineTolerance, source(what, options, static_cast<int>(count)));
  }
  return fits;
}

// As they take in layers; right behind another, one saves the median of what was measured.
void fill_collectives(const CalibrationPoints& points, const CalibrationTools& tools,
                      const CalibrateOptions& options, Cluster& cluster) {
  cluster.collectives = fit_all_to_alls(points.all_to_all, points.handoffs.alone, tools, options);
  const CollectiveFits queued =
      fit_all_to_alls(points.queued_all_to_all, points.handoffs.queued, tools, options);
  std::vector<LengthenedTime> in_layers;
  for (const auto& [bytes, factor] : points.in_layers) {
    in_layers.push_back(
        {queued.at({CollectiveKind::AllToAll, cluster.all_ranks()})(bytes), factor});
  }
  const Lengthening lengthening = fit_lengthening(in_layers);
  for (auto& [of, fit] : cluster.collectives) {
    const auto behind = queued.find(of);
    if (behind != queued.end()) {
      std::vector<Bytes> sizes;
      for (const MeasuredPoint& point : points.queued_all_to_all.at(of.second.count)) {
        sizes.push_back({std::llround(point.amount)});
      }
      fit.queued_saving = median_saving(fit, behind->second, sizes);
    }
    lengthening.apply_to<Bytes>(fit);
    if (!in_layers.empty()) {
      fit.source += fmt::format("; in layers {:.3f} times as long and {:.2f} us longer",
                                lengthening.times, 1e6 * lengthening.more.count());
    }
  }
}

void fill_fits(const CalibrationPoints& points, Dtype dtype, const CalibrationTools& tools,
               const CalibrateOptions& options, int ranks, Cluster& cluster) {
  std::string in_layer = source("in the layer", options, ranks);
  if (points.join > 0) {
    in_layer +=
        fmt::format(", {:.1f} us included where it waits for an exchange", 1e6 * points.join);
  }
  for (const auto& [kernel, of_kernel] : points.kernels) {
    cluster.kernels.emplace(kernel,
                            choose_model<Bytes>(fit_points(of_kernel), kLineTolerance, in_layer));
  }
  // If no task runs the activation by itself, the experts' fits contain its cost.
  cluster.kernels.try_emplace(MemoryKernel::Activation, NotModelled{});
  cluster.gemm[dtype] =
      choose_model<Flops>(fit_points(points.gemms), std::numeric_limits<double>::infinity(),
                          source("matrix products of the layers", options, ranks));
  for (const auto& [key, of_expert] : points.experts) {
    ExpertFit& expert = cluster.experts.emplace_back(key);
    expert.fit = choose_model<Flops>(fit_points(of_expert), kLineTolerance, in_layer);
  }
  fill_collectives(points, tools, options, cluster);
}

// Links with the bandwidth of the all-to-all's slope, for `simulate --network node`. If each rank
// sends n bytes evenly to all ranks, this much leaves a rank, or a node.
void fill_links(const CalibrationPoints& points, Cluster& cluster) {
  const std::int64_t all = cluster.num_ranks();
  // Where start-up hides the bandwidth the slope is 0, and the bandwidth the most that profiles
  // have.
  const double slope = std::max(fit_points(points.all_to_all.at(all)).beta_s_per_unit, 1e-15);
  const auto bandwidth = [&](double share) { return std::min(share / slope, kMostBandwidth); };
  const auto ranks = static_cast<double>(all),
             per_node = static_cast<double>(cluster.gpus_per_node);
  const double leaving = all == 1 ? 1 : (ranks - 1) / ranks;
  const double leaving_node = cluster.nodes == 1 ? leaving : (ranks - per_node) / ranks;
  cluster.gpu_link = {{bandwidth(leaving)}, 1};
  cluster.nic = {{bandwidth(per_node * leaving_node)}, 1};
}

}  // namespace

Cluster calibrated_profile(const CalibrationPoints& points, Dtype dtype,
                           const CalibrationTools& tools, ProcessGroup& group,
                           const CalibrateOptions& options) {
  Cluster cluster;
  fill_shape(group, cluster);
  cluster.name = options.name;
  cluster.source += "; " + tools.network;
  for (const auto& [name, version] : tools.versions) {
    cluster.source += fmt::format("; {} {}", name, version);
  }
  cluster.gpu = tools.device;
  cluster.conditions = tools.conditions;
  fill_fits(points, dtype, tools, options, group.size(), cluster);
  fill_links(points, cluster);
  return cluster;
}

}  // namespace pipemoe::exec
