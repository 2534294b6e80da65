#include "kernels/cuda.hpp"

#include <algorithm>
#include <cstdio>

namespace pipemoe::cuda {

void log_failure(cudaError_t status, const char* what) noexcept {
  if (status == cudaSuccess || status == cudaErrorCudartUnloading) return;
  std::fprintf(stderr, "pipemoe: %s: CUDA: %s\n", what, cudaGetErrorString(status));
}

int device_count() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    (void)cudaGetLastError();
    return 0;
  }
  return count;
}

Device current_device() {
  int index = 0;
  check(cudaGetDevice(&index));
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index));
  Device device{.name = properties.name,
                .major = properties.major,
                .minor = properties.minor,
                .multiprocessors = properties.multiProcessorCount,
                .memory = properties.totalGlobalMem};
  check(cudaDriverGetVersion(&device.driver));
  check(cudaRuntimeGetVersion(&device.runtime));
  return device;
}

Stream::Stream(Priority priority, int levels_below_highest) {
  int least = 0, greatest = 0;  // a greater priority is a smaller number
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  const int high = std::min(greatest + levels_below_highest, least);
  check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                     priority == Priority::High ? high : least));
}

Stream::~Stream() {
  if (stream_ != nullptr) log_failure(cudaStreamDestroy(stream_), "end of a stream");
}

Event::Event(Timing timing) {
  check(cudaEventCreateWithFlags(&event_,
                                 timing == Timing::On ? cudaEventDefault : cudaEventDisableTiming));
}

Event::~Event() {
  if (event_ != nullptr) log_failure(cudaEventDestroy(event_), "end of an event");
}

void copy_to_device(void* to, const void* from, std::size_t bytes, Where at) {
  if (bytes == 0) return;
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), at);
  check(cudaStreamSynchronize(cudaStreamLegacy), at);
}

std::chrono::duration<double> elapsed(const Event& from, const Event& to) {
  check(cudaEventSynchronize(to.get()));
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, from.get(), to.get()));
  return std::chrono::duration<double, std::milli>(milliseconds);
}

DeviceBuffer::DeviceBuffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes > 0) check(cudaMalloc(&data_, bytes));
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr || owner_ != nullptr) return;
  log_failure(cudaFree(data_), "end of a device buffer");
}

PinnedBuffer::PinnedBuffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes > 0) check(cudaMallocHost(&data_, bytes));
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) log_failure(cudaFreeHost(data_), "end of a pinned buffer");
}

void* driver_function(const char* name, unsigned version, Where at) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  check(cudaGetDriverEntryPointByVersion(name, &function, version, cudaEnableDefault, &found), at);
  if (found == cudaDriverEntryPointSuccess) return function;
  throw DeviceError(std::string("the CUDA driver has no ") + name, at);
}

Graph::~Graph() {
  if (executable_ != nullptr) log_failure(cudaGraphExecDestroy(executable_), "end of a graph");
}

void Graph::abandon(cudaStream_t stream) noexcept {
  cudaGraph_t graph = nullptr;
  (void)cudaStreamEndCapture(stream, &graph);
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  (void)cudaGetLastError();
}

Graph Graph::finish(cudaStream_t stream, const std::function<void(cudaGraph_t)>& edit, Where at) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream, &graph), at);
  const std::unique_ptr<CUgraph_st, void (*)(cudaGraph_t)> recorded(graph, [](cudaGraph_t ended) {
    log_failure(cudaGraphDestroy(ended), "end of a recorded graph");
  });
  if (edit) edit(graph);
  Graph result;
  check(cudaGraphInstantiate(&result.executable_, graph, 0), at);
  return result;
}

}  // namespace pipemoe::cuda
