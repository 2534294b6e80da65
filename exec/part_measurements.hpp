// Parts of layers measured by themselves: matrix products, activations, exchanges.
#pragma once

#include <vector>

#include "exec/calibrate.hpp"
#include "exec/calibrated_profile.hpp"
#include "exec/process_group.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

/// What a calibration measures with, and where that goes.
struct PartMeasurement {
  const std::vector<MoeLayer>& layers;
  const CalibrationTools& tools;
  ProcessGroup& group;
  const CalibrateOptions& options;
  CalibrationPoints& points;
  std::vector<CalibrationRow>& rows;
};

// Collective, all three.

/// The experts' products of every layer and degree, each shape once.
void measure_gemms(const PartMeasurement& of);
/// Nothing where no pass of its own runs the activation.
void measure_activations(const PartMeasurement& of);
/// Of the first 2, 4, 8, .. ranks and of all: powers of two from 4 KiB to the largest exchange of a
/// layer, and that.
void measure_exchanges(const PartMeasurement& of);

}  // namespace pipemoe::exec
