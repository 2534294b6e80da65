// A machine's costs, measured by running parts of the layers that it is to run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exec/executor.hpp"
#include "exec/process_group.hpp"
#include "models/cluster.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

/// Repeated times of one exchange.
struct ExchangeTimes {
  std::vector<Seconds> alone;   ///< waking up included
  std::vector<Seconds> queued;  ///< behind another one; empty where a host gives them one by one

  void append(const ExchangeTimes& more) {
    alone.insert(alone.end(), more.alone.begin(), more.alone.end());
    queued.insert(queued.end(), more.queued.begin(), more.queued.end());
  }
};

/// What a calibration needs of a kind of executor. Times of a collective are those of the rank that
/// came last; all are collective over the group that the tools were made for, save where one is
/// given.
struct CalibrationTools {
  std::function<std::unique_ptr<Executor>(const MoeLayer&)> executor;
  /// Repeated times of one matrix product over all its groups, all ranks at once.
  std::function<std::vector<Seconds>(const GemmShape&, Dtype, int repeats)> time_gemm;
  /// Repeated times of the activation function's pass over `rows` expert rows (gradients too when
  /// the pass is a backward one), all ranks at once; empty where nothing runs it by itself.
  std::function<std::vector<Seconds>(const MoeLayer&, Pass, std::int64_t rows, int repeats)>
      time_activation;
  /// Uniform all-to-alls between the ranks of a group, for each of the sizes, in bytes a rank.
  std::function<std::vector<ExchangeTimes>(ProcessGroup&, const std::vector<Bytes>&, int repeats)>
      time_all_to_alls;
  /// Repeated times by which a computation takes longer that waits for an exchange and that an
  /// exchange waits for, though it need not wait; empty where that costs nothing of its own.
  std::function<std::vector<Seconds>(int repeats)> time_join;
  /// Whether a device is given all tasks of an iteration ahead: time stamps then cost it something,
  /// and its exchanges, timed by themselves, lack what it costs to hand over to a computation.
  bool gives_ahead = false;
  /// What one rank's device is called and how much memory it has; of links only what is known.
  Gpu device;
  std::map<std::string, std::string> versions = {};  ///< of libraries and drivers
  int exchange_ctas = 0;                             ///< as Cluster::exchange_ctas
  std::string network;  ///< "shared memory, link emulated: ...", for the sources
};

/// The tools of the chosen executor. `group` must outlive them. Collective.
CalibrationTools calibration_tools(const ExecutorOptions& options, ProcessGroup& group);
/// In a build without CUDA throws std::logic_error.
CalibrationTools cuda_calibration_tools(const ExecutorOptions& options, ProcessGroup& group);

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

/// How much one rank's experts and exchanges slowed each other in one layer's chunks.
struct ContentionRow {
  std::string layer;
  ExpertSizes sizes;
  Pass pass = Pass::Forward;  ///< or Backward: both gradients
  std::int64_t degree = 1;
  int rank = 0;
  Bytes in_flight;  ///< a rank's, of the exchange beside which experts ran
  std::optional<double> compute, communication;  ///< null: they met too briefly
};

struct Calibration {
  Cluster cluster;
  std::vector<CalibrationRow> rows;
  std::vector<ContentionRow> contention;
  std::vector<std::string> notes;  ///< outliers and what was left out, one line each
};

/// Throws InputError unless there are layers, of one dtype and one activation, and each can be cut
/// into as many chunks as one of `degrees`.
void check_layers(const std::vector<MoeLayer>& layers, const std::vector<std::int64_t>& degrees);

/// Measures the tasks of each layer alone (chunks of every degree that the layer allows), matrix
/// products over the layers' shapes, all-to-alls over sizes and numbers of ranks, and how much
/// experts and exchanges slow each other. Collective; rank 0's result is whole, the others lack the
/// all-to-alls of groups that they are not in.
/// Throws what check_layers throws.
Calibration calibrate(const std::vector<MoeLayer>& layers, const CalibrationTools& tools,
                      ProcessGroup& group, const CalibrateOptions& options);

}  // namespace pipemoe::exec
