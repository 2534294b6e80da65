#include "exec/calibration/calibration_tools.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <thread>

#include "exec/graph_runner.hpp"
#include "kernels/cpu_math.hpp"
#include "kernels/experts.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {
namespace {

constexpr int kWarmUp = 3;

std::vector<float> random_floats(std::int64_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// Multiplies each group's rows by its matrix, as an expert's forward pass does.
std::vector<Seconds> time_gemm(ProcessGroup& group, const GemmShape& shape, int repeats) {
  const std::int64_t rows = shape.rows / shape.groups;
  const auto a = random_floats(rows * shape.k), b = random_floats(shape.groups * shape.k * shape.n);
  std::vector<float> c(static_cast<std::size_t>(rows * shape.n));
  const auto matrix = static_cast<std::size_t>(shape.k * shape.n);
  std::vector<Seconds> times;
  for (int i = -kWarmUp; i < repeats; ++i) {
    group.barrier();
    const auto start = Clock::now();
    for (std::int64_t one = 0; one < shape.groups; ++one) {
      const auto begin = static_cast<std::size_t>(one) * matrix;
      kernels::gemm({.m = rows, .n = shape.n, .k = shape.k}, a, std::span(b).subspan(begin, matrix),
                    c);
    }
    if (i >= 0) times.push_back(Clock::now() - start);
  }
  return times;
}

// Applies the function to each expert's rows, one expert after another as the experts do.
std::vector<Seconds> time_activation(ProcessGroup& group, const MoeLayer& layer, Pass pass,
                                     std::int64_t rows, int repeats) {
  const kernels::ActivationShape shape{layer.activation, rows, layer.hidden_dim};
  const std::vector<float> input = random_floats(rows * shape.width());
  const std::vector<float> gradient = random_floats(rows * layer.hidden_dim);
  std::vector<float> output(gradient.size()), input_gradient(input.size());
  std::vector<Seconds> times;
  for (int i = -kWarmUp; i < repeats; ++i) {
    group.barrier();
    const auto start = Clock::now();
    if (pass == Pass::Forward) {
      kernels::activate(shape, input, output);
    } else {
      kernels::activate_backward(shape, input, gradient, input_gradient);
    }
    if (i >= 0) times.push_back(Clock::now() - start);
  }
  return times;
}

// A computation that takes a while, and an exchange that waits for it on another queue.
TaskGraph exchange_after_work(int ranks) {
  TaskGraphBuilder builder("exchange-after-work", ranks, compute_and_communication());
  const TaskId work = builder.append({{.step = Step::Gate}, kComputeQueue, MemoryTraffic{}});
  builder.depend(work,
                 builder.append({{.step = Step::Dispatch}, kCommunicationQueue, Collective{}}));
  return std::move(builder).build();
}

std::vector<Seconds> time_all_to_all(const ExecutorOptions& options, ProcessGroup& group,
                                     Bytes per_rank, int repeats) {
  auto communicator = group.communicator();
  if (options.link) communicator = emulate_link(*options.link, std::move(communicator));
  const std::int64_t ranks = group.size();
  const auto floats = per_rank.count / static_cast<std::int64_t>(sizeof(float));
  std::vector<std::int64_t> parts(static_cast<std::size_t>(ranks), floats / ranks);
  parts.front() += floats % ranks;  // rank 0 gets the remainder
  const std::vector<float> send = random_floats(floats);
  const std::vector<std::int64_t> received(parts.size(),
                                           parts[static_cast<std::size_t>(group.rank())]);
  std::vector<float> receive(static_cast<std::size_t>(received.front() * ranks));
  const TaskGraph graph = exchange_after_work(group.size());
  ThreadGraphRunner runner(graph, [&](const Task& task, std::stop_token stop) {
    if (task.queue == kComputeQueue) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    } else {
      communicator->exchange({send, parts, receive, received}, std::move(stop));
    }
  });
  std::vector<Seconds> times;
  std::vector<Interval> intervals(graph.size());
  for (int i = -kWarmUp; i < repeats; ++i) {
    group.barrier();
    runner.iterate(Clock::now() + std::chrono::microseconds(100), intervals);
    if (i >= 0) times.push_back(intervals.back().end - intervals.back().start);
  }
  return times;
}

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

// This rank's share of the machine's memory, of which an eighth is left to the system.
Gpu device(ProcessGroup& group) {
  const std::int64_t memory =
      std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE) / group.size();
  return {processor(), {memory}, {memory / 8 * 7}};
}

}  // namespace

CalibrationTools calibration_tools(const ExecutorOptions& options, ProcessGroup& group) {
  if (options.backend == "cuda") return cuda_calibration_tools(options, group);
  CalibrationTools tools;
  tools.executor = [&group, options](const MoeLayer& layer) -> std::unique_ptr<Executor> {
    return make_executor(layer, options, group);
  };
  tools.time_gemm = [&group](const GemmShape& shape, Dtype, int repeats) {
    return time_gemm(group, shape, repeats);
  };
  tools.time_activation = [&group](const MoeLayer& layer, Pass pass, std::int64_t rows,
                                   int repeats) {
    return time_activation(group, layer, pass, rows, repeats);
  };
  tools.time_all_to_alls = [options](ProcessGroup& part, const std::vector<Bytes>& sizes,
                                     int repeats) {
    std::vector<ExchangeTimes> times;
    for (const Bytes per_rank : sizes) {
      times.push_back({time_all_to_all(options, part, per_rank, repeats), {}});
    }
    return times;
  };
  tools.device = device(group);
  tools.versions = {{"BLAS", kernels::blas_version()}};
  tools.conditions["communicator"] = options.chosen_communicator();
  tools.network = group.name();
  if (options.link) tools.network += ", link emulated: " + to_string(*options.link);
  return tools;
}

}  // namespace pipemoe::exec
