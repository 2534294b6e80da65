#include "exec/part_measurements.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>

#include "exec/calibration_rows.hpp"
#include "exec/execute.hpp"

namespace pipemoe::exec {
namespace {

/// Turns that sizes of exchanges take: one size's repeats last milliseconds, and a burst from
/// elsewhere may take all of them.
constexpr int kExchangeRounds = 3;

void measure_between(ProcessGroup& group, const PartMeasurement& of) {
  std::int64_t largest = 0;
  for (const MoeLayer& layer : of.layers) {
    largest = std::max(largest, layer.all_to_all_bytes().count);
  }
  std::vector<Bytes> sizes;
  for (std::int64_t size = 4096; size < largest; size *= 2) sizes.push_back({size});
  sizes.push_back({std::max(largest, std::int64_t{8192})});
  std::vector<ExchangeTimes> measured(sizes.size());
  for (int round = 0; round < kExchangeRounds; ++round) {
    const auto times = of.tools.time_all_to_alls(group, sizes, of.options.repeats);
    for (std::size_t i = 0; i < sizes.size(); ++i) measured[i].append(times[i]);
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto recorded = [&](const char* what, const std::vector<Seconds>& times) {
      return record({what, "", group.size(), sizes[i].amount(), "byte"},
                    across(group, in_seconds(times), Across::Last), of.rows);
    };
    of.points.all_to_all[group.size()].push_back(recorded("all_to_all", measured[i].alone));
    if (measured[i].queued.empty()) continue;
    of.points.all_to_all_queued[group.size()].push_back(
        recorded("all_to_all, queued", measured[i].queued));
  }
}

}  // namespace

void measure_gemms(const PartMeasurement& of) {
  std::set<std::array<std::int64_t, 4>> seen;
  for (const MoeLayer& layer : of.layers) {
    for (const std::int64_t degree : of.options.degrees) {
      if (degree > layer.slots()) continue;
      const std::int64_t rows = layer.chunk_rows(degree).front();
      for (const GemmShape& gemm : layer.gemms(Pass::Forward, rows, of.group.size())) {
        if (!seen.insert({gemm.groups, gemm.rows, gemm.n, gemm.k}).second) continue;
        const Times times =
            across(of.group, in_seconds(of.tools.time_gemm(gemm, layer.dtype, of.options.repeats)),
                   Across::Slowest);
        of.points.gemms.push_back(
            record({fmt::format("gemm {}x[{},{}]x[{},{}]", gemm.groups, gemm.rows / gemm.groups,
                                gemm.k, gemm.k, gemm.n),
                    "", of.group.size(), gemm.flops().count, "flop"},
                   times, of.rows));
      }
    }
  }
}

void measure_activations(const PartMeasurement& of) {
  if (!of.tools.time_activation) return;
  for (const MoeLayer& layer : of.layers) {
    for (const std::int64_t degree : of.options.degrees) {
      if (degree > layer.slots()) continue;
      const std::int64_t rows = layer.chunk_rows(degree).front();
      for (const Pass pass : {Pass::Forward, Pass::InputGradient}) {
        const bool forward = pass == Pass::Forward;
        const Times times = across(
            of.group, in_seconds(of.tools.time_activation(layer, pass, rows, of.options.repeats)),
            Across::Slowest);
        of.points.passes[forward ? MemoryPass::Activation : MemoryPass::ActivationBackward]
            .push_back(
                record({forward ? "activation forward" : "activation backward", layer.name,
                        of.group.size(), layer.activation_bytes(pass, rows).amount(), "byte"},
                       times, of.rows));
      }
    }
  }
}

void measure_exchanges(const PartMeasurement& of) {
  std::set<int> sizes{of.group.size()};
  for (int ranks = 2; ranks < of.group.size(); ranks *= 2) sizes.insert(ranks);
  for (const int ranks : sizes) {
    const auto part = of.group.first(ranks);
    if (part) measure_between(*part, of);
    of.group.barrier();
  }
}

}  // namespace pipemoe::exec
