#include "kernels/cuda_matmul.hpp"

#include <cublasLt.h>
#include <cuda.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "kernels/small_kernels.hpp"

namespace pipemoe::cuda {
namespace {

constexpr std::size_t kWorkspaceAlignment = 256;

// Asks the driver: the runtime's function fails for the driver's stream memory operations, which it
// does not know.
bool is_memset(cudaGraphNode_t node) {
  static const auto type_of =
      reinterpret_cast<decltype(&cuGraphNodeGetType)>(driver_function("cuGraphNodeGetType", 12000));
  CUgraphNodeType type{};
  if (type_of(node, &type) != CUDA_SUCCESS) {
    throw DeviceError("CUDA: cannot read the type of a recorded node", Where::here());
  }
  return type == CU_GRAPH_NODE_TYPE_MEMSET;
}

std::vector<cudaGraphNode_t> nodes_of(cudaGraph_t graph) {
  std::size_t count = 0;
  check(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  check(cudaGraphGetNodes(graph, nodes.data(), &count));
  return nodes;
}

// Returns the neighbours of a node. `get` is cudaGraphNodeGetDependencies or
// cudaGraphNodeGetDependentNodes.
template <class Get>
std::vector<cudaGraphNode_t> neighbours(cudaGraphNode_t node, Get get) {
  std::size_t count = 0;
  check(get(node, nullptr, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  std::vector<cudaGraphEdgeData> edges(
      count);  // an edge may let a kernel start before the other ends
  if (count > 0) check(get(node, nodes.data(), edges.data(), &count));
  return nodes;
}

void remove_node(cudaGraph_t graph, cudaGraphNode_t node) {
  const auto before = neighbours(node, cudaGraphNodeGetDependencies);
  for (cudaGraphNode_t after : neighbours(node, cudaGraphNodeGetDependentNodes)) {
    const auto known = neighbours(after, cudaGraphNodeGetDependencies);
    for (cudaGraphNode_t one : before) {
      if (std::find(known.begin(), known.end(), one) != known.end()) continue;
      check(cudaGraphAddDependencies(graph, &one, &after, nullptr, 1));
    }
  }
  check(cudaGraphDestroyNode(node));
}

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

// The library is column-major, so its A is our b.
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

// Returns the alignment in bytes of all matrices of a batch, if the first one is 256-byte aligned.
std::uint32_t alignment_of(Element element, std::int64_t ld, std::int64_t stride) {
  std::int64_t bytes = 256;
  while (bytes > 1 &&
         (ld * size_of(element) % bytes != 0 || stride * size_of(element) % bytes != 0))
    bytes /= 2;
  return static_cast<std::uint32_t>(bytes);
}

}  // namespace

// The next three types are not in the anonymous namespace, because Matmuls::State has them as
// members.

// A product as the library describes it.
class MatmulDescription {
 public:
  explicit MatmulDescription(const Matmul& shape) {
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
  ~MatmulDescription() {
    if (operation_ != nullptr) (void)cublasLtMatmulDescDestroy(operation_);
    for (const cublasLtMatrixLayout_t matrix : {a_, b_, d_}) {
      if (matrix != nullptr) (void)cublasLtMatrixLayoutDestroy(matrix);
    }
  }
  MatmulDescription(const MatmulDescription&) = delete;
  MatmulDescription& operator=(const MatmulDescription&) = delete;

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
    const std::uint32_t align_a = alignment_of(shape.in, shape.ldb, shape.stride_b);
    const std::uint32_t align_b = alignment_of(shape.in, shape.lda, shape.stride_a);
    const std::uint32_t align_d = alignment_of(shape.out, shape.ldd, shape.stride_d);
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

struct MatmulAlgorithm {
  cublasLtMatmulAlgo_t chosen{};
  std::size_t workspace_bytes = 0;
};

struct PreparedMatmul {
  std::unique_ptr<MatmulDescription> description;
  std::optional<MatmulAlgorithm> algorithm;  // absent: the library has none
};

namespace {

// Returns the number of elements from the first to the last of a batch.
std::int64_t extent(std::int64_t rows, std::int64_t ld, std::int64_t batch, std::int64_t stride) {
  return (batch - 1) * stride + rows * ld;
}

// Random operands for timing.
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

// The most algorithms that are timed. The library has fewer for most shapes.
constexpr int kCandidates = 40;

// The algorithms that timing chose in this process, which uses one device. Every Matmuls then uses
// the same one for a shape, so equal inputs produce equal bits.
class TimedAlgorithms {
 public:
  std::optional<MatmulAlgorithm> find(const Matmul& shape) {
    const std::lock_guard lock(mutex_);
    const auto known = algorithms_.find(shape);
    return known == algorithms_.end() ? std::nullopt : std::optional(known->second);
  }
  void keep(const Matmul& shape, const MatmulAlgorithm& algorithm) {
    const std::lock_guard lock(mutex_);
    algorithms_.emplace(shape, algorithm);
  }
  static TimedAlgorithms& of_process() {
    static TimedAlgorithms all;
    return all;
  }

 private:
  std::mutex mutex_;
  std::map<Matmul, MatmulAlgorithm> algorithms_;
};

// Times the algorithms of one product in CUDA graphs, as iterations run them: a memset, which some
// algorithms need, takes 4 to 8 us there with the gaps around it (H200, CUDA 13.0, kernel traces of
// layers).
class Trials {
 public:
  Trials(cublasLtHandle_t handle, MatmulDescription& description, const Matmul& shape)
      : handle_(handle), description_(description), shape_(shape), operands_(shape, stream_) {
    description.point(shape, operands_.args());
  }
  // Times each candidate once after a warm-up, then the best four again. The least time decides.
  MatmulAlgorithm fastest(const std::vector<MatmulAlgorithm>& candidates);

 private:
  static constexpr int kRuns = 2;

  cublasStatus_t run(const MatmulAlgorithm& algorithm, std::span<std::byte> workspace) {
    return description_.run(handle_, shape_, operands_.args(), algorithm.chosen, workspace,
                            stream_);
  }
  Graph record(const MatmulAlgorithm& algorithm, int runs);
  double time(const Graph& graph);

  cublasLtHandle_t handle_;
  MatmulDescription& description_;
  const Matmul& shape_;
  Stream stream_;
  Workspace workspace_;
  ZeroedWorkspaces zeroed_{kRuns * ZeroedWorkspaces::kMost};
  TrialOperands operands_;
  Event begin_{Event::Timing::On}, end_{Event::Timing::On};
};

Graph Trials::record(const MatmulAlgorithm& algorithm, int runs) {
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

MatmulAlgorithm Trials::fastest(const std::vector<MatmulAlgorithm>& candidates) {
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

}  // namespace

std::size_t ZeroedWorkspaces::size_of(std::size_t needed) {
  return needed > kMost
             ? 0
             : (needed + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

std::span<std::byte> ZeroedWorkspaces::take(std::size_t needed) {
  const std::size_t size = size_of(needed);
  if (size == 0 || taken_ + size > words_.bytes()) return {};
  taken_ += size;
  return all().subspan(taken_ - size, size);
}

bool ZeroedWorkspaces::zeroes_these(cudaGraphNode_t node) const {
  if (!is_memset(node)) return false;
  cudaMemsetParams memset{};
  check(cudaGraphMemsetNodeGetParams(node, &memset));
  const auto at = reinterpret_cast<std::uintptr_t>(memset.dst);
  const auto begin = reinterpret_cast<std::uintptr_t>(words_.data());
  return memset.value == 0 && at >= begin && at < begin + words_.bytes();
}

void ZeroedWorkspaces::drop_memsets(cudaGraph_t recorded) const {
  for (cudaGraphNode_t node : nodes_of(recorded)) {
    if (zeroes_these(node)) remove_node(recorded, node);
  }
}

struct Matmuls::State {
  Search search;
  cublasLtHandle_t handle = nullptr;
  std::map<Matmul, PreparedMatmul> prepared;

  explicit State(Search how) : search(how) { check(cublasLtCreate(&handle)); }
  ~State() { (void)cublasLtDestroy(handle); }

  const PreparedMatmul& find_or_prepare(const Matmul& shape);
  std::optional<MatmulAlgorithm> choose(MatmulDescription& description, const Matmul& shape);
};

const PreparedMatmul& Matmuls::State::find_or_prepare(const Matmul& shape) {
  const auto known = prepared.find(shape);
  if (known != prepared.end()) return known->second;
  PreparedMatmul made{std::make_unique<MatmulDescription>(shape), std::nullopt};
  made.algorithm = choose(*made.description, shape);
  return prepared.emplace(shape, std::move(made)).first->second;
}

std::optional<MatmulAlgorithm> Matmuls::State::choose(MatmulDescription& description,
                                                      const Matmul& shape) {
  const bool timed = search == Search::Timed;
  if (timed) {
    if (const auto known = TimedAlgorithms::of_process().find(shape)) return known;
  }
  std::vector<MatmulAlgorithm> candidates;
  for (const auto& one : description.algorithms(handle, shape, timed ? kCandidates : 1)) {
    candidates.push_back({one.algo, one.workspaceSize});
  }
  if (candidates.empty()) return std::nullopt;
  if (!timed) return candidates.front();
  const MatmulAlgorithm fastest = Trials(handle, description, shape).fastest(candidates);
  TimedAlgorithms::of_process().keep(shape, fastest);
  return fastest;
}

Matmuls::Matmuls(Search search) : state_(std::make_unique<State>(search)) {}
Matmuls::~Matmuls() = default;

bool Matmuls::can(const Matmul& shape) const {
  return !MatmulDescription(shape).algorithms(state_->handle, shape, 1).empty();
}

bool Matmuls::prepare(const Matmul& shape) {
  return state_->find_or_prepare(shape).algorithm.has_value();
}

std::size_t Matmuls::workspace_bytes(const Matmul& shape) {
  const PreparedMatmul& prepared = state_->find_or_prepare(shape);
  return prepared.algorithm ? prepared.algorithm->workspace_bytes : 0;
}

void Matmuls::run(const Matmul& shape, const MatmulArgs& args, std::span<std::byte> workspace,
                  cudaStream_t stream) {
  const PreparedMatmul& prepared = state_->find_or_prepare(shape);
  if (!prepared.algorithm) {
    throw DeviceError("cuBLASLt has no algorithm for " + shape.describe(), Where::here());
  }
  prepared.description->point(shape, args);
  check(prepared.description->run(state_->handle, shape, args, prepared.algorithm->chosen,
                                  workspace, stream));
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
