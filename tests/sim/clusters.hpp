// What the tests of sim/ share: small clusters with round numbers, graphs of a few tasks, and their
// makespans.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "models/cluster.hpp"
#include "models/task_graph.hpp"
#include "sim/simulate.hpp"

namespace pipemoe::test {

/// `nodes` nodes of two GPUs; NIC 100 B/s, GPU links 1000 B/s, an all-to-all's start-up 1 s.
inline Cluster toy_cluster(std::int64_t nodes) {
  Cluster cluster;
  cluster.name = "toy";
  cluster.nodes = nodes;
  cluster.gpus_per_node = 2;
  cluster.nic = {{100}, 1};
  cluster.gpu_link = {{1000}, 1};
  cluster.collectives[{CollectiveKind::AllToAll, cluster.all_ranks()}] =
      Fit<Bytes>{AlphaBeta<Bytes>{Seconds{1}, {0.01}}, {}, {}, "test"};
  return cluster;
}

/// A toy cluster of `gpus` GPUs a node whose links carry `times` as much, under leaves of
/// `per_leaf` nodes; 0: a star.
inline Cluster larger_cluster(std::int64_t nodes, std::int64_t gpus, std::int64_t per_leaf,
                              double oversubscription, double times = 1e6) {
  Cluster cluster = toy_cluster(nodes);
  cluster.gpus_per_node = gpus;
  cluster.nic.bandwidth.value *= times;
  cluster.gpu_link.bandwidth.value *= times;
  cluster.collectives.clear();
  cluster.collectives[{CollectiveKind::AllToAll, cluster.all_ranks()}] =
      Fit<Bytes>{AlphaBeta<Bytes>{Seconds{1e-3}, {0.01 / times}}, {}, {}, "test"};
  if (per_leaf > 0) cluster.fat_tree = FatTree{per_leaf, oversubscription};
  return cluster;
}

inline Collective all_to_all(std::int64_t ranks, TrafficMatrix traffic) {
  return {CollectiveKind::AllToAll, {ranks, 1}, std::move(traffic)};
}

/// One task after another on a queue; `works` by queue: one computes, then those that communicate.
inline TaskGraph graph_of(std::int64_t ranks, const std::vector<std::vector<Work>>& works) {
  std::vector<Queue> queues;
  for (std::size_t queue = 0; queue < works.size(); ++queue) {
    const auto resource = queue == 0 ? Resource::Compute : Resource::Network;
    queues.push_back({"queue" + std::to_string(queue), resource});
  }
  TaskGraphBuilder builder("test", ranks, queues);
  for (std::size_t queue = 0; queue < works.size(); ++queue) {
    int chunk = 0;
    for (const Work& work : works[queue]) {
      const TaskKey key{.block = static_cast<int>(queue), .step = Step::Dispatch, .chunk = chunk++};
      builder.append({key, static_cast<QueueId>(queue), work});
    }
  }
  return std::move(builder).build();
}

inline TaskGraph one_exchange(std::int64_t ranks, TrafficMatrix traffic) {
  return graph_of(ranks, {{}, {all_to_all(ranks, std::move(traffic))}});
}

inline Seconds makespan(const TaskGraph& graph, const Cluster& cluster, NetworkLevel level) {
  return sim::simulated_times(Costs(graph, cluster), level).makespan();
}

}  // namespace pipemoe::test
