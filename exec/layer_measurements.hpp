// What a calibration runs of a layer: chunks by themselves, and computation beside communication.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "exec/calibrate.hpp"
#include "exec/execute.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

/// A layer's chunks of one degree, in some order, and what running them took on this rank.
struct MeasuredChunks {
  std::int64_t degree = 1;
  TaskGraph graph;
  TaskMeasurements measured;

  /// Seconds of one task, one an iteration.
  std::vector<double> durations(TaskId id) const;
};

struct LayerMeasurements {
  std::vector<MeasuredChunks> grouped;  ///< grouped_chunks of every degree that the layer allows
  /// serial_chunks and computations_only of one degree, where tasks are given ahead. The latter
  /// computes what its buffers happen to hold: good for time stamps, not for times.
  std::optional<MeasuredChunks> serial, computations;
  struct Overlap {
    MeasuredChunks alone;   ///< experts_then_exchanges, in turns with
    MeasuredChunks beside;  ///< experts_under_exchanges of the same degree
  };
  std::vector<Overlap> overlaps;
  bool regroups = false;  ///< Executor::regroups
};

/// Graphs that are compared with each other take turns: they drift alike. Collective.
LayerMeasurements measure_layer(const MoeLayer& layer, const CalibrationTools& tools,
                                ProcessGroup& group, const CalibrateOptions& options);

}  // namespace pipemoe::exec
