// What a collective moves: bytes between ranks, between nodes, and through each GPU's own link.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "models/cluster.hpp"
#include "models/task_graph.hpp"

namespace pipemoe {

/// All that one node sends to another, drawn as one flow that shares links as `count` equal flows
/// would.
struct NodeFlow {
  std::int64_t from = 0, to = 0;
  double bytes = 0;  ///< whole ones
  double count = 1;
};

/// What a rank sends to others and receives from them through its GPU's own link.
struct GpuFlow {
  std::int64_t rank = 0;
  double sent = 0, received = 0;
};

/// A collective between nodes. In a balanced one, rank 0's GPU stands for all, and what it receives
/// is left out: it equals what it sends.
struct NodeTraffic {
  std::vector<NodeFlow> between;
  std::vector<GpuFlow> gpus;
};
/// Where all flows of a kind are equal they are drawn together: on a star a ring of nodes carries
/// what each node sends; on a fat tree one such ring stays inside the leaves and one crosses them.
/// Shares and ends are those of a flow for each pair of nodes. Bytes are rounded to whole
/// ones.
NodeTraffic node_traffic(const Cluster& cluster, const Collective& collective);

/// What one rank sends to another: an all-to-all's part, or its share of a ring.
struct RankFlow {
  std::int64_t from = 0, to = 0;
  double bytes = 0;
};
std::vector<RankFlow> rank_traffic(const Collective& collective, std::int64_t num_ranks);

// ---- what both are made of, for whoever draws fewer flows than there are ----

/// Simulators move whole bytes.
double whole_bytes(double bytes);
/// Whether each rank sends to the next rank of its group alone: all but an all-to-all.
bool is_ring(CollectiveKind kind);

/// Nodes of which each sends the same to each other one: `count` nodes that are `stride` apart.
struct NodeGroup {
  std::int64_t count = 1, stride = 1;

  std::int64_t next(std::int64_t node) const {
    const std::int64_t member = node / stride % count;
    return node + (member + 1 < count ? stride : -(count - 1) * stride);
  }
};
/// Absent where ranks of a node are in groups that meet different nodes.
std::optional<NodeGroup> node_group(const Cluster& cluster, Group group);
/// What a node sends to each other node of its group in a uniform all-to-all; in a ring, to the
/// next.
double bytes_to_each_node(const Cluster& cluster, const Collective& collective);
/// What any rank of a balanced collective sends to others.
double bytes_sent_by_each(const Collective& collective, std::int64_t num_ranks);

}  // namespace pipemoe
