#include "sim/simulate.hpp"

#include "sim/network.hpp"
#include "sim/platform.hpp"

namespace pipemoe::sim {
namespace {

bool is_simulated(NetworkLevel level) {
  return level == NetworkLevel::Node || level == NetworkLevel::Gpu;
}

}  // namespace

Evaluation simulate(const TaskGraph& graph, const Cluster& cluster, NetworkLevel level,
                    const ProgressCallback& progress) {
  return simulate(Costs(graph, cluster), level, progress);
}

Evaluation simulate(const Costs& costs, NetworkLevel level, const ProgressCallback& progress) {
  if (!is_simulated(level)) return evaluation_at(level, costs, progress);
  SimulatedNetwork network(costs, level);
  Evaluation made =
      evaluation(costs, "simulation, network level " + to_string(level), &network, progress);
  made.timeline.provenance.versions["simgrid"] = simgrid_description();
  return made;
}

PassTimes simulated_times(const Costs& costs, NetworkLevel level) {
  if (!is_simulated(level)) return evaluate_at(level, costs);
  SimulatedNetwork network(costs, level);
  return evaluate(costs, &network);
}

Evaluator simulator_at(NetworkLevel level) {
  return {level, [level](const Costs& costs) { return simulated_times(costs, level); },
          [level](const Costs& costs) { return simulate(costs, level); }};
}

}  // namespace pipemoe::sim
