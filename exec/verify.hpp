// Compares what the ranks computed with a float64 reference.
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

/// The relative error that sums in another order and the rounding of `dtype` explain.
double tolerance(Dtype dtype);

/// Compares the results of all ranks with a float64 reference of the whole layer on the same
/// numbers. The reference uses the ranks' routing if it differs only by near ties (probabilities
/// within 1e-6). Throws RunError if the routing differs otherwise.
/// Collective. Only rank 0 compares; the other ranks get an empty list.
std::vector<TensorError> verify(const MoeLayer& layer, const DataOptions& options,
                                const LayerResults& results, ProcessGroup& group);

}  // namespace pipemoe::exec
