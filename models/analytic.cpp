#include "models/analytic.hpp"

#include <algorithm>
#include <vector>

#include "models/overlap_run.hpp"

namespace pipemoe {
namespace {

// Earliest starts in one pass over a topological order; visit(id, start, end) for each task.
// `kept` chooses the precedences that count.
template <class Kept, class Visit>
void earliest_starts(const TaskGraph& graph, const CostModel& cost, Kept kept, Visit visit) {
  thread_local std::vector<Seconds> ready, fed;  // kept between calls: no allocation in a search
  ready.assign(graph.size(), Seconds{});
  fed.assign(cost.has_queued() ? graph.size() : 0, Seconds{});  // when what a task needs is there
  for (const TaskId id : graph.topological_order()) {
    const Task& task = graph.task(id);
    const Seconds start = ready[id];
    Seconds end = start + cost(task).total();
    if (cost.has_queued()) end -= cost.queued_saving(task, start - fed[id]);
    graph.for_each_successor(id, [&](TaskId after, Precedence why) {
      if (kept(why)) ready[after] = std::max(ready[after], end);
      if (cost.has_queued() && why == Precedence::Data) fed[after] = std::max(fed[after], end);
    });
    visit(id, start, end);
  }
}

// visit(id, start, end) for each task.
template <class Visit>
void evaluate(const TaskGraph& graph, const CostModel& cost, Visit visit) {
  if (cost.overlap()) {
    OverlapRun(graph, cost).run(visit);
  } else {
    earliest_starts(
        graph, cost, [](Precedence) { return true; }, visit);
  }
}

}  // namespace

Timeline analytic_timeline(const TaskGraph& graph, const Cluster& cluster) {
  const CostModel cost(cluster);
  Timeline timeline;
  timeline.provenance = provenance("analytic schedule");
  timeline.provenance.notes = cost.check(graph);
  timeline.spans.resize(graph.size());
  evaluate(graph, cost, [&](TaskId id, Seconds start, Seconds end) {
    const Task& task = graph.task(id);
    timeline.spans[id] = {task.key(), task.stream, 0, start, end};
  });
  return timeline;
}

PhaseTimes analytic_times(const TaskGraph& graph, const CostModel& cost) {
  Seconds forward{}, makespan{};
  evaluate(graph, cost, [&](TaskId id, Seconds, Seconds end) {
    makespan = std::max(makespan, end);
    if (graph.task(id).phase == Phase::Forward) forward = std::max(forward, end);
  });
  return {forward, makespan - forward};
}

MakespanBounds makespan_bounds(const TaskGraph& graph, const CostModel& cost) {
  const auto only_data = [](Precedence why) { return why == Precedence::Data; };
  MakespanBounds bounds;
  earliest_starts(graph, cost, only_data, [&](TaskId, Seconds start, Seconds end) {
    bounds.critical_path = std::max(bounds.critical_path, end);
    bounds.serial_sum += end - start;
  });
  return bounds;
}

}  // namespace pipemoe
