// Runs a task graph on a virtual cluster, with SimGrid.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "models/analytic.hpp"
#include "models/cluster.hpp"
#include "models/task_graph.hpp"
#include "models/timeline.hpp"

namespace pipemoe::sim {

/// How much of the network a simulation shows.
enum class Network {
  Fitted,  ///< one representative rank; collectives at once share one link of the fitted slope
  Node,    ///< a flow for each pair of nodes, and each GPU's own link
  Gpu,     ///< a flow for each pair of GPUs
};
std::string to_string(Network network);
/// Throws InputError naming the known levels.
Network network_from(const std::string& name);

/// Called after each finished task.
using ProgressCallback = std::function<void(std::size_t done, std::size_t total)>;

/// One iteration on the cluster. A collective pays its fitted start-up, then moves its bytes; all
/// else takes its fitted time. The cluster's overlap slows tasks at the fitted level only. Spans
/// are of rank 0: every rank does the same. Not thread-safe: SimGrid allows one simulation at a
/// time in a process. May be called any number of times, on different clusters. Throws InputError
/// when the cluster lacks a fit that the graph needs.
Timeline simulate(const TaskGraph& graph, const Cluster& cluster, Network network = Network::Fitted,
                  const ProgressCallback& progress = {});

/// The same without spans or provenance: for studies of many simulations. Requires that
/// CostModel(cluster).check(graph) passes.
PhaseTimes simulated_times(const TaskGraph& graph, const Cluster& cluster,
                           Network network = Network::Fitted);

}  // namespace pipemoe::sim
