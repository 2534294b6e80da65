#include "exec/execute.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <thread>

#include "exec/statistics.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

struct Iteration {
  Clock::time_point start;          ///< this rank's clock
  std::vector<Interval> intervals;  ///< may be missing: empty
  /// Of an iteration undisturbed by taking the intervals, where that makes a difference.
  Seconds makespan{};

  Seconds last_end() const {
    Clock::time_point last = start;
    for (const Interval& interval : intervals) last = std::max(last, interval.end);
    return last - start;
  }
};

// Seconds since the clock's epoch, as rank 0 reads them.
double shared_seconds(Clock::time_point time, Seconds offset) {
  return (Seconds(time.time_since_epoch()) + offset).count();
}

// A moment that no rank has passed when it learns of it, on this rank's clock.
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

// Of each iteration, the latest rank's.
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

// Start and end of each task since the iteration's start, of every rank.
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
  for (const double makespan : makespans) timeline.repeats.push_back(Seconds{makespan});
  const auto times = times_of(with_spans[median_index(ends)], group);
  for (std::size_t rank = 0; rank < times.size(); ++rank) {
    for (TaskId id = 0; id < graph.size(); ++id) {
      const Task& task = graph.task(id);
      timeline.spans.push_back({task.key(), task.stream, static_cast<int>(rank),
                                Seconds{times[rank][2 * id]}, Seconds{times[rank][2 * id + 1]}});
    }
  }
  return timeline;
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

}  // namespace pipemoe::exec
