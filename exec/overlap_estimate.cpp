#include "exec/overlap_estimate.hpp"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "exec/layer_graph.hpp"
#include "exec/statistics.hpp"

namespace pipemoe::exec {
namespace {

// Whether, in an experts_under_exchanges graph, the task stands beside others.
bool stands_beside(const Task& task) {
  return is_exchange(task) ? task.phase == Phase::Backward
                           : std::holds_alternative<ExpertFfn>(task.operation);
}

// Medians of every task.
std::map<TaskKey, double> alone_times(const MeasuredChunks& chunks,
                                      const SpanCosts::Stamps& stamps) {
  std::map<TaskKey, double> alone;
  for (TaskId id = 0; id < chunks.graph.size(); ++id) {
    const Task& task = chunks.graph.task(id);
    const double span = summarize(chunks.durations(id)).median;
    const double stamp = is_exchange(task) ? stamps.exchange : stamps.computation;
    alone[task.key()] = std::max(span - stamp, span / 2);
  }
  return alone;
}

}  // namespace

Seconds both_busy(const StreamTimes& a, const StreamTimes& b) {
  Seconds both{};
  for (const TaskTimes& one : a.tasks) {
    for (const TaskTimes& other : b.tasks) {
      const Seconds overlap = std::min(one.end, other.end) - std::max(one.start, other.start);
      both += std::max(overlap, Seconds{});
    }
  }
  return both;
}

std::optional<double> slowdown(const StreamTimes& stream, const StreamTimes& other) {
  Seconds busy{};
  for (const TaskTimes& task : stream.tasks) busy += task.duration();
  const Seconds both = both_busy(stream, other);
  const Seconds worked_together = stream.alone - (busy - both);
  if (both < busy / 8 || worked_together <= Seconds{}) return std::nullopt;
  return both / worked_together;
}

SpanCosts::Stamps stamps_beside(const MeasuredChunks& beside, const SpanCosts::Stamps& alone) {
  constexpr double kMostMore = 8e-6;
  double computing = 0, exchanging = 0, computations = 0, exchanges = 0;
  for (TaskId id = 0; id < beside.graph.size(); ++id) {
    const bool exchange = is_exchange(beside.graph.task(id));
    (exchange ? exchanging : computing) += summarize(beside.durations(id)).median;
    (exchange ? exchanges : computations) += 1;
  }
  const double all = median(beside.measured.disturbance).count();
  const auto one = [&](double count, double least) {
    return std::clamp(all / count, least, least + kMostMore);
  };
  SpanCosts::Stamps stamps = alone;
  if (computing > exchanging) {
    stamps.computation = one(computations, alone.computation);
  } else {
    stamps.exchange = one(exchanges, alone.exchange);
  }
  return stamps;
}

Bytes largest_exchange(const TaskGraph& graph) {
  Bytes largest;
  for (const Task& task : graph.tasks()) {
    largest = std::max(largest, exchanged_bytes(task.operation));
  }
  return largest;
}

Contention contention(const LayerMeasurements::Overlap& overlap, const SpanCosts& costs) {
  const std::map<TaskKey, double> alone = alone_times(overlap.alone, costs.alone);
  const TaskGraph& graph = overlap.beside.graph;
  Contention found;
  for (const auto& iteration : overlap.beside.measured.iterations) {
    StreamTimes experts, exchanges;
    Seconds stream_free{};  // of exchanges
    for (TaskId id = 0; id < graph.size(); ++id) {
      const Task& task = graph.task(id);
      const bool exchange = is_exchange(task);
      const bool handed = exchange && iteration[id].start > stream_free;
      if (exchange) stream_free = iteration[id].end;
      if (!stands_beside(task)) continue;
      const double stamp = exchange ? costs.beside.exchange : costs.beside.computation;
      TaskTimes times = iteration[id];
      times.end -= std::min(Seconds{stamp}, times.duration() / 2);
      StreamTimes& stream = exchange ? exchanges : experts;
      stream.tasks.push_back(times);
      stream.alone += Seconds{alone.at(task.key()) + (handed ? costs.handoff : 0)};
    }
    if (const auto factor = slowdown(experts, exchanges)) found.compute.push_back(*factor);
    if (const auto factor = slowdown(exchanges, experts)) found.communication.push_back(*factor);
  }
  return found;
}

Slowdown slowdown_by_bytes(std::vector<SlowdownPoint> points, std::size_t together) {
  std::sort(points.begin(), points.end(),
            [](const auto& a, const auto& b) { return a.in_flight < b.in_flight; });
  const std::size_t groups = std::max<std::size_t>(1, points.size() / together);
  Slowdown::Points medians;
  for (std::size_t i = 0; i < groups; ++i) {
    std::vector<double> bytes, factors;
    for (std::size_t j = points.size() * i / groups; j < points.size() * (i + 1) / groups; ++j) {
      bytes.push_back(points[j].in_flight.amount());
      factors.push_back(points[j].factor);
    }
    const double at = std::max(1.0, summarize(bytes).median);
    const double factor = std::max(1.0, summarize(factors).median);
    if (medians.empty() || at > medians.back().first) medians.emplace_back(at, factor);
  }
  if (medians.size() == 1) return medians.front().second;
  return Slowdown(std::move(medians));
}

}  // namespace pipemoe::exec
