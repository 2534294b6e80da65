// Whether what the ranks computed is what the formulas say.
#pragma once

#include <string>
#include <vector>

#include "exec/layer_data.hpp"
#include "exec/process_group.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

struct TensorError {
  std::string tensor;         ///< "output", "gate gradient", ...
  double relative_error = 0;  ///< ||a - b|| / ||b||; infinite for NaN
};

/// Compares the results of all ranks with the float64 reference of the whole layer on the same
/// numbers. The reference takes the ranks' routing where a near tie (probabilities within 1e-6) let
/// it differ, and throws RunError where anything else did.
/// Collective; only rank 0 computes, the others get an empty list.
std::vector<TensorError> verify(const MoeLayer& layer, const DataOptions& options,
                                const LayerResults& results, ProcessGroup& group);

}  // namespace pipemoe::exec
