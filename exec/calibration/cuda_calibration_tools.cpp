#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "exec/calibration/calibration_tools.hpp"
#include "exec/cuda_executor.hpp"
#include "exec/execute.hpp"
#include "kernels/cuda_matmul.hpp"
#include "kernels/small_kernels.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

using cuda::DeviceBuffer;
using cuda::Element;

constexpr int kWarmUp = 3;

// Random numbers, because a device computes faster with zeros.
DeviceBuffer filled(std::size_t bytes, Element element,
                    const cuda::DeviceAllocator& allocator = {}) {
  DeviceBuffer buffer = allocator ? allocator(bytes) : DeviceBuffer(bytes);
  const cuda::Stream stream;
  cuda::fill_random({.values = buffer.data(),
                     .count = static_cast<std::int64_t>(bytes) / size_of(element),
                     .element = element,
                     .seed = 1},
                    stream);
  stream.synchronize();
  return buffer;
}

// Times the work that `enqueue` enqueues, which is captured unless it waits for the device itself.
// Another run of the work precedes it, so that the host can enqueue this one meanwhile, and then
// what `align` enqueues.
template <class Enqueue, class Align>
std::vector<Seconds> time_on_stream(ProcessGroup& group, bool capture, int repeats, Enqueue enqueue,
                                    Align align) {
  const cuda::Stream stream;
  cuda::Event begin(cuda::Event::Timing::On), end(cuda::Event::Timing::On);
  align(stream.get());
  enqueue(stream.get());
  stream.synchronize();
  cuda::Graph graph;
  if (capture) graph = cuda::Graph::capture(stream, [&] { enqueue(stream.get()); });
  std::vector<Seconds> times;
  for (int i = -kWarmUp; i < repeats; ++i) {
    group.barrier();
    if (capture) {
      align(stream.get());
      graph.launch(stream);
    }
    align(stream.get());
    begin.record(stream);
    if (capture) {
      graph.launch(stream);
    } else {
      enqueue(stream.get());
    }
    end.record(stream);
    end.synchronize();
    if (i >= 0) times.push_back(cuda::elapsed(begin, end));
  }
  return times;
}

std::vector<Seconds> time_gemm(ProcessGroup& group, const CudaOptions& options, Element element,
                               const GemmShape& shape, int repeats) {
  const std::int64_t rows = shape.rows / shape.groups;
  const auto bytes = [&](std::int64_t count) {
    return static_cast<std::size_t>(count * size_of(element));
  };
  const DeviceBuffer a = filled(bytes(shape.groups * rows * shape.k), element);
  const DeviceBuffer b = filled(bytes(shape.groups * shape.k * shape.n), element);
  const DeviceBuffer d(bytes(shape.groups * rows * shape.n));
  const cuda::Matmul product{.m = rows,
                             .n = shape.n,
                             .k = shape.k,
                             .batch = shape.groups,
                             .lda = shape.k,
                             .ldb = shape.n,
                             .ldd = shape.n,
                             .stride_a = rows * shape.k,
                             .stride_b = shape.k * shape.n,
                             .stride_d = rows * shape.n,
                             .in = element,
                             .out = element,
                             .tf32 = options.tf32};
  cuda::Matmuls matmuls(cuda::Search::Timed);
  const cuda::Workspace workspace;
  return time_on_stream(
      group, /*capture=*/true, repeats,
      [&](cudaStream_t stream) {
        matmuls.run(product, {a.data(), b.data(), d.data()}, workspace.all(), stream);
      },
      [](cudaStream_t) {});
}

// Exchanges in a row; all but the first are queued.
constexpr int kQueue = 5;
// The computation before and after them, as in an iteration.
constexpr std::chrono::microseconds kAround{20};
constexpr Seconds kLeast{1e-6};  // for one exchange, because timers have a resolution

// Exchanges run as in a layer: on a stream of their own, between computations.
ExchangeTimes time_all_to_all(CudaCommunicator& communicator, ProcessGroup& group, Bytes per_rank,
                              int repeats) {
  const std::int64_t ranks = group.size();
  const std::int64_t part = std::max<std::int64_t>(16, per_rank.count / ranks / 16 * 16);
  const auto bytes = static_cast<std::size_t>(part * ranks);
  const DeviceBuffer from = filled(bytes, Element::Bf16, communicator.allocator());
  const DeviceBuffer to = filled(bytes, Element::Bf16, communicator.allocator());
  const std::vector<std::int64_t> parts(static_cast<std::size_t>(ranks), part);
  const bool asynchronous = communicator.asynchronous();
  cuda::DeviceExchange exchange{from.data(), to.data(), parts, parts};
  if (communicator.keeps_own() && ranks > 1) exchange.kept = group.rank();
  const cuda::Stream communication(cuda::Stream::Priority::High);
  cuda::Event fork, join;
  const auto exchanges = [&](int count) {
    return time_on_stream(
        group, asynchronous, repeats,
        [&](cudaStream_t stream) {
          if (asynchronous) cuda::pause(kAround, stream);
          communicator.begin_iteration();
          fork.record(stream);
          fork.block(communication);
          for (int i = 0; i < count; ++i) communicator.exchange(exchange, communication, {});
          if (communicator.awaits()) {
            if (count > 0) communicator.await(count - 1, stream);
            cuda::pause(kAround,
                        stream);  // runs once rows have arrived, even if own rows still leave
          }
          join.record(communication);
          join.block(stream);
        },
        [&](cudaStream_t stream) { communicator.align(stream); });
  };
  std::vector<Seconds> one = exchanges(1);
  if (!asynchronous) return {std::move(one), {}};
  ExchangeTimes times;
  const Seconds before = median(exchanges(0));
  const Seconds first = std::max(median(one) - before, kLeast);
  for (const Seconds both : one) times.alone.push_back(std::max(both - before, first / kQueue));
  for (const Seconds all : exchanges(kQueue)) {
    times.queued.push_back(std::max(all - before - first, first / kQueue) / (kQueue - 1));
  }
  return times;
}

// Compares a chain of short computations, each of which waits for an exchange that finished long
// ago and has another exchange wait for it, with the same computations and exchanges without such
// waits.
std::vector<Seconds> time_join(CudaCommunicator& communicator, ProcessGroup& group, int repeats) {
  constexpr std::size_t kComputations = 8;
  constexpr std::chrono::microseconds kComputation{2}, kAllExchanges{1000};
  constexpr std::size_t kPart = 16384;
  const auto ranks = static_cast<std::size_t>(group.size());
  const DeviceBuffer from = filled(ranks * kPart, Element::Bf16, communicator.allocator());
  const DeviceBuffer to = filled(ranks * kPart, Element::Bf16, communicator.allocator());
  const std::vector<std::int64_t> parts(ranks, kPart);
  cuda::DeviceExchange exchange{from.data(), to.data(), parts, parts};
  if (communicator.keeps_own() && ranks > 1) exchange.kept = group.rank();
  const cuda::Stream communication(cuda::Stream::Priority::High);
  cuda::Event fork, join;
  std::vector<cuda::Event> arrived(kComputations), computed(kComputations);
  const auto chain = [&](bool waits) {
    return [&, waits](cudaStream_t stream) {
      communicator.begin_iteration();
      fork.record(stream);
      fork.block(communication);
      for (std::size_t i = 0; i < kComputations; ++i) {
        communicator.exchange(exchange, communication, {});
        arrived[i].record(communication);
      }
      cuda::pause(kAllExchanges, stream);
      for (std::size_t i = 0; i < kComputations; ++i) {
        if (waits && communicator.awaits()) communicator.await(static_cast<int>(i), stream);
        if (waits && !communicator.awaits()) arrived[i].block(stream);
        cuda::pause(kComputation, stream);
        computed[i].record(stream);
        if (waits) computed[i].block(communication);
        communicator.exchange(exchange, communication, {});
      }
      cuda::pause(kAllExchanges, stream);
      join.record(communication);
      join.block(stream);
    };
  };
  const auto times = [&](bool waits) {
    return time_on_stream(group, /*capture=*/true, repeats, chain(waits),
                          [&](cudaStream_t stream) { communicator.align(stream); });
  };
  const Seconds apart = median(times(false));
  std::vector<Seconds> joins;
  for (const Seconds all : times(true)) joins.push_back((all - apart) / kComputations);
  return joins;
}

Gpu device() {
  const cuda::Device here = cuda::current_device();
  std::size_t free = 0, all = 0;
  cuda::check(cudaMemGetInfo(&free, &all));
  const auto memory = static_cast<std::int64_t>(all);
  return {here.name, {memory}, {std::min(memory, static_cast<std::int64_t>(free))}};
}

}  // namespace

CalibrationTools cuda_calibration_tools(const ExecutorOptions& chosen, ProcessGroup& group) {
  const CudaOptions options = cuda_options(chosen);
  if (options.communicator == CudaCommunicatorKind::Elided) {
    throw InputError("exchanges that are elided cannot be calibrated: choose a communicator");
  }
  use_device_of(group);
  CalibrationTools tools;
  tools.executor = [&group, options](const MoeLayer& layer) -> std::unique_ptr<Executor> {
    return std::make_unique<CudaExecutor>(layer, options, group);
  };
  tools.time_gemm = [&group, options](const GemmShape& shape, Dtype dtype, int repeats) {
    const Element element = dtype == Dtype::Bf16 ? Element::Bf16 : Element::Fp32;
    return time_gemm(group, options, element, shape, repeats);
  };
  tools.time_all_to_alls = [options](ProcessGroup& part, const std::vector<Bytes>& sizes,
                                     int repeats) {
    const auto communicator = make_communicator(options.communicator, options.exchange_ctas, part);
    std::vector<ExchangeTimes> times;
    for (const Bytes per_rank : sizes) {
      times.push_back(time_all_to_all(*communicator, part, per_rank, repeats));
    }
    return times;
  };
  const auto communicator = make_communicator(options.communicator, options.exchange_ctas, group);
  tools.enqueues_ahead = communicator->asynchronous();
  tools.network = communicator->name();
  tools.conditions["communicator"] = chosen.chosen_communicator();
  if (options.exchange_ctas > 0) {
    tools.conditions["exchange_ctas"] = std::int64_t{options.exchange_ctas};
  }
  if (tools.enqueues_ahead) {
    tools.time_join = [options, &group](int repeats) {
      return time_join(*make_communicator(options.communicator, options.exchange_ctas, group),
                       group, repeats);
    };
  }
  tools.device = device();
  const cuda::Device here = cuda::current_device();
  tools.versions = {{"CUDA", fmt::format("{}.{}", here.runtime / 1000, here.runtime % 1000 / 10)},
                    {"cuBLASLt", cuda::Matmuls::version()}};
  return tools;
}

}  // namespace pipemoe::exec
