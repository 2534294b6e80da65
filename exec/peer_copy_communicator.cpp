// Every GPU copies its parts into the others' memory with its copy engines, and tells them with a
// flag: no multiprocessor is taken, a rank's rows for itself stay where they are, and an expert's
// rows come together from all ranks. Whoever reads the rows waits for the flags.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <memory>
#include <stop_token>
#include <thread>

#include "exec/device_communicator.hpp"
#include "exec/peer_memory.hpp"
#include "exec/stream_flags.hpp"
#include "kernels/device_flags.hpp"
#include "kernels/device_pause.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

using cuda::check;

constexpr int kMostExchanges = 4096;  // of an iteration

// Rows of flags, a flag of each rank: of the second and the first meeting of align(), and of each
// exchange of an iteration.
enum FlagRow { kMeetAgain, kMeet, kExchanges, kFlagRows = kExchanges + kMostExchanges };

// In one copy, unless the pitch is larger than any that a copy may have.
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

class PeerCopies final : public DeviceCommunicator {
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
  void for_each_other(Visit visit) const {  // each rank in another order
    for (int step = 1; step < ranks_; ++step) visit((rank_ + step) % ranks_);
  }
  void tell(int row, cudaStream_t stream) const;
  void meet(FlagRow row, int rows_to_reset, cudaStream_t stream) const;

  int rank_, ranks_;
  std::shared_ptr<PeerMemory> memory_;
  cuda::DeviceBuffer flags_;  // [row, rank]: set by that rank, reset by this one
  int next_ = 0;              // exchange of the iteration
  std::jthread release_;
};

// Tells all others that the stream is here.
void PeerCopies::tell(int row, cudaStream_t stream) const {
  StreamFlags words;
  const auto* mine = reinterpret_cast<const std::byte*>(flags(row) + rank_);
  for_each_other([&](int other) {
    words.write(reinterpret_cast<std::uint32_t*>(memory_->of_rank(other, mine)), 1);
  });
  words.give(stream);
}

// Waits for all others to be here too. Rows from that one on can be reset when none is written
// before this rank is here the next time.
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

// Flags of exchanges are written after the second meeting, which a rank comes to after it has reset
// them.
void PeerCopies::align(cudaStream_t stream) {
  if (ranks_ == 1) return;
  meet(kMeet, kFlagRows - kMeet, stream);
  cuda::pause(kLaunch, stream);
  meet(kMeetAgain, 1, stream);
}

// Answers for the lost rank until all that was given has ended.
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

std::unique_ptr<DeviceCommunicator> peer_copy_communicator(ProcessGroup& group) {
  return std::make_unique<PeerCopies>(group);
}

}  // namespace pipemoe::exec
