#include "exec/cuda_communicator.hpp"

#include <algorithm>
#include <deque>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/cuda.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

using cuda::check;
using cuda::DeviceExchange;
using cuda::PinnedBuffer;

std::size_t total(const std::vector<std::int64_t>& parts) {
  return static_cast<std::size_t>(std::accumulate(parts.begin(), parts.end(), std::int64_t{0}));
}

// Pinned memory that never moves, because a CUDA graph keeps its address.
class Staging {
 public:
  std::byte* at_least(std::size_t bytes) {
    if (buffers_.empty() || buffers_.back().bytes() < bytes) buffers_.emplace_back(bytes);
    return buffers_.back().data();
  }

 private:
  std::deque<PinnedBuffer> buffers_;
};

void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, kind, stream));
}

class StagedHere final : public CudaCommunicator {
 public:
  std::string name() const override { return "staged through pinned host memory, one rank"; }
  bool asynchronous() const override { return true; }
  void exchange(const DeviceExchange& exchange, cudaStream_t stream, std::stop_token) override {
    const std::size_t bytes = total(exchange.send_bytes);
    std::byte* host = staging_.at_least(bytes);
    copy(host, exchange.send, bytes, cudaMemcpyDeviceToHost, stream);
    copy(exchange.receive, host, bytes, cudaMemcpyHostToDevice, stream);
  }

 private:
  Staging staging_;
};

// Communicators count floats. Rows are whole units of 16 bytes.
std::vector<std::int64_t> floats(const std::vector<std::int64_t>& bytes) {
  std::vector<std::int64_t> counts;
  for (const std::int64_t count : bytes) counts.push_back(count / 4);
  return counts;
}

class StagedBetween final : public CudaCommunicator {
 public:
  explicit StagedBetween(ProcessGroup& group)
      : name_("staged through pinned host memory and " + group.name()),
        between_(group.communicator()) {}
  std::string name() const override { return name_; }
  bool asynchronous() const override { return false; }
  void exchange(const DeviceExchange& exchange, cudaStream_t stream,
                std::stop_token stop) override {
    const std::size_t sent = total(exchange.send_bytes), received = total(exchange.receive_bytes);
    std::byte* out = out_.at_least(sent);
    std::byte* in = in_.at_least(received);
    copy(out, exchange.send, sent, cudaMemcpyDeviceToHost, stream);
    check(cudaStreamSynchronize(stream));
    between_->exchange({{reinterpret_cast<const float*>(out), sent / 4},
                        floats(exchange.send_bytes),
                        {reinterpret_cast<float*>(in), received / 4},
                        floats(exchange.receive_bytes)},
                       std::move(stop));
    copy(exchange.receive, in, received, cudaMemcpyHostToDevice, stream);
    check(cudaStreamSynchronize(stream));
  }

 private:
  std::string name_;
  std::unique_ptr<Communicator> between_;
  Staging out_, in_;
};

}  // namespace

std::unique_ptr<CudaCommunicator> make_communicator(CudaCommunicatorKind kind, int exchange_ctas,
                                                    ProcessGroup& group) {
  switch (kind) {
    case CudaCommunicatorKind::Elided:
      return nullptr;
    case CudaCommunicatorKind::Staged:
      return group.size() == 1 ? staged_communicator() : staged_communicator(group);
    case CudaCommunicatorKind::Nccl:
      return nccl_communicator(group, exchange_ctas);
    case CudaCommunicatorKind::NcclZeroCta:
      return nccl_zero_cta_communicator(group);
    case CudaCommunicatorKind::PeerCopy:
      return peer_copy_communicator(group);
  }
  return nullptr;
}

std::unique_ptr<CudaCommunicator> staged_communicator() { return std::make_unique<StagedHere>(); }

std::unique_ptr<CudaCommunicator> staged_communicator(ProcessGroup& group) {
  return std::make_unique<StagedBetween>(group);
}

}  // namespace pipemoe::exec
