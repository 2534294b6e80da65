// What can run a task graph for real on this rank.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "exec/graph_runner.hpp"
#include "exec/layer_data.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

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
  virtual std::unique_ptr<GraphRunner> prepare(const TaskGraph& graph) = 0;
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
