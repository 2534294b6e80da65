#include "exec/cpu_backend.hpp"

#include <utility>

#include "exec/graph_runner.hpp"
#include "kernels/blas.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {

void CpuBackend::check(const MoeLayer& layer, int num_ranks) {
  kernels::expert_shape(layer, num_ranks);
}

void CpuBackend::check(const MoeLayer& layer, const TaskGraph& graph, int num_ranks) {
  check(layer, num_ranks);
  check_graph(layer, graph, num_ranks);
}

CpuBackend::CpuBackend(const MoeLayer& layer, const CpuOptions& options, ProcessGroup& group)
    : layer_(layer), options_(options), group_(group) {
  data_ = draw_data(layer_, group.size(), group.rank(), options.data);
  for (const Stream stream : {Stream::InterNode, Stream::IntraNode}) {
    auto communicator = group.communicator();
    if (options.link) communicator = emulate_link(*options.link, std::move(communicator));
    communicators_[stream] = std::move(communicator);
  }
}

std::string CpuBackend::name() const { return "CPU, one computing thread a rank"; }

std::map<std::string, std::string> CpuBackend::versions() const {
  std::map<std::string, std::string> versions{{"BLAS", kernels::blas_version()},
                                              {"ranks", group_.name()}};
  if (options_.link) versions["emulated link"] = to_string(*options_.link);
  return versions;
}

std::unique_ptr<GraphRunner> CpuBackend::prepare(const TaskGraph& graph) {
  check(layer_, graph, group_.size());
  const auto state =
      std::make_shared<CpuMoeLayer>(layer_, data_, options_.data, group_, degrees_of(graph));
  prepared_last_ = state;
  return std::make_unique<ThreadGraphRunner>(
      graph, [this, state](const Task& task, std::stop_token stop) {
        if (!is_exchange(task)) return state->run(task.key());
        communicators_.at(task.stream)->exchange(state->exchange(task.key()), std::move(stop));
      });
}

}  // namespace pipemoe::exec
