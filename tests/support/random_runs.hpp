// Random small layers with all that `pipemoe run --verify` can be asked to do with them.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>

#include "exec/communicator.hpp"
#include "exec/layer_data.hpp"
#include "models/layer.hpp"
#include "models/schedule.hpp"

namespace pipemoe::test {

/// One run on CPU ranks.
struct RandomRun {
  MoeLayer layer;
  std::string schedule;
  Degrees degrees;
  exec::DataOptions data;
  std::optional<exec::Link> link;

  /// What to type after "pipemoe" to see the same run.
  std::string arguments() const;
  /// The same run on other tokens and weights. In one of a thousand runs of so small layers numbers
  /// cancel, and what is left is rounding. With other numbers it is not so, but a mistake stays.
  RandomRun with_other_numbers() const;
};

/// Sizes from 1 up, many of them primes; few tokens or many experts, so that experts and chunks are
/// empty; every schedule that ranks can execute. The same on every rank for the same `seed` and
/// `index`.
RandomRun random_run(std::uint64_t seed, std::uint64_t index, int ranks);

/// PIPEMOE_TEST_SEED, or 1: another seed makes other runs.
std::uint64_t test_seed();
/// PIPEMOE_TEST_RUNS, or `usual`: how many runs to draw.
std::uint64_t test_runs(std::uint64_t usual);

}  // namespace pipemoe::test
