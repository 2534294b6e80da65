// Parts of the peer-copy communicator that tests use by themselves: memory that all ranks of a host
// share, and words that streams write.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "exec/process_group.hpp"
#include "kernels/cuda.hpp"

namespace pipemoe::exec {

/// Device memory that all ranks of one host have in their address spaces. All ranks allocate
/// pieces of the same sizes in the same order and release them in the same order, so that the
/// pieces correspond. Destruction returns the memory to the device; it is collective, unless an
/// exception is being thrown.
class PeerMemory : public std::enable_shared_from_this<PeerMemory> {
 public:
  /// Collective; `group` must outlive this. Throws InputError on every rank unless all ranks are on
  /// one host. Requires what check_peer_access checks.
  static std::shared_ptr<PeerMemory> join(ProcessGroup& group);
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  /// Returns a piece, which keeps this alive. Collective. Throws DeviceError.
  cuda::DeviceBuffer allocate(std::size_t bytes);
  /// The address of `here`, which is in a piece of this rank, in the same piece of `rank`. Throws
  /// std::logic_error if `here` is in no piece.
  std::byte* of_rank(int rank, const std::byte* here) const;

 private:
  struct Piece {
    cuda::DeviceBuffer memory;
    std::vector<std::byte*> of_ranks;  // this rank's entry is `memory`
  };

  explicit PeerMemory(ProcessGroup& group) : group_(group) {}
  Piece make(std::size_t bytes);

  ProcessGroup& group_;
  std::map<const std::byte*, Piece> pieces_;               // by their first byte
  std::multimap<std::size_t, const std::byte*> released_;  // by size
};

/// Gathers words that a stream shall write, and enqueues them together, in order. No multiprocessor
/// is needed: these are the driver's stream memory operations, for which the CUDA runtime has no
/// name. A CUDA graph can hold them.
class StreamFlags {
 public:
  /// Everything that was enqueued on the stream before is visible on every device before the value.
  StreamFlags& write(std::uint32_t* at, std::uint32_t value);
  /// Requires at least one word. Throws DeviceError.
  void enqueue(cudaStream_t stream);

 private:
  std::vector<CUstreamBatchMemOpParams> operations_;
};

}  // namespace pipemoe::exec
