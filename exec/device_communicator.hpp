// Rows between GPUs.
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

/// What a host has to give a device the CUDA graph of an iteration before that begins.
inline constexpr std::chrono::microseconds kLaunch{200};

/// Joins all ranks of a group, which call exchange() equally often and in one order. What an
/// exchange writes on a rank must be free there when that rank has done everything without which
/// this one could not have come to the exchange; at the latest from align() on. What an exchange
/// sends must stay as it is until the iteration ends or a later exchange has brought what another
/// rank made of it.
class DeviceCommunicator {
 public:
  virtual ~DeviceCommunicator() = default;
  /// "NCCL 2.28.3, grouped send and receive", ...
  virtual std::string name() const = 0;
  /// Whether exchange() only gives work to the stream: then a CUDA graph can hold it. Otherwise it
  /// returns when the exchange is done.
  virtual bool asynchronous() const = 0;
  /// Whether exchange() can do without a rank's rows for itself (DeviceExchange::kept).
  virtual bool keeps_own() const { return false; }
  /// The largest ExchangeBlocks::count that exchange() can do, in any number of pieces.
  virtual std::int64_t most_blocks() const { return 0; }
  /// Before the first exchange of an iteration is given to a stream or recorded for a CUDA graph.
  virtual void begin_iteration() {}
  /// Throws DeviceError, and RunError when a rank fails or on `stop`.
  virtual void exchange(const cuda::DeviceExchange& exchange, cudaStream_t stream,
                        std::stop_token stop) = 0;
  /// Whether an exchange that is done has only sent: then await() is what waits for the others'.
  virtual bool awaits() const { return false; }
  /// What the stream is given from now on has what exchange number `number` of the iteration, from
  /// 0, and those before it brought. What this rank sends may still be on its way.
  virtual void await(int /*number*/, cudaStream_t /*stream*/) {}
  /// Work for the stream that ends on all ranks at about the same time, and not before the host has
  /// had the time to give more: iterations begin after it. Nothing where ranks are aligned anyway.
  virtual void align(cudaStream_t /*stream*/) {}
  /// Throws DeviceError when an exchange that was given to a stream has failed. Cheap.
  virtual void check_progress() {}
  /// Makes the memory that exchanges read and write, by all ranks alike; must not outlive this.
  /// Empty: any device memory will do.
  virtual cuda::DeviceAllocator allocator() { return {}; }
  /// Ends exchanges that were given to a stream and may wait for a lost rank for ever. Requires
  /// that no CUDA graph holds one any more; nothing may be exchanged afterwards.
  virtual void give_up() {}
};

/// One rank: device to pinned host memory and back over PCIe, a slow link that is real.
std::unique_ptr<DeviceCommunicator> staged_communicator();
/// Several ranks, which may share a GPU: to pinned memory, through the group's communicator, back.
std::unique_ptr<DeviceCommunicator> staged_communicator(ProcessGroup& group);
/// NCCL's grouped send and receive; one GPU a rank. An exchange takes at most so many CTAs, each of
/// which needs a multiprocessor; 0: as many as NCCL likes. Collective.
std::unique_ptr<DeviceCommunicator> nccl_communicator(ProcessGroup& group, int ctas);
/// NCCL's all-to-all of equal parts between symmetric windows, which copy engines do where NCCL
/// can: no multiprocessor is taken from the experts. One GPU a rank. Collective. Throws what
/// check_zero_cta does.
std::unique_ptr<DeviceCommunicator> nccl_zero_cta_communicator(ProcessGroup& group);
/// Copies of equal parts into the memory of the other GPUs, by copy engines: no multiprocessor is
/// taken, and what reads the parts of the others waits for them, not what sends. At most 4096
/// exchanges an iteration (InputError). The ranks of one host, whose GPUs can use each
/// other's memory (check_peer_access); they may share a GPU. Collective. Throws InputError for
/// ranks of several hosts.
std::unique_ptr<DeviceCommunicator> peer_copy_communicator(ProcessGroup& group);
/// Throws InputError where NCCL, as built against or as loaded, is older than 2.28.
void check_zero_cta();
/// The same for an NCCL_VERSION_CODE.
void check_zero_cta(int nccl_version);

}  // namespace pipemoe::exec
