// The CUDA runtime's objects as values that free themselves, and the element types of device
// memory. Every .cu file includes this header, so it includes neither Boost nor the task graph.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "models/error.hpp"

namespace pipemoe::cuda {

/// The type of tokens, rows and expert weights in device memory. Kernels add in fp32.
enum class Element { Fp32, Bf16 };
constexpr std::int64_t size_of(Element element) { return element == Element::Fp32 ? 4 : 2; }

/// Kernels move 16 bytes at a time, one unit. The width of a row must be a whole number of units.
inline constexpr std::int64_t kUnitBytes = 16;

/// Throws DeviceError unless `status` is success.
inline void check(cudaError_t status, Where at = Where::here()) {
  if (status == cudaSuccess) return;
  throw DeviceError(std::string("CUDA: ") + cudaGetErrorString(status), at);
}
/// Writes one line to stderr unless `status` is success. For destructors, which may not throw.
void log_failure(cudaError_t status, const char* what) noexcept;

/// Returns the number of usable devices; 0 without a driver.
int device_count() noexcept;

struct Device {
  std::string name;
  int major = 0;  ///< compute capability
  int minor = 0;
  int multiprocessors = 0;
  std::size_t memory = 0;  ///< bytes
  int driver = 0;          ///< newest CUDA version that the driver supports; 13000 is CUDA 13.0
  int runtime = 0;         ///< version of the linked runtime
  bool has_bf16() const { return major >= 8; }
};
/// Describes the current device. Throws DeviceError if there is none.
Device current_device();

/// A queue that does not synchronise with the default stream.
class Stream {
 public:
  enum class Priority { Normal, High };
  /// With High, the priority is `levels_below_highest` levels below the highest one of the device,
  /// but never below Normal.
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
  /// Makes work that is enqueued on `stream` from now on wait for what record() marked.
  void block(cudaStream_t stream, Where at = Where::here()) const {
    check(cudaStreamWaitEvent(stream, event_, 0), at);
  }
  void synchronize(Where at = Where::here()) const { check(cudaEventSynchronize(event_), at); }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Copies from any host memory. When it returns, every stream sees the bytes: cudaMemcpy alone may
/// return before they have arrived, and non-blocking streams do not wait for it.
void copy_to_device(void* to, const void* from, std::size_t bytes, Where at = Where::here());

/// Returns the time between two recorded events with timing. Waits for the later one.
std::chrono::duration<double> elapsed(const Event& from, const Event& to);

/// Device memory, aligned to 256 bytes, not initialised.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(std::size_t bytes);
  /// Holds memory of another library. The deleter of `owner` frees it.
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
  std::shared_ptr<void> owner_;  // null: the memory is from cudaMalloc
};
/// Allocates a buffer of at least one byte. An empty function means DeviceBuffer(bytes).
using DeviceAllocator = std::function<DeviceBuffer(std::size_t bytes)>;

/// Page-locked host memory. Copies between it and a device are asynchronous.
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

/// Returns a function of the CUDA driver, by the name and version of its header. A program that
/// links the driver would not start on machines without one. Throws DeviceError if the driver lacks
/// the function.
void* driver_function(const char* name, unsigned version, Where at = Where::here());

/// A CUDA graph: work that is recorded once and launched as a whole.
class Graph {
 public:
  Graph() = default;
  ~Graph();
  Graph(Graph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(executable_, other.executable_);
    return *this;
  }

  /// Records what `work` enqueues on `stream`, and on streams that events fork from it and join to
  /// it again, without running it. `edit` may change the recording. `work` must not wait for the
  /// device.
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
