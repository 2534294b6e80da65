// The CUDA runtime's objects as values that clean up after themselves. Host code only.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "models/error.hpp"

namespace pipemoe::cuda {

/// Throws DeviceError unless `status` is success.
inline void check(cudaError_t status, Where at = Where::here()) {
  if (status == cudaSuccess) return;
  throw DeviceError(std::string("CUDA: ") + cudaGetErrorString(status), at);
}
/// For destructors, which may not throw: one line on stderr.
void log_failure(cudaError_t status, const char* what) noexcept;

/// Devices that can be used; 0 without a driver.
int device_count() noexcept;

struct Device {
  std::string name;
  int major = 0;  ///< compute capability
  int minor = 0;
  int multiprocessors = 0;
  std::size_t memory = 0;  ///< bytes
  int driver = 0;          ///< 13000 is CUDA 13.0, the newest that the driver supports
  int runtime = 0;         ///< of the linked runtime
  bool has_bf16() const { return major >= 8; }
};
/// The current device. Throws DeviceError when there is none.
Device current_device();

/// A queue that does not synchronise with the default stream.
class Stream {
 public:
  enum class Priority { Normal, High };
  /// High: so many levels below the highest priority of the device, but not below Normal.
  explicit Stream(Priority priority = Priority::Normal, int levels_below_highest = 0);
  ~Stream();
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }

  cudaStream_t get() const { return stream_; }
  operator cudaStream_t() const { return stream_; }  // NOLINT: a handle as its library takes it
  void synchronize(Where at = Where::here()) const { check(cudaStreamSynchronize(stream_), at); }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  enum class Timing { Off, On };
  explicit Event(Timing timing = Timing::Off);
  ~Event();
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }

  cudaEvent_t get() const { return event_; }
  void record(cudaStream_t stream, Where at = Where::here()) {
    check(cudaEventRecord(event_, stream), at);
  }
  /// What `stream` is given from now on waits for what record() marked.
  void block(cudaStream_t stream, Where at = Where::here()) const {
    check(cudaStreamWaitEvent(stream, event_, 0), at);
  }
  void synchronize(Where at = Where::here()) const { check(cudaEventSynchronize(event_), at); }

 private:
  cudaEvent_t event_ = nullptr;
};
/// From any host memory. When it returns the bytes are there, for every stream: cudaMemcpy alone
/// may return while they are still on their way, and non-blocking streams do not wait for that.
void copy_to_device(void* to, const void* from, std::size_t bytes, Where at = Where::here());

/// Between two recorded events with timing; waits for the later one.
std::chrono::duration<double> elapsed(const Event& from, const Event& to);

/// Device memory, 256-byte aligned and not initialised.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(std::size_t bytes);
  /// Memory of another library, which `owner`'s deleter gives back.
  DeviceBuffer(std::shared_ptr<void> owner, std::size_t bytes)
      : data_(owner.get()), bytes_(bytes), owner_(std::move(owner)) {}
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        owner_(std::move(other.owner_)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(owner_, other.owner_);
    return *this;
  }

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::shared_ptr<void> owner_;  // null: the runtime's own
};
/// Makes buffers of at least one byte; empty: DeviceBuffer's own way.
using DeviceAllocator = std::function<DeviceBuffer(std::size_t bytes)>;

/// Page-locked host memory, which copies to and from a device run beside everything else.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(std::size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// A function of the CUDA driver, by the name and version that its header gives it: a program that
/// links the driver does not start where there is none. Throws DeviceError.
void* driver_function(const char* name, unsigned version, Where at = Where::here());

/// Work recorded once and launched as a whole.
class Graph {
 public:
  Graph() = default;
  ~Graph();
  Graph(Graph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(executable_, other.executable_);
    return *this;
  }

  /// Records what `work` gives to `stream`, and to streams that it joins to it by events and back,
  /// without running it; `edit` changes the recording. Nothing in `work` may wait for the device.
  template <class Work>
  static Graph capture(cudaStream_t stream, Work&& work,
                       const std::function<void(cudaGraph_t)>& edit = {},
                       Where at = Where::here()) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), at);
    try {
      work();
    } catch (...) {
      abandon(stream);
      throw;
    }
    return finish(stream, edit, at);
  }

  void launch(cudaStream_t stream, Where at = Where::here()) const {
    check(cudaGraphLaunch(executable_, stream), at);
  }

 private:
  static void abandon(cudaStream_t stream) noexcept;
  static Graph finish(cudaStream_t stream, const std::function<void(cudaGraph_t)>& edit, Where at);

  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace pipemoe::cuda
