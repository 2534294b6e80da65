#include "exec/execute.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

struct Iteration {
  Clock::time_point start;          ///< this rank's clock
  std::vector<Interval> intervals;  ///< empty: not recorded
  /// If recording intervals slows an iteration, another iteration without them measured this.
  Seconds makespan{};

  Seconds last_end() const {
    Clock::time_point last = start;
    for (const Interval& interval : intervals) last = std::max(last, interval.end);
    return last - start;
  }
};

// Seconds since the epoch of rank 0's clock.
double shared_seconds(Clock::time_point time, Seconds offset) {
  return (Seconds(time.time_since_epoch()) + offset).count();
}

// A moment on this rank's clock that no rank has passed when it learns of it.
Clock::time_point common_start(ProcessGroup& group, Seconds offset) {
  constexpr Seconds kNotice{100e-6};
  group.barrier();
  const auto ready = all_gather(group, shared_seconds(Clock::now(), offset));
  const double start = *std::max_element(ready.begin(), ready.end()) + kNotice.count();
  return Clock::time_point(std::chrono::duration_cast<Clock::duration>(Seconds{start} - offset));
}

using Iterations = std::vector<Iteration>;

// Runs iterations of graphs and keeps the measured ones.
class Measurement {
 public:
  Measurement(const std::vector<TaskGraph>& graphs, ProcessGroup& group,
              const ExecuteOptions& options, Seconds offset)
      : graphs_(graphs), group_(group), options_(options), offset_(offset), kept_(graphs.size()) {
    ensure(options.repeats >= 1 && options.warm_up >= 0 && options.rounds >= 1 &&
               options.spans_every >= 1,
           "execute: repeats");
  }

  std::vector<Iterations> run(Executor& executor) {
    if (options_.rounds == 1) {
      for (std::size_t i = 0; i < graphs_.size(); ++i) {
        const auto prepared = executor.prepare(graphs_[i]);
        iterate(*prepared, i, options_.warm_up, options_.repeats);
      }
    } else {
      run_rounds(executor);
    }
    return std::move(kept_);
  }

 private:
  void run_rounds(Executor& executor) {
    std::vector<std::unique_ptr<GraphRunner>> prepared;
    for (const TaskGraph& graph : graphs_) prepared.push_back(executor.prepare(graph));
    for (int round = 0; round < options_.rounds; ++round) {
      const auto before = [&](int rounds) { return options_.repeats * rounds / options_.rounds; };
      for (std::size_t i = 0; i < graphs_.size(); ++i) {
        iterate(*prepared[i], i, round == 0 ? std::max(1, options_.warm_up) : 1,
                before(round + 1) - before(round));
      }
    }
  }

  void iterate(GraphRunner& prepared, std::size_t index, int warm_up, int repeats) {
    for (int i = -warm_up; i < repeats; ++i) {
      Iteration iteration;
      const bool apart = i >= 0 && options_.makespans && prepared.spans_disturb();
      if (apart) iteration.makespan = prepared.measure_makespan(common_start(group_, offset_));
      if (!apart || i % options_.spans_every == 0) {
        iteration.intervals.resize(graphs_[index].size());
        iteration.start = common_start(group_, offset_);
        prepared.iterate(iteration.start, iteration.intervals);
      }
      if (!apart) iteration.makespan = iteration.last_end();
      if (i < 0) continue;
      kept_[index].push_back(std::move(iteration));
      if (options_.progress) options_.progress(++done_, graphs_.size() * total());
    }
  }
  std::size_t total() const { return static_cast<std::size_t>(options_.repeats); }

  const std::vector<TaskGraph>& graphs_;
  ProcessGroup& group_;
  const ExecuteOptions& options_;
  Seconds offset_;
  std::vector<Iterations> kept_;
  std::size_t done_ = 0;
};

// The latest rank's time of each iteration.
template <class Time>
std::vector<double> latest(const Iterations& iterations, ProcessGroup& group, Time time_of) {
  std::vector<double> mine;
  for (const Iteration& iteration : iterations) mine.push_back(time_of(iteration).count());
  std::vector<double> all(mine.size(), 0);
  for (const auto& of_rank : all_gather(group, mine)) {
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = std::max(all[i], of_rank[i]);
  }
  return all;
}

// The start and end of each task since the iteration's start, on every rank.
std::vector<std::vector<double>> times_of(const Iteration& iteration, ProcessGroup& group) {
  std::vector<double> mine;
  for (const Interval& interval : iteration.intervals) {
    mine.push_back(Seconds(interval.start - iteration.start).count());
    mine.push_back(Seconds(interval.end - iteration.start).count());
  }
  return all_gather(group, mine);
}

Timeline timeline_of(const TaskGraph& graph, const Iterations& iterations, const Executor& executor,
                     ProcessGroup& group) {
  const auto makespans = latest(iterations, group, [](const auto& one) { return one.makespan; });
  Iterations with_spans = iterations;
  std::erase_if(with_spans, [](const Iteration& one) { return one.intervals.empty(); });
  const auto ends = latest(with_spans, group, [](const auto& one) { return one.last_end(); });
  Timeline timeline{provenance(fmt::format("measured, {} {}: {}", group.size(),
                                           group.size() == 1 ? "rank" : "ranks", executor.name()))};
  timeline.provenance.versions = executor.versions();
  timeline.queues = graph.queues();
  for (const double makespan : makespans) timeline.repeats.push_back(Seconds{makespan});
  const auto times = times_of(with_spans[median_index(ends)], group);
  for (std::size_t rank = 0; rank < times.size(); ++rank) {
    for (TaskId id = 0; id < graph.size(); ++id) {
      const Task& task = graph.task(id);
      timeline.spans.push_back({task.key, task.queue, static_cast<int>(rank),
                                Seconds{times[rank][2 * id]}, Seconds{times[rank][2 * id + 1]}});
    }
  }
  return timeline;
}

double median(std::vector<double> values) {
  const std::size_t middle = values.size() / 2;
  std::sort(values.begin(), values.end());
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace

std::vector<Timeline> execute(const std::vector<TaskGraph>& graphs, Executor& executor,
                              ProcessGroup& group, const ExecuteOptions& options) {
  const auto measured = Measurement(graphs, group, options, clock_offset(group)).run(executor);
  std::vector<Timeline> timelines;
  for (std::size_t i = 0; i < graphs.size(); ++i) {
    timelines.push_back(timeline_of(graphs[i], measured[i], executor, group));
  }
  return timelines;
}

Timeline execute(const TaskGraph& graph, Executor& executor, ProcessGroup& group,
                 const ExecuteOptions& options) {
  return execute(std::vector{graph}, executor, group, options).front();
}

std::vector<TaskMeasurements> measure_tasks(const std::vector<TaskGraph>& graphs,
                                            Executor& executor, ProcessGroup& group,
                                            const ExecuteOptions& options) {
  std::vector<TaskMeasurements> times;
  for (const Iterations& iterations :
       Measurement(graphs, group, options, clock_offset(group)).run(executor)) {
    TaskMeasurements& of_graph = times.emplace_back();
    for (const Iteration& iteration : iterations) {
      auto& tasks = of_graph.iterations.emplace_back();
      for (const Interval& interval : iteration.intervals) {
        tasks.push_back({interval.start - iteration.start, interval.end - iteration.start});
      }
      of_graph.makespans.push_back(iteration.makespan);
      of_graph.disturbance.push_back(
          std::max(Seconds{}, iteration.last_end() - iteration.makespan));
    }
  }
  return times;
}

std::vector<double> in_seconds(const std::vector<Seconds>& times) {
  std::vector<double> seconds;
  for (const Seconds time : times) seconds.push_back(time.count());
  return seconds;
}

Summary summarize(const std::vector<double>& values) {
  ensure(!values.empty(), "summarize: no values");
  const auto [minimum, maximum] = std::minmax_element(values.begin(), values.end());
  Summary summary{*minimum, median(values), *maximum, {}};
  std::vector<double> deviations;
  for (const double value : values) deviations.push_back(std::abs(value - summary.median));
  const double limit = std::max(5 * median(deviations), 0.05 * std::abs(summary.median));
  for (std::size_t i = 0; i < deviations.size(); ++i) {
    if (deviations[i] > limit) summary.outliers.push_back(i);
  }
  return summary;
}

Seconds median(const std::vector<Seconds>& times) {
  return Seconds{summarize(in_seconds(times)).median};
}

std::size_t median_index(const std::vector<double>& values) {
  ensure(!values.empty(), "median_index: no values");
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  return order[(order.size() - 1) / 2];
}

}  // namespace pipemoe::exec
