#include "exec/backends.hpp"

#include <fmt/format.h>

#include "exec/cpu_backend.hpp"
#include "exec/cpu_calibration.hpp"
#include "exec/cuda_backends.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

InputError not_built(const std::string& option, const std::string& value, const char* turn_on) {
  return InputError(
      fmt::format("--{} {} is not in this build: configure with -D{}=ON", option, value, turn_on));
}

bool is_cuda(const BackendOptions& options) { return options.backend == "cuda"; }

void check_cpu(const BackendOptions& options, const std::string& communicator) {
  if (options.pack_rows) {
    throw InputError("--pack-rows and --no-pack-rows are for --backend cuda, not cpu");
  }
  if (communicator == "mpi") {
    if (!built_with_mpi()) throw not_built("communicator", communicator, "PIPEMOE_WITH_MPI");
    if (!started_by_launcher()) {
      throw InputError("--communicator mpi: start the ranks with mpirun -np N pipemoe ...");
    }
  } else if (communicator == "copy") {
    if (started_by_launcher()) {
      throw InputError("--communicator copy is for one rank: start pipemoe without mpirun");
    }
  } else if (!built_with_cuda()) {
    throw not_built("communicator", communicator, "PIPEMOE_WITH_CUDA");
  } else {
    throw InputError(fmt::format("--communicator {} is for --backend cuda, not {}", communicator,
                                 options.backend));
  }
}

void check_cuda(const BackendOptions& options, const std::string& communicator) {
  if (!built_with_cuda()) throw not_built("backend", "cuda", "PIPEMOE_WITH_CUDA");
  if (communicator == "mpi" || communicator == "copy") {
    throw InputError(
        fmt::format("--communicator {} is for --backend cpu; cuda has staged, nccl, "
                    "nccl-zero-cta, peer-copy and elided",
                    communicator));
  }
  if (options.link) {
    throw InputError("--link emulates a link between CPU ranks; --backend cuda has real ones");
  }
}

}  // namespace

std::string BackendOptions::chosen_communicator() const {
  if (communicator) return *communicator;
  if (backend == "cuda") return "staged";
  return started_by_launcher() ? "mpi" : "copy";
}

void check_options(const BackendOptions& options) {
  const std::string communicator = options.chosen_communicator();
  if (options.exchange_ctas.value_or(0) > 0 && communicator != "nccl") {
    throw InputError(
        fmt::format("--exchange-ctas is for --communicator nccl, not {}", communicator));
  }
  for (const char* known :
       {"copy", "mpi", "staged", "nccl", "nccl-zero-cta", "peer-copy", "elided"}) {
    if (communicator != known) continue;
    if (is_cuda(options)) return check_cuda(options, communicator);
    if (options.backend == "cpu") return check_cpu(options, communicator);
    throw InputError(fmt::format("--backend is {}, must be cpu or cuda", options.backend));
  }
  throw InputError(
      fmt::format("--communicator is {}, must be one of copy, mpi, staged, nccl, nccl-zero-cta, "
                  "peer-copy, elided",
                  communicator));
}

void check_layer(const MoeLayer& layer, const BackendOptions& options, int num_ranks) {
  if (is_cuda(options)) return check_cuda_layer(layer, options, num_ranks);
  CpuBackend::check(layer, num_ranks);
}

double tolerance(Dtype dtype) { return dtype == Dtype::Fp32 ? 1e-5 : 1e-2; }

std::unique_ptr<LayerBackend> make_backend(const MoeLayer& layer, const BackendOptions& options,
                                           ProcessGroup& group) {
  if (is_cuda(options)) return make_cuda_backend(layer, options, group);
  return std::make_unique<CpuBackend>(layer, CpuOptions{options.data, options.link}, group);
}

CalibrationTools calibration_tools(const BackendOptions& options, ProcessGroup& group) {
  if (is_cuda(options)) return make_cuda_calibration_tools(options, group);
  return cpu_calibration_tools({options.data, options.link}, group);
}

}  // namespace pipemoe::exec
