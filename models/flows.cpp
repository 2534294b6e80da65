#include "models/flows.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>
#include <utility>

namespace pipemoe {
namespace {

// A ring collective sends so many times a rank's bytes to the next rank.
double ring_factor(CollectiveKind kind, std::int64_t ranks) {
  const double others = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
  switch (kind) {
    case CollectiveKind::AllReduce:
      return 2 * others;
    case CollectiveKind::AllGather:
    case CollectiveKind::ReduceScatter:
      return others;
    case CollectiveKind::AllToAll:
      break;
  }
  throw std::logic_error("pipemoe bug: an all-to-all is no ring");
}

// Adds flows of a transport between two sides of which each member has as much left as the others.
void connect(std::vector<NodeFlow>& flows, std::vector<std::pair<std::int64_t, std::int64_t>> from,
             std::vector<std::pair<std::int64_t, std::int64_t>> to, double bytes) {
  for (std::size_t i = 0, j = 0; i < from.size() && j < to.size();) {
    const std::int64_t count = std::min(from[i].second, to[j].second);
    if (count > 0) {
      flows.push_back({from[i].first, to[j].first, static_cast<double>(count) * bytes,
                       static_cast<double>(count)});
    }
    from[i].second -= count;
    to[j].second -= count;
    if (from[i].second == 0) ++i;
    if (j < to.size() && to[j].second == 0) ++j;
  }
}

// Each node sends `bytes` to each other one. Flows inside a leaf are drawn as a ring, those between
// full leaves as a ring of leaves; those to and from a leaf that is not full connect every node of
// the one side with as many flows as it has to some nodes of the other.
void add_fat_tree_flows(std::vector<NodeFlow>& flows, std::int64_t nodes, std::int64_t per_leaf,
                        double bytes) {
  const std::int64_t full = nodes / per_leaf, rest = nodes % per_leaf, in_full = full * per_leaf;
  const auto add = [&](std::int64_t from, std::int64_t to, std::int64_t count) {
    if (count == 0) return;
    flows.push_back({from, to, static_cast<double>(count) * bytes, static_cast<double>(count)});
  };
  for (std::int64_t node = 0; node < nodes; ++node) {
    const std::int64_t first = node / per_leaf * per_leaf;
    const std::int64_t members = std::min(per_leaf, nodes - first);
    add(node, first + (node - first + 1) % members, members - 1);
  }
  for (std::int64_t node = 0; node < in_full; ++node) {
    add(node, (node + per_leaf) % in_full, (full - 1) * per_leaf);
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> many, few;
  for (std::int64_t node = 0; node < in_full; ++node) many.emplace_back(node, rest);
  for (std::int64_t node = in_full; node < nodes; ++node) few.emplace_back(node, in_full);
  connect(flows, many, few, bytes);
  connect(flows, few, many, bytes);
}

void add_pairs(std::vector<NodeFlow>& flows, const Cluster& cluster,
               const std::vector<RankFlow>& ranks) {
  std::map<std::pair<std::int64_t, std::int64_t>, double> nodes;
  for (const RankFlow& flow : ranks) {
    const std::int64_t from = flow.from / cluster.gpus_per_node;
    const std::int64_t to = flow.to / cluster.gpus_per_node;
    if (from != to) nodes[{from, to}] += flow.bytes;
  }
  for (const auto& [pair, bytes] : nodes) {
    const double sent = whole_bytes(bytes);
    if (sent > 0) flows.push_back({pair.first, pair.second, sent, 1});
  }
}

void add_between_nodes(std::vector<NodeFlow>& flows, const Cluster& cluster,
                       const Collective& collective) {
  const auto group = node_group(cluster, collective.group);
  if (!collective.traffic.is_uniform() || !group) {
    return add_pairs(flows, cluster, rank_traffic(collective, cluster.num_ranks()));
  }
  if (group->count == 1) return;
  const double bytes = bytes_to_each_node(cluster, collective);
  const bool ring = is_ring(collective.kind);
  if (!cluster.fat_tree || ring) {
    const double peers = ring ? 1 : static_cast<double>(group->count - 1);
    if (whole_bytes(peers * bytes) <= 0) return;
    for (std::int64_t node = 0; node < cluster.nodes; ++node) {
      flows.push_back({node, group->next(node), whole_bytes(peers * bytes), peers});
    }
  } else if (whole_bytes(bytes) <= 0) {
    return;
  } else if (group->count == cluster.nodes) {
    add_fat_tree_flows(flows, cluster.nodes, cluster.fat_tree->nodes_per_leaf, whole_bytes(bytes));
  } else {
    for (std::int64_t node = 0; node < cluster.nodes; ++node) {
      for (std::int64_t to = group->next(node); to != node; to = group->next(to)) {
        flows.push_back({node, to, whole_bytes(bytes), 1});
      }
    }
  }
}

}  // namespace

double whole_bytes(double bytes) { return std::round(bytes); }

bool is_ring(CollectiveKind kind) { return kind != CollectiveKind::AllToAll; }

std::optional<NodeGroup> node_group(const Cluster& cluster, Group group) {
  const std::int64_t per_node = cluster.gpus_per_node;
  if (per_node % (group.count * group.stride) == 0) return NodeGroup{};  // inside a node
  if (group.stride % per_node == 0) return NodeGroup{group.count, group.stride / per_node};
  if (group.stride == 1 && group.count % per_node == 0) return NodeGroup{group.count / per_node, 1};
  return std::nullopt;
}

double bytes_to_each_node(const Cluster& cluster, const Collective& collective) {
  const auto per_node = static_cast<double>(cluster.gpus_per_node);
  const bool neighbours = collective.group.stride == 1;  // all ranks of a node are in one group
  const double bytes = collective.bytes().amount();
  const auto ranks = static_cast<double>(collective.group.count);
  if (is_ring(collective.kind)) {
    return ring_factor(collective.kind, collective.group.count) * bytes *
           (neighbours ? 1 : per_node);
  }
  return bytes / ranks * per_node * (neighbours ? per_node : 1);
}

double bytes_sent_by_each(const Collective& collective, std::int64_t num_ranks) {
  const double bytes = collective.bytes().amount();
  const auto others = [](std::int64_t of) {
    return static_cast<double>(of - 1) / static_cast<double>(of);
  };
  if (is_ring(collective.kind)) {
    return ring_factor(collective.kind, collective.group.count) * bytes;
  }
  const TrafficMatrix& traffic = collective.traffic;
  if (traffic.is_uniform()) return others(collective.group.count) * bytes;
  const bool stays = traffic.block_shift() % (num_ranks / traffic.block_size()) == 0;
  return stays ? others(traffic.block_size()) * bytes : bytes;
}

NodeTraffic node_traffic(const Cluster& cluster, const Collective& collective) {
  NodeTraffic traffic;
  add_between_nodes(traffic.between, cluster, collective);
  if (collective.traffic.is_balanced()) {
    const double sent = whole_bytes(bytes_sent_by_each(collective, cluster.num_ranks()));
    if (sent > 0) traffic.gpus.push_back({0, sent, 0});
    return traffic;
  }
  std::vector<double> sent(static_cast<std::size_t>(cluster.num_ranks())), received(sent.size());
  for (const RankFlow& flow : rank_traffic(collective, cluster.num_ranks())) {
    sent[static_cast<std::size_t>(flow.from)] += flow.bytes;
    received[static_cast<std::size_t>(flow.to)] += flow.bytes;
  }
  for (std::size_t rank = 0; rank < sent.size(); ++rank) {
    traffic.gpus.push_back(
        {static_cast<std::int64_t>(rank), whole_bytes(sent[rank]), whole_bytes(received[rank])});
  }
  return traffic;
}

std::vector<RankFlow> rank_traffic(const Collective& collective, std::int64_t num_ranks) {
  const auto [count, stride] = collective.group;
  const Group group = collective.group;
  std::vector<RankFlow> flows;
  for (std::int64_t index = 0; index < num_ranks / count; ++index) {
    for (std::int64_t sender = 0; sender < count; ++sender) {
      if (is_ring(collective.kind)) {
        if (count == 1) continue;
        flows.push_back({group.rank(index, sender), group.rank(index, (sender + 1) % count),
                         ring_factor(collective.kind, count) * collective.bytes().amount()});
        continue;
      }
      for (std::int64_t receiver = 0; receiver < count; ++receiver) {
        const double bytes = collective.traffic.between(sender, receiver, count);
        if (sender == receiver || bytes <= 0) continue;
        flows.push_back({group.rank(index, sender), group.rank(index, receiver), bytes});
      }
    }
  }
  return flows;
}

}  // namespace pipemoe
