#include "kernels/cuda_matmul.hpp"

#include <cublasLt.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "kernels/device_fill.hpp"
#include "kernels/zeroed_workspaces.hpp"

namespace pipemoe::cuda {
namespace {

void check(cublasStatus_t status, Where at = Where::here()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(std::string("cuBLASLt: ") + cublasLtGetStatusString(status), at);
}
using cuda::check;

cudaDataType_t data_type(Element element) {
  return element == Element::Fp32 ? CUDA_R_32F : CUDA_R_16BF;
}

bool has_mask(Epilogue epilogue) {
  return epilogue == Epilogue::ReluBiasMask || epilogue == Epilogue::ReluGradient ||
         epilogue == Epilogue::ReluGradientBias;
}

bool has_bias(Epilogue epilogue) {
  return epilogue == Epilogue::Bias || epilogue == Epilogue::ReluBias ||
         epilogue == Epilogue::ReluBiasMask || epilogue == Epilogue::ReluGradientBias ||
         epilogue == Epilogue::BiasGradientB;
}

// The library sees columns first: its A is our b.
cublasLtEpilogue_t library_epilogue(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::None:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case Epilogue::Bias:
      return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::Relu:
      return CUBLASLT_EPILOGUE_RELU;
    case Epilogue::ReluBias:
      return CUBLASLT_EPILOGUE_RELU_BIAS;
    case Epilogue::ReluBiasMask:
      return CUBLASLT_EPILOGUE_RELU_AUX_BIAS;
    case Epilogue::ReluGradient:
      return CUBLASLT_EPILOGUE_DRELU;
    case Epilogue::ReluGradientBias:
      return CUBLASLT_EPILOGUE_DRELU_BGRAD;
    case Epilogue::BiasGradientB:
      return CUBLASLT_EPILOGUE_BGRADA;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

// What all pointers of a batch are multiples of, given that the first ones are of 256.
std::uint32_t alignment(Element element, std::int64_t ld, std::int64_t stride) {
  std::int64_t bytes = 256;
  while (bytes > 1 &&
         (ld * size_of(element) % bytes != 0 || stride * size_of(element) % bytes != 0))
    bytes /= 2;
  return static_cast<std::uint32_t>(bytes);
}

class Description {
 public:
  explicit Description(const Matmul& shape) {
    const auto compute =
        shape.in == Element::Fp32 && shape.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    check(cublasLtMatmulDescCreate(&operation_, compute, CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_TRANSA, shape.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, shape.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, library_epilogue(shape.epilogue));
    if (shape.multiprocessors > 0) {
      set(CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, std::int32_t{shape.multiprocessors});
    }
    if (has_bias(shape.epilogue)) {
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(shape.out));
      if (shape.batch > 1) set(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, shape.stride_bias);
    }
    if (has_mask(shape.epilogue)) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, shape.mask_ld);
      if (shape.batch > 1) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, shape.stride_mask);
    }
    a_ = layout(shape.in, shape.transpose_b ? shape.k : shape.n,
                shape.transpose_b ? shape.n : shape.k, shape.ldb, shape.batch, shape.stride_b);
    b_ = layout(shape.in, shape.transpose_a ? shape.m : shape.k,
                shape.transpose_a ? shape.k : shape.m, shape.lda, shape.batch, shape.stride_a);
    d_ = layout(shape.out, shape.n, shape.m, shape.ldd, shape.batch, shape.stride_d);
  }
  ~Description() {
    if (operation_ != nullptr) (void)cublasLtMatmulDescDestroy(operation_);
    for (const cublasLtMatrixLayout_t matrix : {a_, b_, d_}) {
      if (matrix != nullptr) (void)cublasLtMatrixLayoutDestroy(matrix);
    }
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;

  void point(const Matmul& shape, const MatmulArgs& args) {
    if (has_bias(shape.epilogue)) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
    if (has_mask(shape.epilogue)) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, args.mask);
  }

  std::vector<cublasLtMatmulHeuristicResult_t> algorithms(cublasLtHandle_t handle,
                                                          const Matmul& shape, int at_most) const {
    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference));
    const auto set_preference = [&](cublasLtMatmulPreferenceAttributes_t key, auto value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference, key, &value, sizeof value));
    };
    const std::uint32_t align_a = alignment(shape.in, shape.ldb, shape.stride_b);
    const std::uint32_t align_b = alignment(shape.in, shape.lda, shape.stride_a);
    const std::uint32_t align_d = alignment(shape.out, shape.ldd, shape.stride_d);
    set_preference(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, Workspace::kBytes);
    set_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_a);
    set_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_b);
    set_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_d);
    set_preference(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_d);
    std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(at_most));
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, operation_, a_, b_, d_, d_, preference, at_most, found.data(), &count);
    (void)cublasLtMatmulPreferenceDestroy(preference);
    found.resize(status == CUBLAS_STATUS_SUCCESS ? static_cast<std::size_t>(count) : 0);
    std::erase_if(found, [](const auto& one) { return one.state != CUBLAS_STATUS_SUCCESS; });
    return found;
  }

  cublasStatus_t run(cublasLtHandle_t handle, const Matmul& shape, const MatmulArgs& args,
                     const cublasLtMatmulAlgo_t& algorithm, std::span<std::byte> workspace,
                     cudaStream_t stream) const {
    const float one = 1, beta = shape.accumulate ? 1 : 0;
    return cublasLtMatmul(handle, operation_, &one, args.b, a_, args.a, b_, &beta, args.d, d_,
                          args.d, d_, &algorithm, workspace.data(), workspace.size(), stream);
  }

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t key, const T& value) {
    check(cublasLtMatmulDescSetAttribute(operation_, key, &value, sizeof value));
  }
  static cublasLtMatrixLayout_t layout(Element element, std::int64_t rows, std::int64_t columns,
                                       std::int64_t ld, std::int64_t batch, std::int64_t stride) {
    cublasLtMatrixLayout_t matrix = nullptr;
    check(cublasLtMatrixLayoutCreate(&matrix, data_type(element), static_cast<std::uint64_t>(rows),
                                     static_cast<std::uint64_t>(columns), ld));
    const auto count = static_cast<std::int32_t>(batch);
    check(cublasLtMatrixLayoutSetAttribute(matrix, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                           sizeof count));
    check(cublasLtMatrixLayoutSetAttribute(matrix, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                           &stride, sizeof stride));
    return matrix;
  }

  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, d_ = nullptr;
};

// Elements from the first to the last of a batch.
std::int64_t extent(std::int64_t rows, std::int64_t ld, std::int64_t batch, std::int64_t stride) {
  return (batch - 1) * stride + rows * ld;
}

// Operands for timing: memory of its own, random, freed at the end.
struct TrialOperands {
  DeviceBuffer a, b, d, bias, mask;

  TrialOperands(const Matmul& shape, cudaStream_t stream)
      : a(bytes(shape.in, extent(shape.transpose_a ? shape.k : shape.m, shape.lda, shape.batch,
                                 shape.stride_a))),
        b(bytes(shape.in, extent(shape.transpose_b ? shape.n : shape.k, shape.ldb, shape.batch,
                                 shape.stride_b))),
        d(bytes(shape.out, extent(shape.m, shape.ldd, shape.batch, shape.stride_d))),
        bias(has_bias(shape.epilogue)
                 ? bytes(shape.out, extent(1, shape.n, shape.batch, shape.stride_bias))
                 : 0),
        mask(has_mask(shape.epilogue)
                 ? bytes(Element::Bf16,
                         extent(shape.m, shape.mask_ld, shape.batch, shape.stride_mask) / 16)
                 : 0) {
    fill_random({a.data(), static_cast<std::int64_t>(a.bytes()) / size_of(shape.in), shape.in, 1},
                stream);
    fill_random({b.data(), static_cast<std::int64_t>(b.bytes()) / size_of(shape.in), shape.in, 2},
                stream);
    for (const DeviceBuffer* buffer : {&d, &bias, &mask}) {
      if (buffer->bytes() == 0) continue;
      check(cudaMemsetAsync(buffer->data(), 0x55, buffer->bytes(), stream));
    }
  }
  static std::size_t bytes(Element element, std::int64_t count) {
    return static_cast<std::size_t>(count * size_of(element));
  }
  MatmulArgs args() const { return {a.data(), b.data(), d.data(), bias.data(), mask.data()}; }
};

// More than the library has for most shapes.
constexpr int kCandidates = 40;

struct Algorithm {
  cublasLtMatmulAlgo_t chosen{};
  std::size_t workspace_bytes = 0;
};

// What timing chose, for the device of this process: timed once, the same bits everywhere.
class TimedAlgorithms {
 public:
  std::optional<Algorithm> find(const Matmul& shape) {
    const std::lock_guard lock(mutex_);
    const auto known = algorithms_.find(shape);
    return known == algorithms_.end() ? std::nullopt : std::optional(known->second);
  }
  void keep(const Matmul& shape, const Algorithm& algorithm) {
    const std::lock_guard lock(mutex_);
    algorithms_.emplace(shape, algorithm);
  }
  static TimedAlgorithms& of_process() {
    static TimedAlgorithms all;
    return all;
  }

 private:
  std::mutex mutex_;
  std::map<Matmul, Algorithm> algorithms_;
};

// Times one product's algorithms, as a CUDA graph has them: there a memset, which some need, takes
// 4 to 8 us with the gaps beside it (H200, CUDA 13.0, kernel traces of layers).
class Trials {
 public:
  Trials(cublasLtHandle_t handle, Description& description, const Matmul& shape)
      : handle_(handle), description_(description), shape_(shape), operands_(shape, stream_) {
    description.point(shape, operands_.args());
  }
  // Each once after a warm-up, then the best few again: the least time decides.
  Algorithm fastest(const std::vector<Algorithm>& candidates);

 private:
  static constexpr int kRuns = 2;

  cublasStatus_t run(const Algorithm& algorithm, std::span<std::byte> workspace) {
    return description_.run(handle_, shape_, operands_.args(), algorithm.chosen, workspace,
                            stream_);
  }
  Graph record(const Algorithm& algorithm, int runs);
  double time(const Graph& graph);

  cublasLtHandle_t handle_;
  Description& description_;
  const Matmul& shape_;
  Stream stream_;
  Workspace workspace_;
  ZeroedWorkspaces zeroed_{kRuns * ZeroedWorkspaces::kMost};
  TrialOperands operands_;
  Event begin_{Event::Timing::On}, end_{Event::Timing::On};
};

Graph Trials::record(const Algorithm& algorithm, int runs) {
  zeroed_.begin_iteration();
  Graph graph = Graph::capture(
      stream_,
      [&] {
        for (int i = 0; i < runs; ++i) {
          std::span<std::byte> own;
          if (shape_.zeroed) own = zeroed_.take(algorithm.workspace_bytes);
          check(run(algorithm, own.empty() ? workspace_.all() : own));
        }
      },
      [&](cudaGraph_t recorded) { zeroed_.drop_memsets(recorded); });
  time(graph);
  return graph;
}

double Trials::time(const Graph& graph) {
  check(cudaMemsetAsync(zeroed_.all().data(), 0, zeroed_.all().size(), stream_));
  begin_.record(stream_);
  graph.launch(stream_);
  end_.record(stream_);
  return elapsed(begin_, end_).count();
}

Algorithm Trials::fastest(const std::vector<Algorithm>& candidates) {
  std::vector<std::pair<double, std::size_t>> times;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (run(candidates[i], workspace_.all()) != CUBLAS_STATUS_SUCCESS) continue;
    times.emplace_back(time(record(candidates[i], 1)), i);
  }
  if (times.empty()) return candidates.front();
  std::sort(times.begin(), times.end());
  times.resize(std::min<std::size_t>(times.size(), 4));
  for (auto& [best, index] : times) {
    const Graph graph = record(candidates[index], kRuns);
    best = time(graph);
    for (int round = 1; round < 3; ++round) best = std::min(best, time(graph));
  }
  return candidates[std::min_element(times.begin(), times.end())->second];
}

struct Plan {
  std::unique_ptr<Description> description;
  std::optional<Algorithm> algorithm;  // none: the library cannot
};

}  // namespace

struct Matmuls::State {
  Search search;
  cublasLtHandle_t handle = nullptr;
  std::map<Matmul, Plan> plans;

  explicit State(Search how) : search(how) { check(cublasLtCreate(&handle)); }
  ~State() { (void)cublasLtDestroy(handle); }

  const Plan& plan(const Matmul& shape);
  std::optional<Algorithm> choose(Description& description, const Matmul& shape);
};

const Plan& Matmuls::State::plan(const Matmul& shape) {
  const auto known = plans.find(shape);
  if (known != plans.end()) return known->second;
  Plan plan{std::make_unique<Description>(shape), std::nullopt};
  plan.algorithm = choose(*plan.description, shape);
  return plans.emplace(shape, std::move(plan)).first->second;
}

std::optional<Algorithm> Matmuls::State::choose(Description& description, const Matmul& shape) {
  const bool timed = search == Search::Timed;
  if (timed) {
    if (const auto known = TimedAlgorithms::of_process().find(shape)) return known;
  }
  std::vector<Algorithm> candidates;
  for (const auto& one : description.algorithms(handle, shape, timed ? kCandidates : 1)) {
    candidates.push_back({one.algo, one.workspaceSize});
  }
  if (candidates.empty()) return std::nullopt;
  if (!timed) return candidates.front();
  const Algorithm fastest = Trials(handle, description, shape).fastest(candidates);
  TimedAlgorithms::of_process().keep(shape, fastest);
  return fastest;
}

Matmuls::Matmuls(Search search) : state_(std::make_unique<State>(search)) {}
Matmuls::~Matmuls() = default;

bool Matmuls::can(const Matmul& shape) const {
  return !Description(shape).algorithms(state_->handle, shape, 1).empty();
}

bool Matmuls::prepare(const Matmul& shape) { return state_->plan(shape).algorithm.has_value(); }

std::size_t Matmuls::workspace_bytes(const Matmul& shape) {
  const Plan& plan = state_->plan(shape);
  return plan.algorithm ? plan.algorithm->workspace_bytes : 0;
}

void Matmuls::run(const Matmul& shape, const MatmulArgs& args, std::span<std::byte> workspace,
                  cudaStream_t stream) {
  const Plan& plan = state_->plan(shape);
  if (!plan.algorithm) {
    throw DeviceError("cuBLASLt has no algorithm for " + shape.describe(), Where::here());
  }
  plan.description->point(shape, args);
  check(plan.description->run(state_->handle, shape, args, plan.algorithm->chosen, workspace,
                              stream));
}

std::string Matmuls::version() {
  const std::size_t version = cublasLtGetVersion();
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

std::string Matmul::describe() const {
  constexpr std::array kNames{"",
                              " +bias",
                              " ReLU",
                              " +bias, ReLU",
                              " +bias, ReLU and mask",
                              " times mask",
                              " times mask, bias gradient",
                              " bias gradient"};
  const auto word = [](Element element) { return element == Element::Fp32 ? "fp32" : "bf16"; };
  return fmt::format("{} x [{}, {}{}] * [{}, {}{}] {} -> {}{}{}{}", batch, m, k,
                     transpose_a ? " transposed" : "", k, n, transpose_b ? " transposed" : "",
                     word(in), word(out), kNames[static_cast<std::size_t>(epilogue)],
                     accumulate ? ", added" : "",
                     multiprocessors > 0 ? fmt::format(", {} SMs", multiprocessors) : "");
}

}  // namespace pipemoe::cuda
