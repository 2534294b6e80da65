// Runs task graphs for real on this rank: what every executor offers, and which one a user chose.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exec/communicator.hpp"
#include "exec/graph_runner.hpp"
#include "exec/layer_data.hpp"
#include "exec/process_group.hpp"
#include "models/layer.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

class Executor {
 public:
  virtual ~Executor() = default;
  /// For example "CPU, one computing thread a rank".
  virtual std::string name() const = 0;
  /// Versions of libraries, devices and drivers, for the result's provenance.
  virtual std::map<std::string, std::string> versions() const = 0;
  /// Whether it moves the rows that the forward pass saved if the backward degree is another one.
  virtual bool regroups() const { return false; }
  /// Collective. Throws InputError if it cannot run the graph. Several graphs may be prepared; one
  /// iterates at a time. The executor and the graph must outlive the runner.
  virtual std::unique_ptr<GraphRunner> prepare(const TaskGraph& graph) = 0;
};

/// An executor of one MoE layer, whose results a caller can read.
class LayerExecutor : public Executor {
 public:
  /// The results of the graph that was prepared last.
  virtual LayerResults results() const = 0;
  /// Fills with NaN every buffer that an iteration of the graph prepared last must write.
  virtual void poison() = 0;
  /// What a reader of this rank's measurement must know, one line each. Requires a prepared graph.
  virtual std::vector<std::string> notes() const { return {}; }
};

/// NCCL has no more channels, and each CTA serves one.
inline constexpr int kMostExchangeCtas = 64;

struct ExecutorOptions {
  std::string backend = "cpu";  ///< cpu or cuda
  /// cpu: mpi or copy; cuda: staged, nccl, nccl-zero-cta, peer-copy or elided. Absent: mpi under a
  /// launcher and copy without one; staged.
  std::optional<std::string> communicator;
  std::optional<Link> link;  ///< an emulated link, cpu only
  DataOptions data;
  bool cuda_graph = true;
  /// cuda only: CUDA streams have the priorities of their queues; false: all have the same.
  bool communication_first = true;
  bool tf32 = false;
  std::optional<bool> pack_rows;  ///< cuda only; absent: what is expected to be faster
  /// nccl only: as CudaOptions::exchange_ctas, up to kMostExchangeCtas. Absent: 0.
  std::optional<int> exchange_ctas;

  /// `communicator`, or its default.
  std::string chosen_communicator() const;
};

/// Throws InputError if the backend or communicator does not exist, is not in this build (and says
/// which option adds it), or does not fit how the ranks were started.
void check_options(const ExecutorOptions& options);
/// Throws InputError unless the executor can run the layer on `num_ranks` ranks. Requires
/// check_options.
void check_layer(const MoeLayer& layer, const ExecutorOptions& options, int num_ranks);

/// Collective over `group`, which must outlive the executor. Requires check_layer.
std::unique_ptr<LayerExecutor> make_executor(const MoeLayer& layer, const ExecutorOptions& options,
                                             ProcessGroup& group);

// The CUDA executor. A build without CUDA has executor_without_cuda.cpp in its place, where all but
// the first throw std::logic_error: check_options refuses such options.
bool built_with_cuda();
void check_cuda_layer(const MoeLayer& layer, const ExecutorOptions& options, int num_ranks);
std::unique_ptr<LayerExecutor> make_cuda_executor(const MoeLayer& layer,
                                                  const ExecutorOptions& options,
                                                  ProcessGroup& group);

}  // namespace pipemoe::exec
