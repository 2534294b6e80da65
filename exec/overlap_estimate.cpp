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
std::map<TaskKey, Seconds> alone_times(const MeasuredChunks& chunks) {
  std::map<TaskKey, Seconds> alone;
  for (TaskId id = 0; id < chunks.graph.size(); ++id) {
    alone[chunks.graph.task(id).key()] = Seconds{summarize(chunks.durations(id)).median};
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

Bytes largest_exchange(const TaskGraph& graph) {
  Bytes largest;
  for (const Task& task : graph.tasks()) {
    largest = std::max(largest, exchanged_bytes(task.operation));
  }
  return largest;
}

Contention contention(const LayerMeasurements::Overlap& overlap) {
  const std::map<TaskKey, Seconds> alone = alone_times(overlap.alone);
  const TaskGraph& graph = overlap.beside.graph;
  Contention found;
  for (const auto& iteration : overlap.beside.measured.iterations) {
    StreamTimes experts, exchanges;
    for (TaskId id = 0; id < graph.size(); ++id) {
      const Task& task = graph.task(id);
      if (!stands_beside(task)) continue;
      StreamTimes& stream = is_exchange(task) ? exchanges : experts;
      stream.tasks.push_back(iteration[id]);
      stream.alone += alone.at(task.key());
    }
    if (const auto factor = slowdown(experts, exchanges)) found.compute.push_back(*factor);
    if (const auto factor = slowdown(exchanges, experts)) found.communication.push_back(*factor);
  }
  return found;
}

double spread(const std::vector<SlowdownPoint>& points) {
  std::map<Bytes, std::vector<double>> by_bytes;
  for (const SlowdownPoint& point : points) by_bytes[point.in_flight].push_back(point.factor);
  std::vector<double> spreads;
  for (const auto& [bytes, factors] : by_bytes) {
    const Summary summary = summarize(factors);
    spreads.push_back((summary.maximum - summary.minimum) / summary.median);
  }
  return summarize(spreads).median;
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
