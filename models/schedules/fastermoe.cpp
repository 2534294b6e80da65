// FasterMoE (PPoPP 2022), smart schedule without expert shadowing: the exchange is split by peer.
// The ranks form n groups, here the nodes. In step j every group sends its rows for the experts of
// the group at distance j, computes what it received, and returns it:
//   communication: S_0 .. S_{n-1}  R_0 .. R_{n-1}      S send, R return
//   compute:       C_0 .. C_{n-1}                      S_j -> C_j -> R_j
// S_0 stays inside the group. Backward does the same. The number of steps is the cluster's, so
// there is no degree to choose; steps take different times although they move the same bytes.
#include <fmt/core.h>

#include "models/error.hpp"
#include "models/schedules/layer_tasks.hpp"
#include "models/schedules/list.hpp"

namespace pipemoe::schedules {
namespace {

Chunks peer_steps(const MoeLayer& layer, const Cluster& cluster) {
  const std::int64_t steps = cluster.nodes;
  if (layer.rows() % steps != 0) {
    throw InputError(fmt::format("{}: schedule {} needs rows ({}) that divide over {} nodes",
                                 layer.name, fastermoe.name, layer.rows(), steps));
  }
  const std::int64_t rows = layer.rows() / steps;
  const Bytes bytes{rows * layer.row_bytes().count};
  const std::int64_t per_node = cluster.gpus_per_node;
  const Group all = cluster.all_ranks();
  Chunks chunks;
  chunks.rows.assign(static_cast<std::size_t>(steps), rows);
  chunks.collective = [=](Step step, Pass pass, int chunk) -> Collective {
    if (chunk == 0) {
      return {CollectiveKind::AllToAll, {per_node, 1}, TrafficMatrix::uniform(bytes)};
    }
    const std::int64_t shift = step == step_to_experts(pass) ? steps - chunk : chunk;
    return {CollectiveKind::AllToAll, all, TrafficMatrix::between_blocks(bytes, per_node, shift)};
  };
  return chunks;
}

TaskGraph build_fastermoe(const MoeLayer& layer, const Cluster& cluster, const Choice&) {
  const LayerTasks tasks(layer, cluster.num_ranks());
  TaskGraphBuilder builder(fastermoe.name, cluster.num_ranks(), compute_and_communication());
  const Chunks chunks = peer_steps(layer, cluster);
  append_backward(builder, tasks, chunks, append_forward(builder, tasks, chunks));
  return std::move(builder).build();
}

}  // namespace

const Schedule fastermoe{.name = "fastermoe",
                         .summary = "split by peer: one step for each node (FasterMoE)",
                         .knobs = no_knobs,
                         .build = build_fastermoe};

}  // namespace pipemoe::schedules
