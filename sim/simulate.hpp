// Runs a task graph on a virtual cluster: models' event loop on a network of SimGrid.
#pragma once

#include "models/evaluate.hpp"
#include "models/search.hpp"

namespace pipemoe::sim {

/// One iteration on the cluster, by the rules of models' evaluate(), at any level: `fitted` and
/// `links` are models' own, `node` and `gpu` move their bytes in SimGrid. May be called any number
/// of times, on different clusters; not thread-safe, for SimGrid allows one simulation at a time in
/// a process. Throws InputError when the cluster lacks a cost that the graph needs.
Evaluation simulate(const TaskGraph& graph, const Cluster& cluster, NetworkLevel level,
                    const ProgressCallback& progress = {});
/// The same where the costs are looked up already.
Evaluation simulate(const Costs& costs, NetworkLevel level, const ProgressCallback& progress = {});

/// The same without spans or provenance.
PassTimes simulated_times(const Costs& costs, NetworkLevel level);

/// For models' search, which knows only its own levels.
Evaluator simulator_at(NetworkLevel level);

}  // namespace pipemoe::sim
