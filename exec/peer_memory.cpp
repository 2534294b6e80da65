#include "exec/peer_memory.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>

#include "models/error.hpp"
#include "models/provenance.hpp"

namespace pipemoe::exec {
namespace {

using cuda::check;
using cuda::DeviceBuffer;

// Smaller pieces may share an allocation of the driver's, and handles name whole ones.
constexpr std::size_t kAllocation = std::size_t{2} << 20;

void check_one_host(ProcessGroup& group) {
  const auto hosts = all_gather(group, provenance("").host);
  for (std::size_t rank = 1; rank < hosts.size(); ++rank) {
    if (hosts[rank] == hosts[0]) continue;
    throw InputError(
        fmt::format("--communicator peer-copy is for the GPUs of one host: rank 0 is "
                    "on {}, rank {} on {}",
                    hosts[0], rank, hosts[rank]));
  }
}

}  // namespace

void check_peer_access(int num_ranks) {
  const int used = std::min(num_ranks, cuda::device_count());
  for (int device = 0; device < used; ++device) {
    for (int peer = 0; peer < used; ++peer) {
      int can = 1;
      if (peer != device) check(cudaDeviceCanAccessPeer(&can, device, peer));
      if (can != 0) continue;
      throw InputError(
          fmt::format("--communicator peer-copy: GPU {} cannot use the memory of GPU {}: use nccl",
                      device, peer));
    }
  }
}

std::shared_ptr<PeerMemory> PeerMemory::join(ProcessGroup& group) {
  check_one_host(group);
  return std::shared_ptr<PeerMemory>(new PeerMemory(group));
}

// An exported piece must not end before the others have let it go.
PeerMemory::~PeerMemory() {
  for (auto& [begin, piece] : pieces_) {
    for (std::byte* there : piece.of_ranks) {
      if (there == begin) continue;
      cuda::log_failure(cudaIpcCloseMemHandle(there), "end of another rank's memory");
    }
  }
  if (std::uncaught_exceptions() > 0) return;
  try {
    group_.barrier();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pipemoe: end of memory that ranks share: %s\n", error.what());
  }
}

PeerMemory::Piece PeerMemory::make(std::size_t bytes) {
  Piece piece{DeviceBuffer((bytes + kAllocation - 1) / kAllocation * kAllocation), {}};
  cudaIpcMemHandle_t handle{};
  check(cudaIpcGetMemHandle(&handle, piece.memory.data()));
  const auto handles = all_gather(group_, handle);
  for (int rank = 0; rank < group_.size(); ++rank) {
    void* there = piece.memory.data();
    if (rank != group_.rank()) {
      check(cudaIpcOpenMemHandle(&there, handles[static_cast<std::size_t>(rank)],
                                 cudaIpcMemLazyEnablePeerAccess));
    }
    piece.of_ranks.push_back(static_cast<std::byte*>(there));
  }
  return piece;
}

DeviceBuffer PeerMemory::allocate(std::size_t bytes) {
  const auto known = given_back_.find(bytes);
  const std::byte* begin = nullptr;
  if (known != given_back_.end()) {
    begin = known->second;
    given_back_.erase(known);
  } else {
    Piece piece = make(bytes);
    begin = piece.memory.data();
    pieces_.emplace(begin, std::move(piece));
  }
  std::byte* data = pieces_.at(begin).memory.data();
  const auto give_back = [self = shared_from_this(), bytes](void* memory) {
    self->given_back_.emplace(bytes, static_cast<const std::byte*>(memory));
  };
  return DeviceBuffer(std::shared_ptr<void>(data, give_back), bytes);
}

std::byte* PeerMemory::of_rank(int rank, const std::byte* here) const {
  auto piece = pieces_.upper_bound(here);
  ensure(piece != pieces_.begin(), "peer memory: no piece");
  --piece;
  const std::ptrdiff_t offset = here - piece->first;
  ensure(offset < static_cast<std::ptrdiff_t>(piece->second.memory.bytes()),
         "peer memory: no piece");
  return piece->second.of_ranks[static_cast<std::size_t>(rank)] + offset;
}

}  // namespace pipemoe::exec
