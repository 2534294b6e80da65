#include "exec/layer_measurements.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "exec/calibration_graph.hpp"

namespace pipemoe::exec {
namespace {

/// Turns that the graphs of a layer take.
constexpr int kRounds = 5;
/// Degrees above are taken to be like the highest below. With eight chunks behind one another the
/// CUDA graph began its experts two exchanges late (kernel traces, NCCL through host memory), which
/// layers in eight chunks do not show.
constexpr std::int64_t kMostBeside = 6;
/// Times the repeats of others: small differences of what compute and communication take.
constexpr int kOverlapRepeats = 2;

struct DegreeGraph {
  std::int64_t degree;
  TaskGraph graph;
};

std::vector<MeasuredChunks> measure(std::vector<DegreeGraph> in_turns, Executor& executor,
                                    ProcessGroup& group, const ExecuteOptions& options) {
  std::vector<TaskGraph> graphs;
  for (DegreeGraph& one : in_turns) graphs.push_back(std::move(one.graph));
  auto measured = measure_tasks(graphs, executor, group, options);
  std::vector<MeasuredChunks> all;
  for (std::size_t i = 0; i < graphs.size(); ++i) {
    all.push_back({in_turns[i].degree, std::move(graphs[i]), std::move(measured[i])});
  }
  return all;
}

// Chunks of similar sizes may run kernels that bear exchanges differently: all, as far as can be
// told. check_layers has seen to it that there is one.
std::vector<std::int64_t> overlap_degrees(const MoeLayer& layer, const CalibrateOptions& options) {
  std::set<std::int64_t> usable;
  for (const std::int64_t degree : options.degrees) {
    if (degree <= layer.slots()) usable.insert(degree);
  }
  return {usable.begin(), usable.upper_bound(std::max(kMostBeside, *usable.begin()))};
}

// Of one degree: each graph takes memory.
LayerMeasurements::Overlap measure_overlap(const MoeLayer& layer, std::int64_t degree,
                                           Executor& executor, ProcessGroup& group,
                                           const CalibrateOptions& options) {
  std::vector<DegreeGraph> pair;
  pair.push_back({degree, experts_then_exchanges(layer, group.size(), degree)});
  pair.push_back({degree, experts_under_exchanges(layer, group.size(), degree)});
  auto measured = measure(std::move(pair), executor, group,
                          {.warm_up = options.warm_up,
                           .repeats = kOverlapRepeats * options.repeats,
                           .rounds = std::min(options.repeats, kRounds),
                           .makespans = false});
  return {std::move(measured[0]), std::move(measured[1])};
}

}  // namespace

std::vector<double> MeasuredChunks::durations(TaskId id) const {
  std::vector<double> times;
  for (const auto& iteration : measured.iterations) {
    times.push_back(iteration[id].duration().count());
  }
  return times;
}

LayerMeasurements measure_layer(const MoeLayer& layer, const CalibrationTools& tools,
                                ProcessGroup& group, const CalibrateOptions& options) {
  const auto executor = tools.executor(layer);
  const int ranks = group.size();
  const std::vector<std::int64_t> overlapped = overlap_degrees(layer, options);
  std::vector<DegreeGraph> by_themselves;
  for (const std::int64_t degree : options.degrees) {
    if (degree > layer.slots()) continue;
    by_themselves.push_back({degree, grouped_chunks(layer, ranks, degree)});
  }
  if (tools.gives_ahead) {
    const std::int64_t few = overlapped.size() > 1 ? overlapped[1] : overlapped[0];
    by_themselves.push_back({few, serial_chunks(layer, ranks, few)});
    by_themselves.push_back({few, computations_only(layer, ranks, few)});
  }
  LayerMeasurements measurements{.regroups = executor->regroups()};
  measurements.grouped = measure(std::move(by_themselves), *executor, group,
                                 {.warm_up = options.warm_up,
                                  .repeats = options.repeats,
                                  .rounds = std::min(options.repeats, kRounds),
                                  .makespans = true});
  if (tools.gives_ahead) {
    for (auto* last : {&measurements.computations, &measurements.serial}) {
      *last = std::move(measurements.grouped.back());
      measurements.grouped.pop_back();
    }
  }
  for (const std::int64_t degree : overlapped) {
    measurements.overlaps.push_back(measure_overlap(layer, degree, *executor, group, options));
  }
  return measurements;
}

}  // namespace pipemoe::exec
