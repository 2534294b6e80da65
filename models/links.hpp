// Collectives as flows on a cluster's links, and how long these take: max-min fair sharing, solved
// over classes of equal flows and equal links, so that the cost hardly depends on their number.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "models/cluster.hpp"
#include "models/network.hpp"
#include "models/task_graph.hpp"

namespace pipemoe {

class Costs;

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

/// Bytes that `sender` sends to `receiver`: an all-to-all's part, or its share of a ring.
struct RankFlow {
  std::int64_t from = 0, to = 0;
  double bytes = 0;
};
std::vector<RankFlow> rank_traffic(const Collective& collective, std::int64_t num_ranks);

/// Time of a collective that has all links to itself, without its start-up.
Seconds time_on_links(const Cluster& cluster, const Collective& collective);

/// The network level `links`. Flows are those of node_traffic.
class LinkNetwork final : public Network {
 public:
  /// Keeps no reference to `costs`.
  explicit LinkNetwork(const Costs& costs);
  ~LinkNetwork() override;

  bool begin(TaskId task, Seconds now) override;
  Seconds next_end() override;
  void end_next(std::vector<EndedPart>& ended) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pipemoe
