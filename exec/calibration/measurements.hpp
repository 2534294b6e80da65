// What a calibration measures: its options, its rows for tables, and its points for fits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "exec/process_group.hpp"
#include "models/cluster.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

struct CalibrateOptions {
  std::string name = "calibrated";
  std::vector<std::int64_t> degrees{1, 2, 3, 4, 6, 8};
  int warm_up = 3;
  int repeats = 15;
  std::function<void(std::size_t, std::size_t)> progress = {};
};

/// One measured cost, for tables.
struct CalibrationRow {
  std::string operation;  ///< "expert forward", "all_to_all", ...
  std::string layer;      ///< empty for a microbenchmark of no layer
  std::int64_t ranks = 1;
  double amount = 0;
  std::string unit;  ///< byte, flop or exchange
  int repeats = 0;
  double minimum_s = 0, median_s = 0, maximum_s = 0;
  std::size_t outliers = 0;
};

/// How much the experts and the exchanges of one rank slowed each other in the chunks of a layer.
struct ContentionRow {
  std::string layer;
  ExpertSizes sizes;
  Pass pass = Pass::Forward;  ///< backward: both gradients
  std::int64_t degree = 1;
  int rank = 0;
  Bytes in_flight;  ///< bytes of one rank in the exchange that ran beside the experts
  std::optional<double> compute, communication;  ///< slowdowns; null: they met too briefly
};

/// An amount of work, and the median time that it took.
struct MeasuredPoint {
  double amount = 0;
  double seconds = 0;
};

/// All points of a calibration. They are the same on all ranks, except that a rank lacks the
/// all-to-alls of groups that it is not in.
struct CalibrationPoints {
  struct Expert {
    ExpertFit key;  ///< without a fit
    std::vector<MeasuredPoint> points;
  };

  std::map<MemoryKernel, std::vector<MeasuredPoint>> kernels;
  std::vector<Expert> experts;
  std::vector<MeasuredPoint> gemms;
  std::map<std::int64_t, std::vector<MeasuredPoint>> all_to_all;  ///< by number of ranks
  std::map<std::int64_t, std::vector<MeasuredPoint>> queued_all_to_all;
  /// Seconds by which an exchange in a layer takes longer than these, because a computation waits
  /// for it. Below 0 if the computation's share, `join`, contains part of the exchange.
  struct Handoffs {
    double alone = 0, queued = 0;
  };
  Handoffs handoffs;
  /// Seconds by which a computation that waits for an exchange takes longer than the same
  /// computation by itself. Included in the points of experts and kernels.
  double join = 0;
  /// Exchanges one behind another in a layer: how many times as long as by themselves.
  struct InLayer {
    Bytes bytes;
    double factor = 1;
  };
  std::vector<InLayer> in_layers;  ///< where the power limit does not lower the clocks as well

  /// The points of one kind of product of experts of one shape.
  std::vector<MeasuredPoint>& of(const ExpertFit& key);
};

/// Repeated times in seconds, one for each repeat.
using Times = std::vector<double>;

/// Which rank's time counts. For a computation it is the slowest rank's. For a collective it is the
/// time of the rank that arrived last and waited for nobody.
enum class Across { Slowest, Last };

/// Combines the times of all ranks, repeat by repeat. Collective.
Times across(ProcessGroup& group, const Times& mine, Across which);

/// Completes the row with `times`, which are combined over the ranks, and appends it to `rows`.
/// Returns the row's amount and median.
MeasuredPoint record(CalibrationRow row, const Times& times, std::vector<CalibrationRow>& rows);

/// A note that counts the series with outliers and names the worst. Null: there are no outliers.
std::optional<std::string> outliers_note(const std::vector<CalibrationRow>& rows);

}  // namespace pipemoe::exec
