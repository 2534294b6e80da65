#include <fmt/core.h>
#include <nccl.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "exec/cuda_communicator.hpp"
#include "kernels/cuda.hpp"
#include "kernels/small_kernels.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

void check(ncclResult_t status, Where at = Where::here()) {
  if (status == ncclSuccess || status == ncclInProgress) return;
  throw DeviceError(
      fmt::format("NCCL: {}: {}", ncclGetErrorString(status), ncclGetLastError(nullptr)), at);
}

// For destructors, which must not throw.
void log_failure(ncclResult_t status, const char* what) noexcept {
  if (status == ncclSuccess || status == ncclInProgress) return;
  std::fprintf(stderr, "pipemoe: %s: NCCL: %s\n", what, ncclGetErrorString(status));
}

constexpr int kFirstWithZeroCtas = 22800;

std::string dotted(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

int loaded_version() {
  int version = 0;
  check(ncclGetVersion(&version));
  return version;
}

// Rank 0 makes the id, and every rank gets it.
ncclUniqueId common_id(ProcessGroup& group) {
  ncclUniqueId id{};
  if (group.rank() == 0) check(ncclGetUniqueId(&id));
  return all_gather(group, id).front();
}

class Comm {
 public:
  Comm(ProcessGroup& group, ncclConfig_t config) {
    const ncclUniqueId id = common_id(group);
    group.barrier();  // joining has no time limit, so all ranks must be here
    check(ncclCommInitRankConfig(&comm_, group.size(), id, group.rank(), &config));
  }
  ~Comm() {
    if (comm_ != nullptr) log_failure(ncclCommDestroy(comm_), "end of a communicator");
  }
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;

  /// Null after abort().
  ncclComm_t get() const { return comm_; }

  void check_progress() const {
    if (comm_ == nullptr) throw DeviceError("NCCL: an exchange failed before", Where::here());
    ncclResult_t status = ncclSuccess;
    check(ncclCommGetAsyncError(comm_, &status));
    check(status);
  }
  void abort() {
    if (comm_ == nullptr) return;
    log_failure(ncclCommAbort(std::exchange(comm_, nullptr)), "giving up exchanges");
  }

 private:
  ncclComm_t comm_ = nullptr;
};

class NcclCommunicator : public CudaCommunicator {
 public:
  NcclCommunicator(ProcessGroup& group, ncclConfig_t config)
      : comm_(std::make_shared<Comm>(group, config)) {}
  bool asynchronous() const override { return true; }
  void align(cudaStream_t stream) override {
    meet(stream);
    cuda::pause(kLaunch, stream);
    meet(stream);
  }
  void check_progress() override { comm_->check_progress(); }
  void give_up() override { comm_->abort(); }

 protected:
  ncclComm_t comm() const { return comm_->get(); }
  const std::shared_ptr<Comm>& shared() const { return comm_; }

 private:
  // An all-reduce waits for the last rank.
  void meet(cudaStream_t stream) {
    check(ncclAllReduce(word_.data(), word_.data(), 1, ncclFloat, ncclSum, comm(), stream));
  }

  std::shared_ptr<Comm> comm_;
  cuda::DeviceBuffer word_{sizeof(float)};
};

ncclConfig_t with_ctas(int most) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  if (most > 0) config.maxCTAs = most;
  return config;
}

class GroupedSendReceive final : public NcclCommunicator {
 public:
  GroupedSendReceive(ProcessGroup& group, int ctas)
      : NcclCommunicator(group, with_ctas(ctas)), rank_(group.rank()), ctas_(ctas) {}

  std::string name() const override {
    return fmt::format("NCCL {}, grouped send and receive{}", dotted(loaded_version()),
                       ctas_ == 0 ? "" : fmt::format(", at most {} CTAs", ctas_));
  }
  bool keeps_own() const override { return true; }
  std::int64_t most_blocks() const override { return 1; }

  void exchange(const cuda::DeviceExchange& exchange, cudaStream_t stream,
                std::stop_token) override {
    check(ncclGroupStart());
    if (exchange.blocks) {
      exchange_pieces(exchange, stream);
    } else {
      exchange_parts(exchange, stream);
    }
    check(ncclGroupEnd());
  }

 private:
  void exchange_parts(const cuda::DeviceExchange& exchange, cudaStream_t stream) {
    std::int64_t sent = 0, received = 0;
    for (std::size_t rank = 0; rank < exchange.send_bytes.size(); ++rank) {
      const std::int64_t out = exchange.send_bytes[rank], in = exchange.receive_bytes[rank];
      if (static_cast<std::int64_t>(rank) != exchange.kept) {
        send(exchange.send + sent, out, static_cast<int>(rank), stream);
        receive(exchange.receive + received, in, static_cast<int>(rank), stream);
      }
      sent += out;
      received += in;
    }
  }
  void exchange_pieces(const cuda::DeviceExchange& exchange, cudaStream_t stream) {
    const auto ranks = static_cast<int>(exchange.send_bytes.size());
    for (int peer = 0; peer < ranks; ++peer) {
      if (peer == exchange.kept) continue;
      for (const cuda::ExchangeCopy& copy : exchange.copies(rank_, peer)) {
        send(exchange.send + copy.from, copy.bytes, peer, stream);
      }
      for (const cuda::ExchangeCopy& copy : exchange.copies(peer, rank_)) {
        receive(exchange.receive + copy.to, copy.bytes, peer, stream);
      }
    }
  }
  void send(const std::byte* from, std::int64_t bytes, int peer, cudaStream_t stream) {
    if (bytes == 0) return;
    check(ncclSend(from, static_cast<std::size_t>(bytes), ncclInt8, peer, comm(), stream));
  }
  void receive(std::byte* to, std::int64_t bytes, int peer, cudaStream_t stream) {
    if (bytes == 0) return;
    check(ncclRecv(to, static_cast<std::size_t>(bytes), ncclInt8, peer, comm(), stream));
  }

  int rank_;
  int ctas_;
};

#if NCCL_VERSION_CODE >= 22800

ncclConfig_t zero_cta_config() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.CTAPolicy = NCCL_CTA_POLICY_ZERO;
  return config;
}

void* allocate(std::size_t bytes) {
  void* memory = nullptr;
  check(ncclMemAlloc(&memory, bytes));
  return memory;
}

// Memory that NCCL allocates and that every rank registers at the same time.
class Window {
 public:
  Window(std::shared_ptr<Comm> comm, std::size_t bytes)
      : comm_(std::move(comm)), memory_(allocate(bytes), free) {
    check(ncclCommWindowRegister(comm_->get(), memory_.get(), bytes, &window_,
                                 NCCL_WIN_COLL_SYMMETRIC));
  }
  ~Window() {
    if (comm_->get() == nullptr || window_ == nullptr) return;
    log_failure(ncclCommWindowDeregister(comm_->get(), window_), "end of a window");
  }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;
  void* memory() const { return memory_.get(); }

 private:
  static void free(void* memory) noexcept { log_failure(ncclMemFree(memory), "end of a buffer"); }

  std::shared_ptr<Comm> comm_;
  std::unique_ptr<void, void (*)(void*) noexcept> memory_;
  ncclWindow_t window_ = nullptr;
};

class SymmetricAllToAll final : public NcclCommunicator {
 public:
  explicit SymmetricAllToAll(ProcessGroup& group) : NcclCommunicator(group, zero_cta_config()) {}

  std::string name() const override {
    return fmt::format("NCCL {}, all-to-all on symmetric windows, zero CTAs",
                       dotted(loaded_version()));
  }

  cuda::DeviceAllocator allocator() override {
    return [comm = shared()](std::size_t bytes) {
      const auto window = std::make_shared<Window>(comm, bytes);
      return cuda::DeviceBuffer(std::shared_ptr<void>(window, window->memory()), bytes);
    };
  }

  void exchange(const cuda::DeviceExchange& exchange, cudaStream_t stream,
                std::stop_token) override {
    const std::int64_t part = exchange.equal_part();
    if (part == 0) return;
    check(ncclAlltoAll(exchange.send, exchange.receive, static_cast<std::size_t>(part), ncclInt8,
                       comm(), stream));
  }
};

#endif

}  // namespace

void check_zero_cta(int nccl_version) {
  if (nccl_version >= kFirstWithZeroCtas) return;
  throw InputError(fmt::format("--communicator nccl-zero-cta needs NCCL {} or later, this is {}",
                               dotted(kFirstWithZeroCtas), dotted(nccl_version)));
}

void check_zero_cta() { check_zero_cta(std::min(NCCL_VERSION_CODE, loaded_version())); }

std::unique_ptr<CudaCommunicator> nccl_communicator(ProcessGroup& group, int ctas) {
  return std::make_unique<GroupedSendReceive>(group, ctas);
}

std::unique_ptr<CudaCommunicator> nccl_zero_cta_communicator(ProcessGroup& group) {
  check_zero_cta();
#if NCCL_VERSION_CODE >= 22800
  return std::make_unique<SymmetricAllToAll>(group);
#else
  ensure(false, "check_zero_cta lets an old NCCL pass");
  return nullptr;
#endif
}

}  // namespace pipemoe::exec
