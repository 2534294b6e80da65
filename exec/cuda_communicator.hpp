// Moves rows between GPUs.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>

#include "exec/process_group.hpp"
#include "kernels/device_layer.hpp"

namespace pipemoe::exec {

/// The time that a host needs to enqueue the CUDA graph of an iteration before it starts.
inline constexpr std::chrono::microseconds kLaunch{200};

/// Joins all ranks of a group, which call exchange() equally often and in the same order.
///
/// A receive buffer must be free when its rank has done everything that the sender's exchange
/// depends on; at the latest from align() on. A send buffer must not change until the iteration
/// ends, or until a later exchange has brought what another rank computed from it.
class CudaCommunicator {
 public:
  virtual ~CudaCommunicator() = default;
  /// For example "NCCL 2.28.3, grouped send and receive".
  virtual std::string name() const = 0;
  /// Whether exchange() only enqueues work, so that a CUDA graph can hold it. Otherwise exchange()
  /// returns when the exchange has finished.
  virtual bool asynchronous() const = 0;
  /// Whether exchange() can leave out a rank's rows for itself (DeviceExchange::kept).
  virtual bool keeps_own() const { return false; }
  /// The largest ExchangeBlocks::count that exchange() can handle, in any number of pieces.
  virtual std::int64_t most_blocks() const { return 0; }
  /// Called before the first exchange of an iteration is enqueued or recorded.
  virtual void begin_iteration() {}
  /// Throws DeviceError. Throws RunError when a rank fails or on `stop`.
  virtual void exchange(const cuda::DeviceExchange& exchange, cudaStream_t stream,
                        std::stop_token stop) = 0;
  /// Whether a finished exchange has only sent, so that a reader must await what others send.
  virtual bool awaits() const { return false; }
  /// Makes `stream` wait until the iteration's exchange `number`, from 0, and those before it have
  /// arrived. This rank's own rows may still be on their way.
  virtual void await(int /*number*/, cudaStream_t /*stream*/) {}
  /// Enqueues work that ends on all ranks at about the same time, and not before the host could
  /// enqueue more. Iterations start after it. Does nothing if ranks are aligned anyway.
  virtual void align(cudaStream_t /*stream*/) {}
  /// Throws DeviceError if an enqueued exchange has failed. Cheap.
  virtual void check_progress() {}
  /// Makes the memory that exchanges read and write. All ranks allocate alike. The memory must not
  /// outlive this. Empty: exchanges work with any device memory.
  virtual cuda::DeviceAllocator allocator() { return {}; }
  /// Ends enqueued exchanges, which might wait for a lost rank for ever. Requires that no CUDA
  /// graph holds one. Nothing may be exchanged afterwards.
  virtual void give_up() {}
};

enum class CudaCommunicatorKind {
  Elided,       ///< none: one rank, whose experts read what permute wrote
  Staged,       ///< through pinned host memory
  Nccl,         ///< NCCL's grouped send and receive
  NcclZeroCta,  ///< NCCL's all-to-all on symmetric windows, which needs no multiprocessor
  PeerCopy,     ///< copies into the other GPUs' memory, which need no multiprocessor either
};

/// Null for Elided. `exchange_ctas` is for Nccl: the most CTAs, and so multiprocessors, that an
/// exchange may take; 0: no limit. Collective. Throws InputError if this machine cannot.
std::unique_ptr<CudaCommunicator> make_communicator(CudaCommunicatorKind kind, int exchange_ctas,
                                                    ProcessGroup& group);

/// One rank: copies from the device to pinned host memory and back, over a PCIe link that is slow
/// and real.
std::unique_ptr<CudaCommunicator> staged_communicator();
/// Several ranks, which may share a GPU: copies to pinned memory, exchanges it by the group's
/// communicator, copies back.
std::unique_ptr<CudaCommunicator> staged_communicator(ProcessGroup& group);
/// One GPU a rank. `ctas` as exchange_ctas above. Collective.
std::unique_ptr<CudaCommunicator> nccl_communicator(ProcessGroup& group, int ctas);
/// Equal parts only. Copy engines move them where NCCL can use these. One GPU a rank. Collective.
/// Throws what check_zero_cta throws.
std::unique_ptr<CudaCommunicator> nccl_zero_cta_communicator(ProcessGroup& group);
/// Equal parts only, at most 4096 exchanges an iteration (InputError). The receiver waits for rows,
/// not the sender. The ranks must be on one host (InputError), and their GPUs must be able to use
/// each other's memory (check_peer_access); ranks may share a GPU. Collective.
std::unique_ptr<CudaCommunicator> peer_copy_communicator(ProcessGroup& group);

/// Throws InputError if NCCL, as built against or as loaded, is older than 2.28.
void check_zero_cta();
/// The same for an NCCL_VERSION_CODE.
void check_zero_cta(int nccl_version);
/// Throws InputError unless the GPUs that `num_ranks` ranks of this host use can all use each
/// other's memory.
void check_peer_access(int num_ranks);

}  // namespace pipemoe::exec
