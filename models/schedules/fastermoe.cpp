// FasterMoE (PPoPP 2022), smart schedule without expert shadowing: the exchange is split by peer.
// The ranks form n groups, here the nodes. In step j every group sends its rows for the experts of
// the group at distance j, computes what it received, and returns it:
//   communication: S_0 .. S_{n-1}  R_0 .. R_{n-1}      S send, R return
//   compute:       C_0 .. C_{n-1}                      S_j -> C_j -> R_j
// S_0 stays inside the group. Backward does the same. The number of steps is the cluster's, so
// there is no degree to choose; steps take different times although they move the same bytes.
#include <fmt/core.h>

#include "models/error.hpp"
#include "models/schedules/pipelined_phase.hpp"
#include "models/schedules/schedules.hpp"

namespace pipemoe::schedules {
namespace {

Chunks peer_steps(const MoeLayer& layer, const Cluster& cluster) {
  const std::int64_t steps = cluster.nodes;
  if (layer.rows() % steps != 0) {
    throw InputError(fmt::format("{}: schedule fastermoe needs rows ({}) that divide over {} nodes",
                                 layer.name, layer.rows(), steps));
  }
  const std::int64_t rows = layer.rows() / steps;
  const Bytes bytes{rows * layer.row_bytes().count};
  const std::int64_t group = cluster.gpus_per_node;
  Chunks chunks;
  chunks.rows.assign(static_cast<std::size_t>(steps), rows);
  chunks.traffic = [=](Direction direction, int step) {
    const std::int64_t shift = direction == Direction::ToExperts ? steps - step : step;
    return TrafficMatrix::between_groups(bytes, group, shift % steps);
  };
  return chunks;
}

}  // namespace

TaskGraph fastermoe(const MoeLayer& layer, const Cluster& cluster, Degrees degrees) {
  if (degrees != Degrees{1, 1}) {
    throw InputError("schedule fastermoe splits by node, not by degree: leave the degrees at 1");
  }
  const LayerTasks tasks(layer, cluster.num_ranks());
  TaskGraphBuilder builder("fastermoe", cluster.num_ranks());
  const Chunks chunks = peer_steps(layer, cluster);
  append_backward(builder, tasks, chunks, append_forward(builder, tasks, chunks));
  return std::move(builder).build();
}

}  // namespace pipemoe::schedules
