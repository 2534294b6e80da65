#include "sim/flows.hpp"

#include <cstddef>

namespace pipemoe::sim {
namespace {

// Bytes between ranks and sums of them over nodes.
class Traffic {
 public:
  Traffic(const ClusterPlatform& platform, const TrafficMatrix& matrix)
      : matrix_(matrix),
        ranks_(static_cast<std::int64_t>(platform.gpus.size())),
        gpus_per_node_(ranks_ / static_cast<std::int64_t>(platform.nodes.size())) {}

  std::int64_t ranks() const { return ranks_; }
  std::int64_t nodes() const { return ranks_ / gpus_per_node_; }
  std::int64_t node_of(std::int64_t rank) const { return rank / gpus_per_node_; }
  bool is_balanced() const { return matrix_.is_balanced(); }

  double between(std::int64_t sender, std::int64_t receiver) const {
    return matrix_.between(sender, receiver, ranks_);
  }
  double between_nodes(std::int64_t from, std::int64_t to) const {
    if (matrix_.is_uniform()) {
      return between(0, 0) * static_cast<double>(gpus_per_node_ * gpus_per_node_);
    }
    double sum = 0;
    for (std::int64_t i = 0; i < gpus_per_node_; ++i) {
      for (std::int64_t j = 0; j < gpus_per_node_; ++j) {
        sum += between(from * gpus_per_node_ + i, to * gpus_per_node_ + j);
      }
    }
    return sum;
  }
  double sent_by(std::int64_t rank) const {
    double sum = 0;
    for (std::int64_t other = 0; other < ranks_; ++other) {
      if (other != rank) sum += between(rank, other);
    }
    return sum;
  }
  double received_by(std::int64_t rank) const {
    double sum = 0;
    for (std::int64_t other = 0; other < ranks_; ++other) {
      if (other != rank) sum += between(other, rank);
    }
    return sum;
  }

 private:
  const TrafficMatrix& matrix_;
  std::int64_t ranks_;
  std::int64_t gpus_per_node_;
};

template <class Items>
auto* at(const Items& items, std::int64_t index) {
  return items[static_cast<std::size_t>(index)];
}

void add(std::vector<Flow>& flows, Flow flow) {
  if (flow.bytes > 0) flows.push_back(flow);
}

void add_between_nodes(std::vector<Flow>& flows, const ClusterPlatform& platform,
                       const Traffic& traffic, NodeFlows how) {
  const std::int64_t nodes = traffic.nodes();
  for (std::int64_t from = 0; from < nodes; ++from) {
    if (how == NodeFlows::Ring) {
      const std::int64_t next = (from + 1) % nodes;
      const double all = traffic.between_nodes(from, next) * static_cast<double>(nodes - 1);
      add(flows, {at(platform.nodes, from), at(platform.nodes, next), all});
      continue;
    }
    for (std::int64_t to = 0; to < nodes; ++to) {
      if (to == from) continue;
      add(flows,
          {at(platform.nodes, from), at(platform.nodes, to), traffic.between_nodes(from, to)});
    }
  }
}

}  // namespace

NodeFlows node_flows_for(const Cluster& cluster, bool all_uniform) {
  return all_uniform && !cluster.fat_tree ? NodeFlows::Ring : NodeFlows::Pairs;
}

std::vector<Flow> node_level_flows(const ClusterPlatform& platform, const TrafficMatrix& matrix,
                                   NodeFlows how) {
  const Traffic traffic(platform, matrix);
  std::vector<Flow> flows;
  add_between_nodes(flows, platform, traffic, how);
  const std::int64_t distinct = traffic.is_balanced() ? 1 : traffic.ranks();
  for (std::int64_t rank = 0; rank < distinct; ++rank) {
    simgrid::s4u::Host* gpu = at(platform.gpus, rank);
    simgrid::s4u::Host* node = at(platform.nodes, traffic.node_of(rank));
    add(flows, {gpu, node, traffic.sent_by(rank)});
    if (!traffic.is_balanced()) add(flows, {node, gpu, traffic.received_by(rank)});
  }
  return flows;
}

std::vector<Flow> gpu_level_flows(const ClusterPlatform& platform, const TrafficMatrix& matrix) {
  const Traffic traffic(platform, matrix);
  std::vector<Flow> flows;
  for (std::int64_t from = 0; from < traffic.ranks(); ++from) {
    for (std::int64_t to = 0; to < traffic.ranks(); ++to) {
      if (to == from) continue;
      add(flows, {at(platform.gpus, from), at(platform.gpus, to), traffic.between(from, to)});
    }
  }
  return flows;
}

}  // namespace pipemoe::sim
