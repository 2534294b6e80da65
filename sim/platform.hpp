// Virtual clusters in SimGrid. The only place that configures SimGrid or builds platforms.
#pragma once

#include <cstdint>
#include <simgrid/s4u.hpp>
#include <vector>

#include "models/cluster.hpp"

namespace pipemoe::sim {

/// Hosts compute at this rate, so a task of s seconds is s * kHostSpeed flops.
inline constexpr double kHostSpeed = 1e12;
/// Bandwidth of the representative rank's link: a transfer of s seconds is s * kFittedBandwidth
/// "bytes". Large enough that rounding to whole ones stays below 1e-15 s.
inline constexpr double kFittedBandwidth = 1e15;

/// Work drawn as bytes on a link, so that its speed can change while it runs.
struct Channel {
  simgrid::s4u::Host* from = nullptr;
  simgrid::s4u::Host* to = nullptr;
  const simgrid::s4u::SplitDuplexLink* link = nullptr;

  /// From now on, what takes s seconds alone takes s * slowdown.
  void set_slowdown(double slowdown) const;
};

/// One representative rank: its GPU, and a channel on which collectives that run at once share the
/// bandwidth. Where tasks slow each other, computation and collectives' start-ups are on channels
/// too; what runs at once there does not share.
struct RankPlatform {
  simgrid::s4u::Host* gpu = nullptr;
  Channel transfer;
  Channel start_up;
  Channel compute;
};

/// Nodes of GPUs. Each GPU has its own link into its node, each node its NIC into the network;
/// all links are full-duplex. A node's own host stands behind its NIC, for node-to-node flows.
struct ClusterPlatform {
  std::vector<simgrid::s4u::Host*> gpus;  ///< by rank
  std::vector<simgrid::s4u::Host*> nodes;
  std::vector<const simgrid::s4u::SplitDuplexLink*> gpu_links;
  std::vector<const simgrid::s4u::SplitDuplexLink*> nics;
  std::vector<const simgrid::s4u::SplitDuplexLink*> uplinks;  ///< of a fat tree's leaves

  void set_bandwidths(const Cluster& cluster);
};

/// SimGrid's engine, started on first use and kept until the process ends, with the platforms
/// built so far. Not thread-safe.
class World {
 public:
  static World& instance();

  simgrid::s4u::Engine& engine() { return *engine_; }
  const RankPlatform& rank();
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
  std::vector<simgrid::s4u::NetZone*> zones_;  // keeps them reachable: SimGrid cannot free them
  RankPlatform rank_;
  std::map<Shape, ClusterPlatform> clusters_;
};

/// "SimGrid 3.32" and the settings that results depend on.
std::string simgrid_description();

}  // namespace pipemoe::sim
