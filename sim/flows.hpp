// Which flows an all-to-all becomes on a virtual cluster.
#pragma once

#include <vector>

#include "models/operation.hpp"
#include "sim/platform.hpp"

namespace pipemoe::sim {

struct Flow {
  simgrid::s4u::Host* from = nullptr;
  simgrid::s4u::Host* to = nullptr;
  double bytes = 0;
};

/// How the node level draws an exchange between nodes.
enum class NodeFlows {
  Pairs,  ///< one flow for each ordered pair of nodes
  Ring,   ///< one flow out of each NIC, to the next node, with all the bytes that leave the node
};

/// Ring is exact when every exchange of a run is uniform and the switch does not block: then all
/// flows through one NIC have equal shares at all times, and can be drawn as one. It makes a
/// simulation's cost linear in the nodes. Otherwise Pairs.
NodeFlows node_flows_for(const Cluster& cluster, bool all_uniform);

/// Node to node, and each GPU through its own link (when balanced, one GPU stands for all).
std::vector<Flow> node_level_flows(const ClusterPlatform& platform, const TrafficMatrix& traffic,
                                   NodeFlows how);
/// Every pair of GPUs.
std::vector<Flow> gpu_level_flows(const ClusterPlatform& platform, const TrafficMatrix& traffic);

}  // namespace pipemoe::sim
