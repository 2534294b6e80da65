// Minimum and maximum beside google-benchmark's median.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <vector>

namespace pipemoe::bench {

/// For ->Apply(): nine repeats, of which minimum, median and maximum are shown.
inline void repeat(benchmark::internal::Benchmark* benchmark) {
  constexpr int kRepeats = 9;
  benchmark->Repetitions(kRepeats)->ReportAggregatesOnly(true);
  benchmark->ComputeStatistics("min", [](const std::vector<double>& values) {
    return *std::min_element(values.begin(), values.end());
  });
  benchmark->ComputeStatistics("max", [](const std::vector<double>& values) {
    return *std::max_element(values.begin(), values.end());
  });
}

}  // namespace pipemoe::bench
