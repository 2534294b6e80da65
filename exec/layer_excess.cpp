#include "exec/layer_excess.hpp"

#include <algorithm>

#include "exec/graph_runner.hpp"
#include "exec/execute.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {

double cost_of_one(const std::vector<Excess>& measured) {
  double counts = 0, product = 0;
  for (const Excess& one : measured) {
    ensure(one.count > 0 && one.whole > 0, "cost_of_one: nothing that costs");
    const double count = one.count / one.whole;
    counts += count * count;
    product += count * one.seconds / one.whole;
  }
  return counts == 0 ? 0 : product / counts;
}

std::vector<double> time_stamps(const std::vector<LayerMeasurements>& layers) {
  std::vector<Excess> all;
  std::vector<double> stamps;
  for (const LayerMeasurements& layer : layers) {
    stamps.push_back(0);
    if (!layer.computations) continue;
    const auto& [degree, graph, measured] = *layer.computations;
    all.push_back({static_cast<double>(graph.size()), median(measured.disturbance).count(),
                   median(measured.makespans).count()});
    stamps.back() = cost_of_one({all.back()});
  }
  const double most = 2 * std::max(0.0, cost_of_one(all));
  for (double& stamp : stamps) stamp = std::clamp(stamp, 0.0, most);
  return stamps;
}

double exchange_stamp(const std::vector<LayerMeasurements>& layers,
                      const std::vector<double>& stamps) {
  std::vector<Excess> all;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    for (const auto& [degree, graph, measured] : layers[i].grouped) {
      const double exchanges = static_cast<double>(
          std::count_if(graph.tasks().begin(), graph.tasks().end(), is_exchange));
      const double computations = static_cast<double>(graph.size()) - exchanges;
      all.push_back({exchanges, median(measured.disturbance).count() - computations * stamps[i],
                     median(measured.makespans).count()});
    }
  }
  return std::max(0.0, cost_of_one(all));
}

Excess handoff_excess(const TaskGraph& chain, double makespan, const ChainParts& parts,
                      Exchanges counted) {
  Excess excess{.seconds = makespan - parts.computing, .whole = makespan};
  for (const auto& awaited : awaited_exchanges(chain))
    excess.seconds -= awaited.empty() ? 0 : parts.join;
  for (const auto& [before, id] : chain.dependencies()) {
    const Task& task = chain.task(id);
    if (!is_exchange(task)) continue;
    const bool queued = is_exchange(chain.task(before));
    const Bytes bytes = exchanged_bytes(task.operation);
    const double by_itself = (queued ? parts.queued(bytes) : parts.alone(bytes)).count();
    excess.seconds -= parts.in_layer.at(bytes) * by_itself;
    if (queued == (counted == Exchanges::Queued)) {
      excess.count += 1;
    } else if (!queued) {
      excess.seconds -= parts.handoff_alone;
    }
  }
  return excess;
}

}  // namespace pipemoe::exec
