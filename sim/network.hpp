// Collectives as SimGrid transfers on a virtual cluster.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <simgrid/s4u.hpp>
#include <vector>

#include "models/evaluate.hpp"
#include "models/network.hpp"

namespace pipemoe::sim {

/// One SimGrid transfer of a collective. It shares links as `count` equal flows would.
struct Flow {
  simgrid::s4u::Host* from = nullptr;
  simgrid::s4u::Host* to = nullptr;
  std::uint64_t bytes = 0;  ///< of all `count` together
  double count = 1;
  std::vector<std::uint32_t> rank_classes{};  ///< whose parts wait for it; empty: all
};

/// The network levels `node` (the flows of models' node_traffic) and `gpu` (a flow for each pair of
/// GPUs), for models' event loop. One at a time in a process, and not thread-safe: SimGrid's engine
/// and its clock are the process's.
class SimulatedNetwork final : public Network {
 public:
  /// The flows of one collective.
  using Drawing = std::function<std::vector<Flow>(const Collective&)>;

  /// Keeps no reference to `costs`. Requires level Node or Gpu.
  SimulatedNetwork(const Costs& costs, NetworkLevel level);
  /// For tests: with other flows than a level's.
  SimulatedNetwork(const Costs& costs, const Drawing& draw);
  /// Cancels what still moves.
  ~SimulatedNetwork() override;
  SimulatedNetwork(const SimulatedNetwork&) = delete;
  SimulatedNetwork& operator=(const SimulatedNetwork&) = delete;

  bool begin(TaskId task, Seconds now) override;
  Seconds next_end() override;
  void end_next(std::vector<EndedPart>& ended) override;

 private:
  /// A transfer in SimGrid, of a flow of this task.
  struct Moving {
    TaskId task = 0;
    const Flow* flow = nullptr;
    simgrid::s4u::CommPtr transfer{};
  };
  struct Open {
    std::size_t flows = 0;                  ///< of all ranks
    std::vector<std::uint32_t> by_class{};  ///< those that each class of ranks waits for
  };

  static void listen_once();
  void move_to(double now);
  void run_to_next_end();
  void start(TaskId task, const Flow& flow);
  void flow_ended(const Moving& moving);

  static SimulatedNetwork* active_;  // whom SimGrid's callback tells

  std::vector<std::vector<Flow>> drawn_;   // equal collectives: once
  std::vector<std::uint32_t> drawing_of_;  // by task
  std::size_t num_classes_ = 1;
  std::vector<Open> open_;     // by task
  std::deque<Moving> moving_;  // also those that have ended since the network was idle
  std::size_t in_flight_ = 0;
  std::vector<EndedPart> ended_;  // not reported yet
  double origin_ = 0;             // SimGrid's clock at this network's time 0
  double next_end_ = 0;
  bool next_end_known_ = false;
};

}  // namespace pipemoe::sim
