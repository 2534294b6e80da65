// Virtual clusters in SimGrid. The only place that configures SimGrid or builds platforms.
#pragma once

#include <cstdint>
#include <map>
#include <simgrid/kernel/resource/Model.hpp>
#include <simgrid/s4u.hpp>
#include <string>
#include <vector>

#include "models/cluster.hpp"

namespace pipemoe::sim {

/// Nodes of GPUs. Each GPU has its own link into its node, each node its NIC into the network;
/// all links are full-duplex. A node's own host is behind its NIC, for node-to-node flows.
struct ClusterPlatform {
  struct Bandwidths {
    double gpu_link = 0, nic = 0, uplink = 0;
    bool operator==(const Bandwidths&) const = default;
  };

  std::vector<simgrid::s4u::Host*> gpus;  ///< by rank
  std::vector<simgrid::s4u::Host*> nodes;
  std::vector<const simgrid::s4u::SplitDuplexLink*> gpu_links;
  std::vector<const simgrid::s4u::SplitDuplexLink*> nics;
  std::vector<const simgrid::s4u::SplitDuplexLink*> uplinks;  ///< of a fat tree's leaves
  Bandwidths bandwidths;

  void set_bandwidths(const Cluster& cluster);
};

/// SimGrid's engine, started on first use and kept until the process ends, with the platforms
/// built so far. Not thread-safe.
class World {
 public:
  static World& instance();

  simgrid::s4u::Engine& engine() { return *engine_; }
  /// All platforms share it, as SimGrid wants.
  simgrid::kernel::resource::Model& network_model() { return *network_model_; }
  /// Built once for each shape of cluster, then reused with the bandwidths of `cluster`.
  const ClusterPlatform& cluster(const Cluster& cluster);
  /// Always builds; the platform stays until the process ends.
  ClusterPlatform build(const Cluster& cluster);

  World(const World&) = delete;
  World& operator=(const World&) = delete;

 private:
  struct Shape {
    std::int64_t nodes, gpus_per_node, nodes_per_leaf;
    auto operator<=>(const Shape&) const = default;
  };

  World();
  simgrid::s4u::NetZone* new_platform_zone();

  simgrid::s4u::Engine* engine_;
  simgrid::s4u::NetZone* root_;
  simgrid::kernel::resource::Model* network_model_ = nullptr;
  std::vector<simgrid::s4u::NetZone*> zones_;  // keeps them reachable: SimGrid cannot free them
  std::map<Shape, ClusterPlatform> clusters_;
};

/// "3.32" and the settings that results depend on.
std::string simgrid_description();

}  // namespace pipemoe::sim
