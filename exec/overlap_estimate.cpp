#include "exec/overlap_estimate.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "exec/graph_runner.hpp"
#include "exec/execute.hpp"

namespace pipemoe::exec {
namespace {

/// Of the time of a stream: less tells nothing.
constexpr double kLeastMet = 1.0 / 64;

// In an experts_under_exchanges graph, or experts_then_exchanges: of those experts, and of the
// exchanges beside them.
bool is_expert(const Task& task, Pass pass) {
  const auto* expert = std::get_if<ExpertFfn>(&task.operation);
  return expert != nullptr && (expert->pass == Pass::Forward) == (pass == Pass::Forward);
}
bool is_beside(const Task& task, Pass pass) {
  return is_exchange(task) && (task.phase == Phase::Backward) == (pass == Pass::Forward);
}

template <class Which>
std::vector<TaskTimes> tasks_of(const TaskGraph& graph, const std::vector<TaskTimes>& iteration,
                                Which which) {
  std::vector<TaskTimes> tasks;
  for (TaskId id = 0; id < graph.size(); ++id) {
    if (which(graph.task(id))) tasks.push_back(iteration[id]);
  }
  return tasks;
}

Seconds total(const std::vector<TaskTimes>& tasks) {
  Seconds sum{};
  for (const TaskTimes& task : tasks) sum += task.duration();
  return sum;
}

// The median over iterations of what `of` says of one.
template <class Of>
Seconds median_of(const MeasuredChunks& chunks, Of of) {
  std::vector<Seconds> values;
  for (const auto& iteration : chunks.measured.iterations) values.push_back(of(iteration));
  return median(values);
}

}  // namespace

Seconds both_busy(const std::vector<TaskTimes>& a, const std::vector<TaskTimes>& b) {
  Seconds both{};
  for (const TaskTimes& one : a) {
    for (const TaskTimes& other : b) {
      const Seconds overlap = std::min(one.end, other.end) - std::max(one.start, other.start);
      both += std::max(overlap, Seconds{});
    }
  }
  return both;
}

std::optional<double> slowdown(const StreamTimes& stream) {
  const Seconds worked_together = stream.alone - (stream.beside - stream.both);
  if (stream.both < kLeastMet * stream.beside || worked_together <= Seconds{}) return std::nullopt;
  return stream.both / worked_together;
}

Bytes largest_exchange(const TaskGraph& graph) {
  Bytes largest;
  for (const Task& task : graph.tasks()) {
    largest = std::max(largest, exchanged_bytes(task.operation));
  }
  return largest;
}

Contention contention(const LayerMeasurements::Overlap& overlap, Pass pass) {
  const auto expert = [&](const Task& task) { return is_expert(task, pass); };
  const auto exchange = [&](const Task& task) { return is_beside(task, pass); };
  const auto tasks_beside = [&](const auto& iteration, auto which) {
    return tasks_of(overlap.beside.graph, iteration, which);
  };
  const Seconds both = median_of(overlap.beside, [&](const auto& iteration) {
    return both_busy(tasks_beside(iteration, expert), tasks_beside(iteration, exchange));
  });
  const auto times = [&](auto which) {
    const Seconds alone = median_of(overlap.alone, [&](const auto& iteration) {
      return total(tasks_of(overlap.alone.graph, iteration, which));
    });
    const Seconds beside = median_of(overlap.beside, [&](const auto& iteration) {
      return total(tasks_beside(iteration, which));
    });
    return StreamTimes{alone, beside, both};
  };
  return {slowdown(times(expert)), slowdown(times(exchange))};
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
