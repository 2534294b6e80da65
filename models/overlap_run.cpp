#include "models/overlap_run.hpp"

#include "models/error.hpp"

namespace pipemoe {

void OverlapRun::Running::slow_to(double wanted, Seconds now) {
  if (wanted == slowdown) return;
  left = (end() - now) / slowdown;
  since = now;
  slowdown = wanted;
}

OverlapRun::OverlapRun(const TaskGraph& graph, const CostModel& cost)
    : graph_(graph), cost_(cost), waiting_for_(graph.size()), fed_(graph.size()) {
  ensure(cost.overlap().has_value(), "OverlapRun without an overlap");
  for (TaskId id = 0; id < graph.size(); ++id) {
    graph.for_each_successor(id, [&](TaskId after, Precedence) { ++waiting_for_[after]; });
  }
  for (TaskId id = 0; id < graph.size(); ++id) {
    if (waiting_for_[id] == 0) ready_.push_back(id);
  }
}

void OverlapRun::run(const Visit& visit) {
  start_ready(visit);
  while (std::optional<Running>* slot = next_to_end()) {
    const Running done = **slot;
    slot->reset();
    now_ = done.end();
    visit(done.id, done.start, now_);
    finish(done.id);
    start_ready(visit);
  }
}

void OverlapRun::start_ready(const Visit& visit) {
  while (!ready_.empty()) {  // tasks that take no time end here and make others ready
    const TaskId id = ready_.back();
    ready_.pop_back();
    const Task& task = graph_.task(id);
    const Seconds alone = cost_(task).total() - cost_.queued_saving(task, now_ - fed_[id]);
    if (alone > Seconds{}) {
      running_[static_cast<std::size_t>(task.stream)] = Running{id, now_, now_, alone};
    } else {
      visit(id, now_, now_);
      finish(id);
    }
  }
  set_slowdowns();
}

void OverlapRun::set_slowdowns() {
  auto& [compute, inter_node, intra_node] = running_;
  const bool both = compute && (inter_node || intra_node);
  Bytes in_flight;
  for (const auto* exchange : {&inter_node, &intra_node}) {
    if (*exchange) in_flight += exchanged_bytes(graph_.task((*exchange)->id).operation);
  }
  const Slowdowns slowdowns =
      both ? cost_.slowdowns(graph_.task(compute->id), in_flight) : Slowdowns{};
  if (compute) compute->slow_to(slowdowns.compute, now_);
  for (auto* exchange : {&inter_node, &intra_node}) {
    if (*exchange) (*exchange)->slow_to(slowdowns.communication, now_);
  }
}

// Null when nothing runs.
std::optional<OverlapRun::Running>* OverlapRun::next_to_end() {
  std::optional<Running>* first = nullptr;
  for (auto& candidate : running_) {
    if (candidate && (first == nullptr || candidate->end() < (*first)->end())) first = &candidate;
  }
  return first;
}

void OverlapRun::finish(TaskId id) {
  graph_.for_each_successor(id, [&](TaskId after, Precedence why) {
    if (why == Precedence::Data) fed_[after] = now_;
    if (--waiting_for_[after] == 0) ready_.push_back(after);
  });
}

}  // namespace pipemoe
