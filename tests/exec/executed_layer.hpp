// Whole layers on the CPU executor, for tests on one rank and on several.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "exec/executor.hpp"
#include "exec/process_group.hpp"
#include "models/cluster.hpp"
#include "models/schedule.hpp"

namespace pipemoe::test {

/// One node of so many ranks, of round costs: what a schedule needs to know.
Cluster one_node(int ranks);

/// 61 tokens, a prime, on 8 experts: no degree but 1 divides them, and top-1 with a capacity factor
/// of 1 makes ceil(61 / 8) = 8 slots an expert, enough for degree 8.
MoeLayer prime_layer(std::int64_t top_k, std::optional<double> capacity_factor,
                     Activation activation = Activation::Relu);

struct Executed {
  exec::LayerResults results;       ///< of this rank
  double largest_error = 0;         ///< against float64, known to rank 0
  bool same_bits_each_time = true;  ///< whether two iterations gave equal results
};

/// Runs two iterations, the second on buffers filled with NaN, and verifies its results.
/// Collective.
Executed execute_layer(const MoeLayer& layer, const std::string& schedule, Degrees degrees,
                       const exec::DataOptions& data, exec::ProcessGroup& group,
                       const std::optional<exec::Link>& link = {});

/// Runs so many random runs (tests/support/random_runs.hpp) on all ranks of the group and checks
/// each against float64 on every rank. Collective.
void check_random_runs(std::uint64_t runs, exec::ProcessGroup& group);

/// What fp32 sums in another order than the reference may differ by.
inline constexpr double kTolerance = 1e-5;

}  // namespace pipemoe::test
