// How long a collective's flows take on a cluster's links: max-min fair sharing, solved over
// classes of equal flows and equal links, so that the cost hardly depends on their number.
#pragma once

#include <memory>
#include <vector>

#include "models/flows.hpp"
#include "models/network.hpp"

namespace pipemoe {

class Costs;

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
