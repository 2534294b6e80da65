// Measures a machine's costs by running parts of the layers that it is to run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "exec/calibration/calibration_tools.hpp"
#include "exec/calibration/measurements.hpp"
#include "exec/process_group.hpp"
#include "models/cluster.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

struct Calibration {
  Cluster cluster;
  std::vector<CalibrationRow> rows;
  std::vector<ContentionRow> contention;
  std::vector<std::string> notes;  ///< outliers and what was left out, one line each
};

/// Throws InputError unless there are layers, all have one dtype and one activation, and each can
/// be cut into as many chunks as at least one of `degrees`.
void check_layers(const std::vector<MoeLayer>& layers, const std::vector<std::int64_t>& degrees);

/// Measures the tasks of each layer alone (in chunks of every degree that the layer allows), matrix
/// products of the layers' shapes, all-to-alls of many sizes and numbers of ranks, and how much
/// experts and exchanges slow each other. Collective. Rank 0's result is complete; the other ranks
/// lack the all-to-alls of groups that they are not in.
/// Throws what check_layers throws.
Calibration calibrate(const std::vector<MoeLayer>& layers, const CalibrationTools& tools,
                      ProcessGroup& group, const CalibrateOptions& options);

}  // namespace pipemoe::exec
