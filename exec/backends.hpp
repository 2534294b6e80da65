// Backends by what a user asks for.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "exec/backend.hpp"
#include "exec/calibrate.hpp"
#include "exec/communicator.hpp"
#include "exec/layer_data.hpp"
#include "exec/process_group.hpp"
#include "models/layer.hpp"

namespace pipemoe::exec {

struct BackendOptions {
  std::string backend = "cpu";  ///< cpu or cuda
  /// cpu: mpi or copy; cuda: staged, nccl, nccl-zero-cta, peer-copy or elided. Absent: mpi under
  /// mpirun, else copy; staged.
  std::optional<std::string> communicator;
  std::optional<Link> link;  ///< emulated, cpu only
  DataOptions data;
  bool cuda_graph = true;
  bool communication_first = true;  ///< priority of CUDA streams
  bool tf32 = false;
  std::optional<bool> pack_rows;  ///< cuda only; absent: what is expected to be faster
  /// nccl only: as CudaOptions::exchange_ctas, up to kMostExchangeCtas. Absent: 0.
  std::optional<int> exchange_ctas;

  /// What `communicator` stands for.
  std::string chosen_communicator() const;
};

/// Throws InputError for a backend or communicator that does not exist, is not in this build (then
/// with the option that turns it on), or does not suit how the ranks were started.
void check_options(const BackendOptions& options);
/// Throws InputError unless the backend can run the layer on so many ranks. Requires check_options.
void check_layer(const MoeLayer& layer, const BackendOptions& options, int num_ranks);
/// Relative error that sums in another order, and the dtype's rounding, account for.
double tolerance(Dtype dtype);

/// Collective over `group`, which must outlive what is returned.
std::unique_ptr<LayerBackend> make_backend(const MoeLayer& layer, const BackendOptions& options,
                                           ProcessGroup& group);
CalibrationTools calibration_tools(const BackendOptions& options, ProcessGroup& group);

}  // namespace pipemoe::exec
