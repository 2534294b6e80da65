// The whole layer on GPU kernels, all ranks in one process on one device: exchanges are copies.
#pragma once

#include <optional>

#include "kernels/device_layer.hpp"
#include "tests/kernels/whole_layer.hpp"

namespace pipemoe::test {

struct DeviceRun {
  Degrees degrees;
  cuda::Element element = cuda::Element::Fp32;
  bool direct = false;  ///< one rank only
  bool tf32 = false;
  bool graph = false;  ///< an iteration is captured, then replayed twice; not dropless
  cuda::Search search = cuda::Search::Heuristic;
  std::optional<bool> packs = std::nullopt;
  bool keeps_own = false;            ///< several ranks and a capacity only
  bool exchanges_by_expert = false;  ///< a capacity only
};

/// Numbers rounded to what the element holds (the gate's stay fp32), routing drawn anew until no
/// near tie decides it.
Problem draw_device_problem(const kernels::ReferenceLayer& reference, bool biases,
                            std::uint64_t seed, cuda::Element element);

/// Buffers and results are poisoned before the iteration.
LayerResult run_device_layer(const Problem& problem, const DeviceRun& run);

}  // namespace pipemoe::test
