#include "exec/calibration/measure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "exec/calibration/measured_graphs.hpp"

namespace pipemoe::exec {
namespace {

/// The number of turns that the graphs of a layer take.
constexpr int kRounds = 5;
/// Higher degrees count as the highest degree up to here. With eight chunks one behind another, the
/// CUDA graph started its experts two exchanges late (kernel traces, NCCL through host memory);
/// layers in eight chunks do not do that.
constexpr std::int64_t kMostBeside = 6;
/// Contention is measured with this many times the repeats: it is a small difference of long times.
constexpr int kContentionRepeats = 2;
/// The number of turns that sizes of exchanges take. The repeats of one size last milliseconds, and
/// a disturbance from elsewhere may hit all of them.
constexpr int kExchangeRounds = 3;

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

// All degrees that can be measured, because chunks of similar sizes may run kernels that exchanges
// slow differently. check_layers makes sure that there is one.
std::vector<std::int64_t> contention_degrees(const MoeLayer& layer,
                                             const CalibrateOptions& options) {
  std::set<std::int64_t> usable;
  for (const std::int64_t degree : options.degrees) {
    if (degree <= layer.slots()) usable.insert(degree);
  }
  return {usable.begin(), usable.upper_bound(std::max(kMostBeside, *usable.begin()))};
}

// Measures one degree at a time, because each graph takes memory.
ContentionGraphs measure_contention(const MoeLayer& layer, std::int64_t degree, Executor& executor,
                                    ProcessGroup& group, const CalibrateOptions& options) {
  std::vector<DegreeGraph> pair;
  pair.push_back({degree, experts_then_exchanges(layer, group.size(), degree)});
  pair.push_back({degree, experts_under_exchanges(layer, group.size(), degree)});
  auto measured = measure(std::move(pair), executor, group,
                          {.warm_up = options.warm_up,
                           .repeats = kContentionRepeats * options.repeats,
                           .rounds = std::min(options.repeats, kRounds),
                           .makespans = false});
  return {std::move(measured[0]), std::move(measured[1])};
}

void measure_between(ProcessGroup& group, const PartMeasurement& to) {
  std::int64_t largest = 0;
  for (const MoeLayer& layer : to.layers) {
    largest = std::max(largest, layer.all_to_all_bytes().count);
  }
  std::vector<Bytes> sizes;
  for (std::int64_t size = 4096; size < largest; size *= 2) sizes.push_back({size});
  sizes.push_back({std::max(largest, std::int64_t{8192})});
  std::vector<ExchangeTimes> measured(sizes.size());
  for (int round = 0; round < kExchangeRounds; ++round) {
    const auto times = to.tools.time_all_to_alls(group, sizes, to.options.repeats);
    for (std::size_t i = 0; i < sizes.size(); ++i) measured[i].append(times[i]);
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto recorded = [&](const char* what, const std::vector<Seconds>& times) {
      return record({what, "", group.size(), sizes[i].amount(), "byte"},
                    across(group, in_seconds(times), Across::Last), to.rows);
    };
    to.points.all_to_all[group.size()].push_back(recorded("all_to_all", measured[i].alone));
    if (measured[i].queued.empty()) continue;
    to.points.queued_all_to_all[group.size()].push_back(
        recorded("all_to_all, queued", measured[i].queued));
  }
}

}  // namespace

Times MeasuredChunks::durations(TaskId id) const {
  Times times;
  for (const auto& iteration : measured.iterations) {
    times.push_back(iteration[id].duration().count());
  }
  return times;
}

LayerMeasurements measure_layer(const MoeLayer& layer, const CalibrationTools& tools,
                                ProcessGroup& group, const CalibrateOptions& options) {
  const auto executor = tools.executor(layer);
  const int ranks = group.size();
  const std::vector<std::int64_t> contended = contention_degrees(layer, options);
  std::vector<DegreeGraph> by_themselves;
  for (const std::int64_t degree : options.degrees) {
    if (degree > layer.slots()) continue;
    by_themselves.push_back({degree, grouped_chunks(layer, ranks, degree)});
  }
  if (tools.enqueues_ahead) {
    const std::int64_t few = contended.size() > 1 ? contended[1] : contended[0];
    by_themselves.push_back({few, serial_chunks(layer, ranks, few)});
    by_themselves.push_back({few, computations_only(layer, ranks, few)});
  }
  LayerMeasurements measurements{.regroups = executor->regroups()};
  measurements.grouped = measure(std::move(by_themselves), *executor, group,
                                 {.warm_up = options.warm_up,
                                  .repeats = options.repeats,
                                  .rounds = std::min(options.repeats, kRounds),
                                  .makespans = true});
  if (tools.enqueues_ahead) {
    for (auto* last : {&measurements.computations, &measurements.serial}) {
      *last = std::move(measurements.grouped.back());
      measurements.grouped.pop_back();
    }
  }
  for (const std::int64_t degree : contended) {
    measurements.contention.push_back(measure_contention(layer, degree, *executor, group, options));
  }
  return measurements;
}

void measure_gemms(const PartMeasurement& to) {
  std::set<std::array<std::int64_t, 4>> seen;
  for (const MoeLayer& layer : to.layers) {
    for (const std::int64_t degree : to.options.degrees) {
      if (degree > layer.slots()) continue;
      const std::int64_t rows = layer.chunk_rows(degree).front();
      const Products products = layer.products(ProductKind::Forward, rows, to.group.size());
      for (const GemmShape& gemm : products.gemms()) {
        if (!seen.insert({gemm.groups, gemm.rows, gemm.n, gemm.k}).second) continue;
        const Times times =
            across(to.group, in_seconds(to.tools.time_gemm(gemm, layer.dtype, to.options.repeats)),
                   Across::Slowest);
        to.points.gemms.push_back(
            record({fmt::format("gemm {}x[{},{}]x[{},{}]", gemm.groups, gemm.rows / gemm.groups,
                                gemm.k, gemm.k, gemm.n),
                    "", to.group.size(), gemm.flops().count, "flop"},
                   times, to.rows));
      }
    }
  }
}

void measure_activations(const PartMeasurement& to) {
  if (!to.tools.time_activation) return;
  for (const MoeLayer& layer : to.layers) {
    for (const std::int64_t degree : to.options.degrees) {
      if (degree > layer.slots()) continue;
      const std::int64_t rows = layer.chunk_rows(degree).front();
      for (const Pass pass : {Pass::Forward, Pass::Backward}) {
        const bool forward = pass == Pass::Forward;
        const Products products = layer.products(
            forward ? ProductKind::Forward : ProductKind::InputGradient, rows, to.group.size());
        const Times times = across(
            to.group, in_seconds(to.tools.time_activation(layer, pass, rows, to.options.repeats)),
            Across::Slowest);
        to.points.kernels[forward ? MemoryKernel::Activation : MemoryKernel::ActivationBackward]
            .push_back(record({forward ? "activation forward" : "activation backward", layer.name,
                               to.group.size(), products.activation_bytes().amount(), "byte"},
                              times, to.rows));
      }
    }
  }
}

void measure_exchanges(const PartMeasurement& to) {
  std::set<int> sizes{to.group.size()};
  for (int ranks = 2; ranks < to.group.size(); ranks *= 2) sizes.insert(ranks);
  for (const int ranks : sizes) {
    const auto part = to.group.first(ranks);
    if (part) measure_between(*part, to);
    to.group.barrier();
  }
}

}  // namespace pipemoe::exec
