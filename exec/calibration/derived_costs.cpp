#include "exec/calibration/derived_costs.hpp"

#include <algorithm>
#include <utility>

#include "exec/calibration/measured_graphs.hpp"
#include "exec/graph_runner.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

/// Queues must meet for this share of a queue's time; less says nothing.
constexpr double kLeastMet = 1.0 / 64;
/// A queue must do at least this share of the work that it would do alone in the time in which both
/// are busy. Less is as small as the differences between two measurements, so that the quotient
/// says nothing. Of the 2,457 slowdowns in experiments/validation-*, one is above 16, the next
/// is 10.
constexpr double kLeastDone = 1.0 / 16;

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

// The median of `of` over the iterations.
template <class Of>
Seconds median_of(const MeasuredChunks& chunks, Of of) {
  std::vector<Seconds> values;
  for (const auto& iteration : chunks.measured.iterations) values.push_back(of(iteration));
  return median(values);
}

}  // namespace

double cost_of_each(const std::vector<ExtraTime>& measured) {
  double counts = 0, product = 0;
  for (const ExtraTime& one : measured) {
    ensure(one.count > 0 && one.whole > 0, "cost_of_each: a count or a whole is not positive");
    const double count = one.count / one.whole;
    counts += count * count;
    product += count * one.seconds / one.whole;
  }
  return counts == 0 ? 0 : product / counts;
}

std::vector<double> time_stamps(const std::vector<LayerMeasurements>& layers) {
  std::vector<ExtraTime> all;
  std::vector<double> stamps;
  for (const LayerMeasurements& layer : layers) {
    stamps.push_back(0);
    if (!layer.computations) continue;
    const auto& [degree, graph, measured] = *layer.computations;
    all.push_back({static_cast<double>(graph.size()), median(measured.disturbance).count(),
                   median(measured.makespans).count()});
    stamps.back() = cost_of_each({all.back()});
  }
  const double most = 2 * std::max(0.0, cost_of_each(all));
  for (double& stamp : stamps) stamp = std::clamp(stamp, 0.0, most);
  return stamps;
}

double exchange_stamp(const std::vector<LayerMeasurements>& layers,
                      const std::vector<double>& stamps) {
  std::vector<ExtraTime> all;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    for (const auto& [degree, graph, measured] : layers[i].grouped) {
      const double exchanges = static_cast<double>(
          std::count_if(graph.tasks().begin(), graph.tasks().end(), is_exchange));
      const double computations = static_cast<double>(graph.size()) - exchanges;
      all.push_back({exchanges, median(measured.disturbance).count() - computations * stamps[i],
                     median(measured.makespans).count()});
    }
  }
  return std::max(0.0, cost_of_each(all));
}

ExtraTime handoff_time(const TaskGraph& chain, double makespan, const ChainParts& parts,
                       ExchangePlace counted) {
  ExtraTime extra{.seconds = makespan - parts.computing, .whole = makespan};
  for (const auto& awaited : awaited_exchanges(chain)) {
    extra.seconds -= awaited.empty() ? 0 : parts.join;
  }
  for (const auto& [before, id] : chain.dependencies()) {
    const Task& task = chain.task(id);
    if (!is_exchange(task)) continue;
    const bool queued = is_exchange(chain.task(before));
    const Bytes bytes = collective_bytes(task.work);
    const double by_itself = (queued ? parts.queued(bytes) : parts.alone(bytes)).count();
    extra.seconds -= parts.in_layer * by_itself;
    if (queued == (counted == ExchangePlace::Queued)) {
      extra.count += 1;
    } else if (!queued) {
      extra.seconds -= parts.handoff_alone;
    }
  }
  return extra;
}

std::vector<bool> at_power_limit(const std::vector<IterationProducts>& layers) {
  constexpr double kLeastSeconds = 0.01;  // the limit acts over milliseconds
  constexpr double kLeastRate = 0.8;      // of the fastest layer's flops a second
  double fastest = 0;
  for (const auto& [seconds, flops] : layers) fastest = std::max(fastest, flops / seconds);
  std::vector<bool> at_limit;
  for (const auto& [seconds, flops] : layers) {
    at_limit.push_back(seconds >= kLeastSeconds && flops >= kLeastRate * fastest * seconds);
  }
  return at_limit;
}

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

std::optional<double> slowdown(const QueueTimes& queue) {
  const Seconds worked_together = queue.alone - (queue.beside - queue.both);
  if (queue.both < kLeastMet * queue.beside) return std::nullopt;
  if (worked_together < kLeastDone * queue.both) return std::nullopt;
  return queue.both / worked_together;
}

MeasuredContention contention_of(const ContentionGraphs& graphs, Pass pass) {
  const auto expert = [&](const Task& task) { return is_expert(task, pass); };
  const auto exchange = [&](const Task& task) { return is_beside_experts(task, pass); };
  const auto tasks_beside = [&](const auto& iteration, auto which) {
    return tasks_of(graphs.beside.graph, iteration, which);
  };
  const Seconds both = median_of(graphs.beside, [&](const auto& iteration) {
    return both_busy(tasks_beside(iteration, expert), tasks_beside(iteration, exchange));
  });
  const auto times = [&](auto which) {
    const Seconds alone = median_of(graphs.alone, [&](const auto& iteration) {
      return total(tasks_of(graphs.alone.graph, iteration, which));
    });
    const Seconds beside = median_of(graphs.beside, [&](const auto& iteration) {
      return total(tasks_beside(iteration, which));
    });
    return QueueTimes{alone, beside, both};
  };
  return {slowdown(times(expert)), slowdown(times(exchange))};
}

}  // namespace pipemoe::exec
