#include "exec/executor.hpp"

#include <fmt/format.h>

#include <utility>

#include "exec/block_state.hpp"
#include "exec/cpu_moe_layer.hpp"
#include "kernels/cpu_math.hpp"
#include "models/error.hpp"
#include "models/schedule.hpp"

namespace pipemoe::exec {
namespace {

InputError not_built(const std::string& option, const std::string& value, const char* turn_on) {
  return InputError(
      fmt::format("--{} {} is not in this build: configure with -D{}=ON", option, value, turn_on));
}

bool is_cuda(const ExecutorOptions& options) { return options.backend == "cuda"; }

void check_cpu(const ExecutorOptions& options, const std::string& communicator) {
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
      throw InputError(
          "--communicator copy is for one rank: start pipemoe without mpirun, or give "
          "--single-rank");
    }
  } else if (!built_with_cuda()) {
    throw not_built("communicator", communicator, "PIPEMOE_WITH_CUDA");
  } else {
    throw InputError(fmt::format("--communicator {} is for --backend cuda, not {}", communicator,
                                 options.backend));
  }
}

void check_cuda(const ExecutorOptions& options, const std::string& communicator) {
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

// Computes and exchanges on one thread of this rank for each queue of the graph.
class CpuExecutor final : public LayerExecutor {
 public:
  CpuExecutor(const MoeLayer& layer, const ExecutorOptions& options, ProcessGroup& group)
      : layer_(layer),
        options_(options),
        group_(group),
        data_(draw_data(layer, group.size(), group.rank(), options.data)) {}

  std::string name() const override { return "CPU, one computing thread a rank"; }
  std::map<std::string, std::string> versions() const override {
    std::map<std::string, std::string> versions{{"BLAS", kernels::blas_version()},
                                                {"ranks", group_.name()}};
    if (options_.link) versions["emulated link"] = to_string(*options_.link);
    return versions;
  }
  bool regroups() const override { return true; }

  std::unique_ptr<GraphRunner> prepare(const TaskGraph& graph) override {
    check_layer(layer_, options_, group_.size());
    check_graph(layer_, graph, group_.size());
    kernels::check_blas_memory(/*threads=*/2);  // the computing one, and this one for results
    const auto block =
        std::make_shared<CpuMoeLayer>(layer_, data_, options_.data, group_, degrees_of(graph));
    prepared_last_ = block;
    return std::make_unique<ThreadGraphRunner>(
        graph,
        [block, communicators = communicators_of(graph)](const Task& task, std::stop_token stop) {
          if (!is_exchange(task)) return block->run(task.key);
          communicators.at(task.queue)->exchange(block->exchange(task.key), std::move(stop));
        });
  }

  LayerResults results() const override { return prepared_last_->results(); }
  void poison() override { prepared_last_->poison(); }

 private:
  // By queue. Graphs take turns, so that they can share communicators.
  std::map<QueueId, Communicator*> communicators_of(const TaskGraph& graph) {
    std::map<QueueId, Communicator*> by_queue;
    for (const Task& task : graph.tasks()) {
      if (is_exchange(task)) by_queue[task.queue] = nullptr;
    }
    std::size_t next = 0;
    for (auto& [queue, communicator] : by_queue) {
      if (next == communicators_.size()) communicators_.push_back(new_communicator());
      communicator = communicators_[next++].get();
    }
    return by_queue;
  }
  std::unique_ptr<Communicator> new_communicator() {
    auto communicator = group_.communicator();
    if (options_.link) communicator = emulate_link(*options_.link, std::move(communicator));
    return communicator;
  }

  MoeLayer layer_;
  ExecutorOptions options_;
  ProcessGroup& group_;
  LayerData data_;
  std::shared_ptr<CpuBlockState> prepared_last_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
};

}  // namespace

std::string ExecutorOptions::chosen_communicator() const {
  if (communicator) return *communicator;
  if (backend == "cuda") return "staged";
  return started_by_launcher() ? "mpi" : "copy";
}

void check_options(const ExecutorOptions& options) {
  const std::string communicator = options.chosen_communicator();
  const int ctas = options.exchange_ctas.value_or(0);
  if (ctas < 0 || ctas > kMostExchangeCtas) {
    throw InputError(fmt::format("--exchange-ctas is {}, must be 0..{}", ctas, kMostExchangeCtas));
  }
  if (ctas > 0 && communicator != "nccl") {
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

void check_layer(const MoeLayer& layer, const ExecutorOptions& options, int num_ranks) {
  if (is_cuda(options)) return check_cuda_layer(layer, options, num_ranks);
  kernels::expert_shape(layer, num_ranks);
}

std::unique_ptr<LayerExecutor> make_executor(const MoeLayer& layer, const ExecutorOptions& options,
                                             ProcessGroup& group) {
  if (is_cuda(options)) return make_cuda_executor(layer, options, group);
  return std::make_unique<CpuExecutor>(layer, options, group);
}

}  // namespace pipemoe::exec
