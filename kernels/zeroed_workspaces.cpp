#include "kernels/zeroed_workspaces.hpp"

#include <cuda.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace pipemoe::cuda {
namespace {

constexpr std::size_t kAlignment = 256;

// The runtime fails at the driver's stream memory operations, for which it has no name.
bool is_memset(cudaGraphNode_t node) {
  static const auto type_of =
      reinterpret_cast<decltype(&cuGraphNodeGetType)>(driver_function("cuGraphNodeGetType", 12000));
  CUgraphNodeType type{};
  if (type_of(node, &type) != CUDA_SUCCESS) {
    throw DeviceError("CUDA: the type of a recorded node", Where::here());
  }
  return type == CU_GRAPH_NODE_TYPE_MEMSET;
}

std::vector<cudaGraphNode_t> nodes_of(cudaGraph_t graph) {
  std::size_t count = 0;
  check(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  check(cudaGraphGetNodes(graph, nodes.data(), &count));
  return nodes;
}

// cudaGraphNodeGetDependencies or cudaGraphNodeGetDependentNodes.
template <class Get>
std::vector<cudaGraphNode_t> beside(cudaGraphNode_t node, Get get) {
  std::size_t count = 0;
  check(get(node, nullptr, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  std::vector<cudaGraphEdgeData> edges(count);  // a kernel may follow another before that ends
  if (count > 0) check(get(node, nodes.data(), edges.data(), &count));
  return nodes;
}

void take_out(cudaGraph_t graph, cudaGraphNode_t node) {
  const auto before = beside(node, cudaGraphNodeGetDependencies);
  for (cudaGraphNode_t after : beside(node, cudaGraphNodeGetDependentNodes)) {
    const auto known = beside(after, cudaGraphNodeGetDependencies);
    for (cudaGraphNode_t one : before) {
      if (std::find(known.begin(), known.end(), one) != known.end()) continue;
      check(cudaGraphAddDependencies(graph, &one, &after, nullptr, 1));
    }
  }
  check(cudaGraphDestroyNode(node));
}

}  // namespace

std::size_t ZeroedWorkspaces::size_of(std::size_t needed) {
  return needed > kMost ? 0 : (needed + kAlignment - 1) / kAlignment * kAlignment;
}

std::span<std::byte> ZeroedWorkspaces::take(std::size_t needed) {
  const std::size_t size = size_of(needed);
  if (size == 0 || taken_ + size > words_.bytes()) return {};
  taken_ += size;
  return all().subspan(taken_ - size, size);
}

bool ZeroedWorkspaces::zeroes_these(cudaGraphNode_t node) const {
  if (!is_memset(node)) return false;
  cudaMemsetParams memset{};
  check(cudaGraphMemsetNodeGetParams(node, &memset));
  const auto at = reinterpret_cast<std::uintptr_t>(memset.dst);
  const auto begin = reinterpret_cast<std::uintptr_t>(words_.data());
  return memset.value == 0 && at >= begin && at < begin + words_.bytes();
}

void ZeroedWorkspaces::drop_memsets(cudaGraph_t recorded) const {
  for (cudaGraphNode_t node : nodes_of(recorded)) {
    if (zeroes_these(node)) take_out(recorded, node);
  }
}

}  // namespace pipemoe::cuda
