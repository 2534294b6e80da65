// What a calibration needs of an executor: how to run layers, and how to time parts by themselves.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "exec/executor.hpp"
#include "exec/process_group.hpp"
#include "models/cluster.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

/// Repeated times of one exchange.
struct ExchangeTimes {
  std::vector<Seconds> alone;   ///< includes the time to wake up
  std::vector<Seconds> queued;  ///< behind another exchange; empty if a host issues them one by one

  void append(const ExchangeTimes& more) {
    alone.insert(alone.end(), more.alone.begin(), more.alone.end());
    queued.insert(queued.end(), more.queued.begin(), more.queued.end());
  }
};

/// The time of a collective is that of the rank that arrived last. Every function is collective
/// over the group that the tools were made for, or over the group that it is given.
struct CalibrationTools {
  std::function<std::unique_ptr<Executor>(const MoeLayer&)> executor;
  /// Repeated times of one matrix product over all its groups, on all ranks at once.
  std::function<std::vector<Seconds>(const GemmShape&, Dtype, int repeats)> time_gemm;
  /// Repeated times of the activation function over `rows` expert rows, on all ranks at once; in
  /// the backward pass it computes gradients too. Empty if no task runs it by itself.
  std::function<std::vector<Seconds>(const MoeLayer&, Pass, std::int64_t rows, int repeats)>
      time_activation;
  /// Uniform all-to-alls between the ranks of a group, for each size in bytes a rank.
  std::function<std::vector<ExchangeTimes>(ProcessGroup&, const std::vector<Bytes>&, int repeats)>
      time_all_to_alls;
  /// Repeated times by which a computation takes longer if it waits for an exchange that has
  /// arrived and another exchange waits for it. Empty if such a wait costs nothing of its own.
  std::function<std::vector<Seconds>(int repeats)> time_join;
  /// Whether all tasks of an iteration are enqueued ahead. Then time stamps cost the device time,
  /// and an exchange timed by itself lacks the cost of handing over to a computation.
  bool enqueues_ahead = false;
  Gpu device;  ///< one rank's device, its memory, and what is known of its links
  std::map<std::string, std::string> versions = {};  ///< of libraries and drivers
  /// Under what the executor runs: "communicator", the option's word, and "exchange_ctas" if
  /// limited.
  Conditions conditions = {};
  std::string network;  ///< for the sources: "shared memory, link emulated: ..."
};

/// The tools of the executor that the options choose. `group` must outlive them. Collective.
CalibrationTools calibration_tools(const ExecutorOptions& options, ProcessGroup& group);
/// CUDA's. A build without CUDA throws std::logic_error.
CalibrationTools cuda_calibration_tools(const ExecutorOptions& options, ProcessGroup& group);

}  // namespace pipemoe::exec
