// Runs what a calibration measures: layers in the graphs of measured_graphs.hpp, and their parts by
// themselves.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "exec/calibration/calibration_tools.hpp"
#include "exec/calibration/measurements.hpp"
#include "exec/execute.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

/// A layer's chunks of one degree in one of the graphs, and how long they took on this rank.
struct MeasuredChunks {
  std::int64_t degree = 1;
  TaskGraph graph;
  TaskMeasurements measured;

  /// Seconds of one task, in each iteration.
  Times durations(TaskId id) const;
};

/// The same experts and exchanges, apart and at once.
struct ContentionGraphs {
  MeasuredChunks alone;   ///< experts_then_exchanges, in turns with `beside`
  MeasuredChunks beside;  ///< experts_under_exchanges of the same degree
};

struct LayerMeasurements {
  std::vector<MeasuredChunks> grouped;  ///< grouped_chunks of every degree that the layer allows
  /// serial_chunks and computations_only of one degree, if tasks are enqueued ahead. The latter
  /// computes with whatever its buffers hold, so only its time stamps count, not its times.
  std::optional<MeasuredChunks> serial, computations;
  std::vector<ContentionGraphs> contention;  ///< one for each degree that is measured
  bool regroups = false;                     ///< Executor::regroups
};

/// Graphs that are compared with each other take turns, so that they drift alike. Collective.
LayerMeasurements measure_layer(const MoeLayer& layer, const CalibrationTools& tools,
                                ProcessGroup& group, const CalibrateOptions& options);

/// What measures the parts of layers, and where the results go.
struct PartMeasurement {
  const std::vector<MoeLayer>& layers;
  const CalibrationTools& tools;
  ProcessGroup& group;
  const CalibrateOptions& options;
  CalibrationPoints& points;
  std::vector<CalibrationRow>& rows;
};

/// Measures the experts' matrix products of every layer and degree, each shape once. Collective.
void measure_gemms(const PartMeasurement& to);
/// Measures the activation functions of every layer and degree, if a task runs them by themselves.
/// Collective.
void measure_activations(const PartMeasurement& to);
/// Measures all-to-alls of the first 2, 4, 8, ... ranks and of all ranks. Sizes are powers of two
/// from 4 KiB up to a layer's largest exchange, and that exchange's own size. Collective.
void measure_exchanges(const PartMeasurement& to);

}  // namespace pipemoe::exec
