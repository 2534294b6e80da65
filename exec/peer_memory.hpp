// Device memory that all ranks of one host have in their address spaces.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <vector>

#include "exec/process_group.hpp"
#include "kernels/cuda.hpp"

namespace pipemoe::exec {

/// Every rank makes equally large pieces in one order and gives them back in one order: then
/// pieces of the ranks correspond. Memory is given back to the device when this ends, which is
/// collective unless an exception is on its way.
class PeerMemory : public std::enable_shared_from_this<PeerMemory> {
 public:
  /// Collective; `group` must outlive this. Throws InputError on every rank unless all ranks are on
  /// one host. Requires what check_peer_access checks.
  static std::shared_ptr<PeerMemory> join(ProcessGroup& group);
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  /// A piece, which keeps this alive. Collective. Throws DeviceError.
  cuda::DeviceBuffer allocate(std::size_t bytes);
  /// Where `rank` has what is `here` in a piece of this rank's. Throws std::logic_error outside.
  std::byte* of_rank(int rank, const std::byte* here) const;

 private:
  struct Piece {
    cuda::DeviceBuffer memory;
    std::vector<std::byte*> of_ranks;  // this rank's own is `memory`
  };

  explicit PeerMemory(ProcessGroup& group) : group_(group) {}
  Piece make(std::size_t bytes);

  ProcessGroup& group_;
  std::map<const std::byte*, Piece> pieces_;                 // by where they begin
  std::multimap<std::size_t, const std::byte*> given_back_;  // by size
};

/// Throws InputError unless each of the GPUs that so many ranks of this host use can use the memory
/// of each other one.
void check_peer_access(int num_ranks);

}  // namespace pipemoe::exec
