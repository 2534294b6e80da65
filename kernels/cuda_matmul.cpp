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
                     const cublasLtMatmulAlgo_t& algorithm, const Workspace& workspace,
                     cudaStream_t stream) const {
    const float one = 1, beta = shape.accumulate ? 1 : 0;
    return cublasLtMatmul(handle, operation_, &one, args.b, a_, args.a, b_, &beta, args.d, d_,
                          args.d, d_, &algorithm, workspace.data(), workspace.bytes(), stream);
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

// What timing chose, for the device of this process: timed once, the same bits everywhere.
class TimedAlgorithms {
 public:
  std::optional<cublasLtMatmulAlgo_t> find(const Matmul& shape) {
    const std::lock_guard lock(mutex_);
    const auto known = algorithms_.find(shape);
    return known == algorithms_.end() ? std::nullopt : std::optional(known->second);
  }
  void keep(const Matmul& shape, const cublasLtMatmulAlgo_t& algorithm) {
    const std::lock_guard lock(mutex_);
    algorithms_.emplace(shape, algorithm);
  }
  static TimedAlgorithms& of_process() {
    static TimedAlgorithms all;
    return all;
  }

 private:
  std::mutex mutex_;
  std::map<Matmul, cublasLtMatmulAlgo_t> algorithms_;
};

struct Plan {
  std::unique_ptr<Description> description;
  std::optional<cublasLtMatmulAlgo_t> algorithm;  // none: the library cannot
};

}  // namespace

struct Matmuls::State {
  Search search;
  cublasLtHandle_t handle = nullptr;
  std::map<Matmul, Plan> plans;

  explicit State(Search how) : search(how) { check(cublasLtCreate(&handle)); }
  ~State() { (void)cublasLtDestroy(handle); }

  const Plan& plan(const Matmul& shape);
  cublasLtMatmulAlgo_t fastest(Description& description, const Matmul& shape,
                               const std::vector<cublasLtMatmulHeuristicResult_t>& candidates);
};

const Plan& Matmuls::State::plan(const Matmul& shape) {
  const auto known = plans.find(shape);
  if (known != plans.end()) return known->second;
  const bool timed = search == Search::Timed;
  Plan plan{std::make_unique<Description>(shape), std::nullopt};
  if (timed) plan.algorithm = TimedAlgorithms::of_process().find(shape);
  if (!plan.algorithm) {
    const auto candidates = plan.description->algorithms(handle, shape, timed ? kCandidates : 1);
    if (!candidates.empty()) {
      plan.algorithm =
          timed ? fastest(*plan.description, shape, candidates) : candidates.front().algo;
    }
    if (timed && plan.algorithm) TimedAlgorithms::of_process().keep(shape, *plan.algorithm);
  }
  return plans.emplace(shape, std::move(plan)).first->second;
}

// Each once after a warm-up, then the best few again: the least time decides. As a CUDA graph has
// them: there a memset, which some algorithms need, takes 4 to 8 us with the gaps beside it (H200,
// CUDA 13.0, kernel traces of layers).
cublasLtMatmulAlgo_t Matmuls::State::fastest(
    Description& description, const Matmul& shape,
    const std::vector<cublasLtMatmulHeuristicResult_t>& candidates) {
  const Stream stream;
  const Workspace workspace;
  const TrialOperands operands(shape, stream);
  description.point(shape, operands.args());
  Event begin(Event::Timing::On), end(Event::Timing::On);
  const auto record = [&](const cublasLtMatmulAlgo_t& algorithm, int runs) {
    Graph graph = Graph::capture(stream, [&] {
      for (int i = 0; i < runs; ++i) {
        check(description.run(handle, shape, operands.args(), algorithm, workspace, stream));
      }
    });
    graph.launch(stream);
    return graph;
  };
  const auto time = [&](const Graph& graph) {
    begin.record(stream);
    graph.launch(stream);
    end.record(stream);
    return elapsed(begin, end).count();
  };
  std::vector<std::pair<double, std::size_t>> times;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const cublasLtMatmulAlgo_t& algorithm = candidates[i].algo;
    if (description.run(handle, shape, operands.args(), algorithm, workspace, stream) !=
        CUBLAS_STATUS_SUCCESS) {
      continue;
    }
    times.emplace_back(time(record(algorithm, 1)), i);
  }
  if (times.empty()) return candidates.front().algo;
  std::sort(times.begin(), times.end());
  times.resize(std::min<std::size_t>(times.size(), 4));
  for (auto& [best, index] : times) {
    const Graph graph = record(candidates[index].algo, 2);
    best = time(graph);
    for (int round = 1; round < 3; ++round) best = std::min(best, time(graph));
  }
  return candidates[std::min_element(times.begin(), times.end())->second].algo;
}

Matmuls::Matmuls(Search search) : state_(std::make_unique<State>(search)) {}
Matmuls::~Matmuls() = default;

bool Matmuls::can(const Matmul& shape) const {
  return !Description(shape).algorithms(state_->handle, shape, 1).empty();
}

bool Matmuls::prepare(const Matmul& shape) { return state_->plan(shape).algorithm.has_value(); }

void Matmuls::run(const Matmul& shape, const MatmulArgs& args, const Workspace& workspace,
                  cudaStream_t stream) {
  const Plan& plan = state_->plan(shape);
  if (!plan.algorithm) {
    throw DeviceError("cuBLASLt has no algorithm for " + shape.describe(), Where::here());
  }
  plan.description->point(shape, args);
  check(plan.description->run(state_->handle, shape, args, *plan.algorithm, workspace, stream));
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
  return fmt::format("{} x [{}, {}{}] * [{}, {}{}] {} -> {}{}{}", batch, m, k,
                     transpose_a ? " transposed" : "", k, n, transpose_b ? " transposed" : "",
                     word(in), word(out), kNames[static_cast<std::size_t>(epilogue)],
                     accumulate ? ", added" : "");
}

}  // namespace pipemoe::cuda
