// What can run a task graph for real on this rank.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "exec/layer_results.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

using Clock = std::chrono::steady_clock;

/// When a task ran, on this rank's clock. It begins when all that it waits for has ended: the time
/// that its stream needs to notice is part of its start-up.
struct Interval {
  Clock::time_point start;
  Clock::time_point end;
};

/// A task graph made ready to run any number of times.
class PreparedGraph {
 public:
  virtual ~PreparedGraph() = default;
  /// One iteration that begins at `start`, a time soon to come; fills the interval of each task, by
  /// TaskId. Throws RunError.
  virtual void iterate(Clock::time_point start, std::span<Interval> intervals) = 0;

  /// Whether taking each task's time costs time: then run() measures the makespan.
  virtual bool spans_disturb() const { return false; }
  /// One iteration that begins at `start`; how long it took this rank. Only where spans_disturb().
  virtual Seconds run(Clock::time_point start);
};

class Backend {
 public:
  virtual ~Backend() = default;
  /// "CPU, one thread a rank".
  virtual std::string name() const = 0;
  /// Of libraries, devices and drivers, for the result's provenance.
  virtual std::map<std::string, std::string> versions() const = 0;
  /// Whether it moves the rows that forward saved where backward's degree is another one.
  virtual bool regroups() const { return false; }
  /// Throws InputError when it cannot run the graph. Several may be ready, one iterates at a time;
  /// the backend and the graph must outlive it.
  virtual std::unique_ptr<PreparedGraph> prepare(const TaskGraph& graph) = 0;
};

/// A backend for one MoE layer, whose results can be looked at.
class LayerBackend : public Backend {
 public:
  /// Of the graph prepared last.
  virtual LayerResults results() const = 0;
  /// Fills every buffer that the next iteration of the graph prepared last must write with NaN.
  virtual void poison() = 0;
  /// What a reader of this rank's measurement must know, one line each; after the first prepare().
  virtual std::vector<std::string> notes() const { return {}; }
};

}  // namespace pipemoe::exec
