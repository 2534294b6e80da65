#include "exec/device_communicator.hpp"

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

// Pinned memory that is never moved: a CUDA graph keeps its address.
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

class StagedHere final : public DeviceCommunicator {
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

// Counts of the floats that bytes are carried as: rows are whole 16-byte units.
std::vector<std::int64_t> floats(const std::vector<std::int64_t>& bytes) {
  std::vector<std::int64_t> counts;
  for (const std::int64_t count : bytes) counts.push_back(count / 4);
  return counts;
}

class StagedBetween final : public DeviceCommunicator {
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

std::unique_ptr<DeviceCommunicator> staged_communicator() { return std::make_unique<StagedHere>(); }

std::unique_ptr<DeviceCommunicator> staged_communicator(ProcessGroup& group) {
  return std::make_unique<StagedBetween>(group);
}

}  // namespace pipemoe::exec
