// Each GPU copies its parts into the other GPUs' memory with its copy engines, and sets a flag
// there. This needs no multiprocessor, a rank's rows for itself need not move, and an expert's rows
// from all ranks end up side by side. Whoever reads the rows waits for the flags.
#include "exec/peer_copy_communicator.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>

#include "exec/cuda_communicator.hpp"
#include "kernels/small_kernels.hpp"
#include "models/error.hpp"
#include "models/provenance.hpp"

namespace pipemoe::exec {
namespace {

using cuda::check;
using cuda::DeviceBuffer;

// The driver may put smaller pieces into one allocation, and a handle names a whole allocation.
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

CUdeviceptr address(const std::uint32_t* at) { return reinterpret_cast<CUdeviceptr>(at); }

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

// A rank must not free a piece before the other ranks have closed it.
PeerMemory::~PeerMemory() {
  for (auto& [begin, piece] : pieces_) {
    for (std::byte* there : piece.of_ranks) {
      if (there == begin) continue;
      cuda::log_failure(cudaIpcCloseMemHandle(there), "closing another rank's memory");
    }
  }
  if (std::uncaught_exceptions() > 0) return;
  try {
    group_.barrier();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pipemoe: freeing memory that ranks share: %s\n", error.what());
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
  const auto known = released_.find(bytes);
  const std::byte* begin = nullptr;
  if (known != released_.end()) {
    begin = known->second;
    released_.erase(known);
  } else {
    Piece piece = make(bytes);
    begin = piece.memory.data();
    pieces_.emplace(begin, std::move(piece));
  }
  std::byte* data = pieces_.at(begin).memory.data();
  const auto release = [self = shared_from_this(), bytes](void* memory) {
    self->released_.emplace(bytes, static_cast<const std::byte*>(memory));
  };
  return DeviceBuffer(std::shared_ptr<void>(data, release), bytes);
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

StreamFlags& StreamFlags::write(std::uint32_t* at, std::uint32_t value) {
  operations_.emplace_back().writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32,
                                           .address = address(at),
                                           .value = value,
                                           .flags = CU_STREAM_WRITE_VALUE_DEFAULT,
                                           .alias = 0};
  return *this;
}

void StreamFlags::enqueue(cudaStream_t stream) {
  static const auto enqueue_batch = reinterpret_cast<decltype(&cuStreamBatchMemOp)>(
      cuda::driver_function("cuStreamBatchMemOp", 12000));
  const CUresult status = enqueue_batch(stream, static_cast<unsigned>(operations_.size()),
                                        operations_.data(), /*flags=*/0);
  operations_.clear();
  if (status == CUDA_SUCCESS) return;
  // Errors of the runtime have the same numbers as those of the driver.
  throw DeviceError(fmt::format("CUDA: stream memory operations: {}",
                                cudaGetErrorString(static_cast<cudaError_t>(status))),
                    Where::here());
}

namespace {

constexpr int kMostExchanges = 4096;  // in one iteration

// Rows of flags with one flag for each rank: for the second and the first meeting of align(), and
// for each exchange of an iteration.
enum FlagRow { kMeetAgain, kMeet, kExchanges, kFlagRows = kExchanges + kMostExchanges };

// Makes one copy, unless the pitch is larger than a copy allows.
void copy_blocks(const cuda::ExchangeCopy& copy, const std::byte* from, std::byte* to,
                 cudaStream_t stream) {
  constexpr std::int64_t kMostPitch = std::numeric_limits<std::int32_t>::max();
  const auto bytes = static_cast<std::size_t>(copy.bytes);
  if (copy.blocks > 1 && std::max(copy.to_pitch, copy.from_pitch) <= kMostPitch) {
    check(cudaMemcpy2DAsync(to, static_cast<std::size_t>(copy.to_pitch), from,
                            static_cast<std::size_t>(copy.from_pitch), bytes,
                            static_cast<std::size_t>(copy.blocks), cudaMemcpyDefault, stream));
    return;
  }
  for (std::int64_t i = 0; i < copy.blocks; ++i) {
    check(cudaMemcpyAsync(to + i * copy.to_pitch, from + i * copy.from_pitch, bytes,
                          cudaMemcpyDefault, stream));
  }
}

class PeerCopies final : public CudaCommunicator {
 public:
  explicit PeerCopies(ProcessGroup& group)
      : rank_(group.rank()),
        ranks_(group.size()),
        memory_(PeerMemory::join(group)),
        flags_(memory_->allocate(kFlagRows * row_bytes())) {
    check(cudaMemset(flags_.data(), 0, flags_.bytes()));
    check(cudaDeviceSynchronize());
    group.barrier();
  }

  std::string name() const override { return "copies into the other GPUs' memory, copy engines"; }
  bool asynchronous() const override { return true; }
  bool keeps_own() const override { return true; }
  std::int64_t most_blocks() const override { return std::numeric_limits<std::int64_t>::max(); }

  void begin_iteration() override { next_ = 0; }
  void exchange(const cuda::DeviceExchange& exchange, cudaStream_t stream,
                std::stop_token) override;
  bool awaits() const override { return ranks_ > 1; }
  void await(int number, cudaStream_t stream) override;
  void align(cudaStream_t stream) override;
  cuda::DeviceAllocator allocator() override {
    return [memory = memory_](std::size_t bytes) { return memory->allocate(bytes); };
  }
  void give_up() override;

 private:
  std::size_t row_bytes() const { return static_cast<std::size_t>(ranks_) * sizeof(std::uint32_t); }
  std::uint32_t* flags(int row) const { return flags_.as<std::uint32_t>() + row * ranks_; }
  template <class Visit>
  void for_each_other(Visit visit) const {  // each rank starts at another one
    for (int step = 1; step < ranks_; ++step) visit((rank_ + step) % ranks_);
  }
  void tell(int row, cudaStream_t stream) const;
  void meet(FlagRow row, int rows_to_reset, cudaStream_t stream) const;

  int rank_, ranks_;
  std::shared_ptr<PeerMemory> memory_;
  cuda::DeviceBuffer flags_;  // [row, rank]: that rank sets it, this one resets it
  int next_ = 0;              // number of the next exchange in the iteration
  std::jthread release_;
};

// Tells all other ranks that the stream has reached this point.
void PeerCopies::tell(int row, cudaStream_t stream) const {
  StreamFlags words;
  const auto* mine = reinterpret_cast<const std::byte*>(flags(row) + rank_);
  for_each_other([&](int other) {
    words.write(reinterpret_cast<std::uint32_t*>(memory_->of_rank(other, mine)), 1);
  });
  words.enqueue(stream);
}

// Waits until all other ranks have reached this point too, and resets rows of flags from `row` on.
// Requires that nobody sets them before this rank gets here again.
void PeerCopies::meet(FlagRow row, int rows_to_reset, cudaStream_t stream) const {
  tell(row, stream);
  cuda::await_flags(flags(row), ranks_, rank_, stream);
  check(cudaMemsetAsync(flags(row), 0, static_cast<std::size_t>(rows_to_reset) * row_bytes(),
                        stream));
}

void PeerCopies::exchange(const cuda::DeviceExchange& exchange, cudaStream_t stream,
                          std::stop_token) {
  const auto send = [&](int rank) {
    for (const cuda::ExchangeCopy& copy : exchange.copies(rank_, rank)) {
      std::byte* here = exchange.receive + copy.to;
      copy_blocks(copy, exchange.send + copy.from,
                  rank == rank_ ? here : memory_->of_rank(rank, here), stream);
    }
  };
  for_each_other(send);
  if (!exchange.kept) send(rank_);
  if (ranks_ == 1) return;
  if (next_ == kMostExchanges) {
    throw InputError(fmt::format("peer-copy can do {} exchanges an iteration, and there are more",
                                 kMostExchanges));
  }
  tell(kExchanges + next_++, stream);
}

void PeerCopies::await(int number, cudaStream_t stream) {
  cuda::await_flags(flags(kExchanges + number), ranks_, rank_, stream);
}

// A rank resets the flags of exchanges before the second meeting, and ranks set them after it.
void PeerCopies::align(cudaStream_t stream) {
  if (ranks_ == 1) return;
  meet(kMeet, kFlagRows - kMeet, stream);
  cuda::pause(kLaunch, stream);
  meet(kMeetAgain, 1, stream);
}

// Sets the lost rank's flags until everything that was enqueued has ended.
void PeerCopies::give_up() {
  if (ranks_ == 1) return;
  int device = 0;
  check(cudaGetDevice(&device));
  release_ = std::jthread([this, device](const std::stop_token& stop) {
    try {
      check(cudaSetDevice(device));
      const cuda::Stream stream;
      while (!stop.stop_requested()) {
        check(cudaMemsetAsync(flags_.data(), 1, flags_.bytes(), stream));
        stream.synchronize();
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    } catch (const std::exception& error) {
      std::fprintf(stderr, "pipemoe: giving up exchanges: %s\n", error.what());
    }
  });
}

}  // namespace

std::unique_ptr<CudaCommunicator> peer_copy_communicator(ProcessGroup& group) {
  return std::make_unique<PeerCopies>(group);
}

}  // namespace pipemoe::exec
