#include "kernels/device_common.cuh"
#include "kernels/device_permute.hpp"

namespace pipemoe::cuda {
namespace {

// How many blocks clear the unfilled slots of one expert.
constexpr int kClearBlocks = 8;
constexpr int kMostWarps = 8;

std::int64_t units_of(const DeviceRows& shape) {
  return shape.model_dim * size_of(shape.element) / kUnitBytes;
}

// A block takes one token; each of its threads takes one or a few units.
unsigned threads_for(std::int64_t units) {
  const std::int64_t threads = (units + 31) / 32 * 32;
  if (threads <= kMostWarps * 32) return static_cast<unsigned>(threads);
  for (const std::int64_t passes : {2, 3, 4, 5, 6, 7, 8}) {  // equal shares, if possible
    if (units % passes == 0 && units / passes <= kMostWarps * 32 && units / passes % 32 == 0) {
      return static_cast<unsigned>(units / passes);
    }
  }
  return kMostWarps * 32;
}

unsigned clearing_blocks(const DeviceRows& shape) {
  return shape.routing.dropless() ? 0
                                  : static_cast<unsigned>(shape.routing.num_experts * kClearBlocks);
}

// Returns a row. T is const for RowsIn.
template <class T, class Pointer>
__device__ T* row_at(const RowsOf<Pointer>& of, std::int32_t row, std::int64_t width) {
  const bool own = row >= of.own_begin;
  return static_cast<T*>(own ? of.own : of.rows) + (own ? row - of.own_begin : row) * width;
}

// Zeroes every kClearBlocks-th unfilled slot of an expert. `block` counts the blocks that clear.
template <class T>
__device__ void clear_slots(const DeviceRows& shape, const RowMap& map, int block,
                            const RowsOut& rows) {
  const int expert = block / kClearBlocks, experts = static_cast<int>(shape.routing.num_experts);
  const int capacity = static_cast<int>(shape.routing.capacity);
  const Unit<T> zero{};
  for (int slot = shape.counts[expert] + block % kClearBlocks; slot < capacity;
       slot += kClearBlocks) {
    T* row = row_at<T>(rows, row_of_slot(map, experts, expert, slot, capacity), shape.model_dim);
    for (std::int64_t i = threadIdx.x * kUnit<T>; i < shape.model_dim; i += blockDim.x * kUnit<T>) {
      store(row + i, zero);
    }
  }
}

// The rows of a token's choices, -1 where there is none. kChoices == 0 allows any number.
template <int kChoices>
struct Choices {
  static constexpr int kMost = kChoices == 0 ? static_cast<int>(kMostChoices) : kChoices;
  std::int32_t row[kMost];
  int count;

  __device__ Choices(const std::int32_t* row_of, std::int64_t token, std::int64_t top_k)
      : count(kChoices == 0 ? static_cast<int>(top_k) : kChoices) {
#pragma unroll
    for (int j = 0; j < kMost; ++j) row[j] = j < count ? row_of[token * top_k + j] : -1;
  }
};

template <class T, int kChoices>
__global__ void __launch_bounds__(kMostWarps * 32)
    permute_kernel(DeviceRows shape, DevicePermute args) {
  if (blockIdx.x >= shape.routing.tokens) {
    const auto block = static_cast<int>(blockIdx.x - shape.routing.tokens);
    clear_slots<T>(shape, args.map, block, args.rows);
    return;
  }
  const std::int64_t token = blockIdx.x;
  const Choices<kChoices> choices(args.map.row_of, token, shape.routing.top_k);
  const T* from = static_cast<const T*>(args.input) + token * shape.model_dim;
  for (std::int64_t i = threadIdx.x * kUnit<T>; i < shape.model_dim; i += blockDim.x * kUnit<T>) {
    const uint4 unit = *reinterpret_cast<const uint4*>(from + i);
#pragma unroll
    for (int j = 0; j < Choices<kChoices>::kMost; ++j) {
      if (choices.row[j] < 0) continue;
      T* row = row_at<T>(args.rows, choices.row[j], shape.model_dim);
      *reinterpret_cast<uint4*>(row + i) = unit;
    }
  }
}

template <class T, int kChoices>
__global__ void __launch_bounds__(kMostWarps * 32)
    combine_kernel(DeviceRows shape, DeviceCombine args) {
  const std::int64_t token = blockIdx.x;
  const Choices<kChoices> choices(args.map.row_of, token, shape.routing.top_k);
  float weight[Choices<kChoices>::kMost];
#pragma unroll
  for (int j = 0; j < Choices<kChoices>::kMost; ++j) {
    weight[j] = j < choices.count ? args.combine_weights[token * shape.routing.top_k + j] : 0;
  }
  T* output = static_cast<T*>(args.output) + token * shape.model_dim;
  for (std::int64_t i = threadIdx.x * kUnit<T>; i < shape.model_dim; i += blockDim.x * kUnit<T>) {
    uint4 packed[Choices<kChoices>::kMost];
    Unit<T> sum{};
#pragma unroll
    for (int j = 0; j < Choices<kChoices>::kMost; ++j) {
      if (choices.row[j] < 0) continue;
      packed[j] = load_packed(row_at<const T>(args.rows, choices.row[j], shape.model_dim) + i);
    }
#pragma unroll
    for (int j = 0; j < Choices<kChoices>::kMost; ++j) {
      if (choices.row[j] < 0) continue;
      Unit<T> values;
      unpack(packed[j], values);
#pragma unroll
      for (int v = 0; v < kUnit<T>; ++v) sum.value[v] += weight[j] * values.value[v];
    }
    store(output + i, sum);
  }
}

// One choice, as one lane of the first warp holds it. It is read before the rows, so that it has
// arrived when they are done.
struct LaneChoice {
  int expert = -1;
  float weight = 0, probability = 0;
  bool kept = false;

  __device__ LaneChoice(const DeviceRows& shape, const DeviceCombineBackward& args,
                        std::int64_t token, int lane) {
    const std::int64_t choice = token * shape.routing.top_k + lane;
    if (lane >= shape.routing.top_k) return;
    expert = args.experts[choice];
    weight = args.combine_weights[choice];
    kept = args.forward.row_of[choice] >= 0;
    probability = args.probabilities[token * shape.routing.num_experts + expert];
  }
};

// Computes d logit_e = p_e (g_e - sum_i p_i g_i) in one warp. Lane j has dw of choice j. g_e is the
// auxiliary loss's gradient plus, for a chosen expert with weight w = p / S, the gradient
// (dw - sum_j w_j dw_j) / S. If p_e is nearly 1, g_e - sum_i p_i g_i cancels; it is then computed
// as sum_i p_i (g_e - g_i). Only the most probable expert, a token's first choice, can be that one.
template <class T>
__device__ void logit_gradient(const DeviceRows& shape, const DeviceCombineBackward& args,
                               std::int64_t token, const LaneChoice& choice, float dw) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int top_k = static_cast<int>(shape.routing.top_k);
  const int experts = static_cast<int>(shape.routing.num_experts);
  const float* p = args.probabilities + token * experts;
  float gradient = dw;
  if (shape.routing.renormalize) {
    float above_mean = 0;
    for (int j = 0; j < top_k; ++j) {
      above_mean +=
          __shfl_sync(0xffffffffu, choice.weight, j) * (dw - __shfl_sync(0xffffffffu, dw, j));
    }
    gradient = above_mean / warp_sum(choice.probability);
  }
  const int top = __shfl_sync(0xffffffffu, choice.expert, 0);
  const float of_top = __shfl_sync(0xffffffffu, gradient, 0);
  const bool has_loss = args.auxiliary_loss_gradient != 0;
  const float factor = args.auxiliary_loss_gradient * static_cast<float>(experts) /
                       static_cast<float>(shape.routing.tokens);
  const float top_load = has_loss ? args.load[top] : 0;
  float mean = choice.expert >= 0 ? gradient * choice.probability : 0;
  float top_above = lane > 0 ? -mean : 0;  // g_top - mean; the top's own term is 0
  for (int e = lane; e < experts; e += 32) {
    if (e == top) {
      if (has_loss) mean += p[e] * factor * top_load;
      continue;
    }
    top_above += p[e] * of_top;
    if (!has_loss) continue;
    mean += p[e] * factor * args.load[e];
    top_above += p[e] * factor * (top_load - args.load[e]);
  }
  mean = warp_sum(mean);
  top_above = warp_sum(top_above);
  const int padded = static_cast<int>(args.padded_experts);
  for (int first = 0; first < padded; first += 32) {
    const int e = first + lane;
    const float pe = e < experts ? p[e] : 0;
    float g = has_loss && e < experts ? factor * args.load[e] : 0, weight = 0;
    for (int j = 0; j < top_k; ++j) {
      const float of = __shfl_sync(0xffffffffu, gradient, j);
      const float kept = __shfl_sync(0xffffffffu, choice.kept ? choice.weight : 0.0f, j);
      if (__shfl_sync(0xffffffffu, choice.expert, j) != e) continue;
      g += of;
      weight = kept;
    }
    if (e >= padded) continue;
    const std::int64_t at = token * padded + e;
    const float above = e == top ? top_above : g - mean;
    static_cast<T*>(args.logit_gradient)[at] = from_float<T>(e < experts ? pe * above : 0);
    if (args.expert_weights != nullptr) {
      static_cast<T*>(args.expert_weights)[at] = from_float<T>(weight);
    }
  }
}

// How many choices' rows are loaded at once.
template <int kMost>
inline constexpr int kAtOnce = kMost < 4 ? kMost : 4;

template <class T, int kChoices>
__global__ void __launch_bounds__(kMostWarps * 32, kChoices == 0 ? 2 : 4)
    combine_backward_kernel(DeviceRows shape, DeviceCombineBackward args) {
  constexpr int kMost = kChoices == 0 ? static_cast<int>(kMostChoices) : kChoices;
  if (blockIdx.x >= shape.routing.tokens) {
    const auto block = static_cast<int>(blockIdx.x - shape.routing.tokens);
    clear_slots<T>(shape, args.backward, block, args.row_gradient);
    return;
  }
  __shared__ float partial[kMostWarps][kMost];
  const std::int64_t token = blockIdx.x, top_k = shape.routing.top_k;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const LaneChoice choice(shape, args, token, warp == 0 ? lane : 32);
  // Few choices are kept in registers; many would take too many.
  constexpr bool kShared = kMost > 4;
  __shared__ float shared_weights[kMost];
  __shared__ std::int32_t shared_from[kMost], shared_to[kMost];
  float own_weights[kMost];
  std::int32_t own_from[kMost], own_to[kMost];
  if constexpr (kShared) {
    if (threadIdx.x < kMost) {
      const bool real = threadIdx.x < top_k;
      const std::int64_t at = token * top_k + threadIdx.x;
      shared_weights[threadIdx.x] = real ? args.combine_weights[at] : 0;
      shared_from[threadIdx.x] = real ? args.forward.row_of[at] : -1;
      shared_to[threadIdx.x] = real ? args.backward.row_of[at] : -1;
    }
    __syncthreads();
  } else {
#pragma unroll
    for (int j = 0; j < kMost; ++j) {
      own_weights[j] = args.combine_weights[token * kMost + j];
      own_from[j] = args.forward.row_of[token * kMost + j];
      own_to[j] = args.backward.row_of[token * kMost + j];
    }
  }
  const float* weights = kShared ? shared_weights : own_weights;
  const std::int32_t *from = kShared ? shared_from : own_from, *to = kShared ? shared_to : own_to;
  const T* gradient = static_cast<const T*>(args.output_gradient) + token * shape.model_dim;
  float dot[kMost] = {};
  for (std::int64_t i = threadIdx.x * kUnit<T>; i < shape.model_dim; i += blockDim.x * kUnit<T>) {
    const uint4 packed_gradient = load_packed(gradient + i);
#pragma unroll
    for (int first = 0; first < kMost; first += kAtOnce<kMost>) {
      uint4 packed[kAtOnce<kMost>];
#pragma unroll
      for (int j = 0; j < kAtOnce<kMost>; ++j) {
        if (from[first + j] < 0) continue;
        packed[j] = load_packed(row_at<const T>(args.rows, from[first + j], shape.model_dim) + i);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce<kMost>; ++j) {
        if (from[first + j] < 0) continue;
        Unit<T> dy, values, scaled;
        unpack(packed_gradient, dy);
        unpack(packed[j], values);
#pragma unroll
        for (int v = 0; v < kUnit<T>; ++v) {
          dot[first + j] += dy.value[v] * values.value[v];
          scaled.value[v] = weights[first + j] * dy.value[v];
        }
        store(row_at<T>(args.row_gradient, to[first + j], shape.model_dim) + i, scaled);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kMost; ++j) {
    const float sum = warp_sum(dot[j]);
    if (lane == 0) partial[warp][j] = sum;
  }
  __syncthreads();
  if (warp > 0) return;
  float dw = 0;
  if (lane < top_k) {
    for (unsigned w = 0; w < blockDim.x / 32; ++w) dw += partial[w][lane];
    if (args.combine_weight_gradient != nullptr) {
      args.combine_weight_gradient[token * top_k + lane] = dw;
    }
  }
  logit_gradient<T>(shape, args, token, choice, dw);
}

template <class T, int kChoices>
__global__ void __launch_bounds__(kMostWarps * 32)
    permute_backward_kernel(DeviceRows shape, DevicePermuteBackward args) {
  constexpr int kMost = Choices<kChoices>::kMost;
  const std::int64_t token = blockIdx.x;
  const Choices<kChoices> choices(args.map.row_of, token, shape.routing.top_k);
  const T* gate = static_cast<const T*>(args.gate_gradient) + token * shape.model_dim;
  T* to = static_cast<T*>(args.input_gradient) + token * shape.model_dim;
  for (std::int64_t i = threadIdx.x * kUnit<T>; i < shape.model_dim; i += blockDim.x * kUnit<T>) {
    uint4 packed[kMost];
    Unit<T> of_gate, sum{};
    load(gate + i, of_gate);
#pragma unroll
    for (int j = 0; j < kMost; ++j) {
      if (choices.row[j] < 0) continue;
      packed[j] =
          load_packed(row_at<const T>(args.row_gradient, choices.row[j], shape.model_dim) + i);
    }
#pragma unroll
    for (int j = 0; j < kMost; ++j) {
      if (choices.row[j] < 0) continue;
      Unit<T> values;
      unpack(packed[j], values);
#pragma unroll
      for (int v = 0; v < kUnit<T>; ++v) sum.value[v] += values.value[v];
    }
#pragma unroll
    for (int v = 0; v < kUnit<T>; ++v) sum.value[v] += of_gate.value[v];
    store(to + i, sum);
  }
}

constexpr int kMoveThreads = 256;

__global__ void move_kernel(MoveRows args) {
  const RowMove move = args.moves[blockIdx.y];
  const std::int64_t units = args.row_bytes / kUnitBytes;
  const auto* from = static_cast<const uint4*>(args.from) + move.from * units;
  auto* to = static_cast<uint4*>(args.to) + move.to * units;
  const std::int64_t step = std::int64_t{gridDim.x} * kMoveThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kMoveThreads + threadIdx.x;
       i < move.rows * units; i += step) {
    to[i] = from[i];
  }
}

// Calls launch.operator()<T, kChoices>(); kChoices is 0 for an uncommon top_k.
template <class Launch>
void with_choices(const DeviceRows& shape, Launch launch) {
  ensure(shape.model_dim * size_of(shape.element) % kUnitBytes == 0, "rows: width");
  ensure(shape.routing.top_k <= kMostChoices, "rows: top_k");
  with_type(shape.element, [&]<class T>(T) {
    switch (shape.routing.top_k) {
      case 1:
        return launch.template operator()<T, 1>();
      case 2:
        return launch.template operator()<T, 2>();
      case 4:
        return launch.template operator()<T, 4>();
      case 8:
        return launch.template operator()<T, 8>();
      default:
        return launch.template operator()<T, 0>();
    }
  });
  check(cudaGetLastError());
}

}  // namespace

void permute(const DeviceRows& shape, const DevicePermute& args, cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>(shape.routing.tokens) + clearing_blocks(shape);
  with_choices(shape, [&]<class T, int kChoices>() {
    permute_kernel<T, kChoices><<<blocks, threads_for(units_of(shape)), 0, stream>>>(shape, args);
  });
}

void combine(const DeviceRows& shape, const DeviceCombine& args, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(shape.routing.tokens);
  with_choices(shape, [&]<class T, int kChoices>() {
    combine_kernel<T, kChoices><<<blocks, threads_for(units_of(shape)), 0, stream>>>(shape, args);
  });
}

void combine_backward(const DeviceRows& shape, const DeviceCombineBackward& args,
                      cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>(shape.routing.tokens) + clearing_blocks(shape);
  with_choices(shape, [&]<class T, int kChoices>() {
    combine_backward_kernel<T, kChoices>
        <<<blocks, threads_for(units_of(shape)), 0, stream>>>(shape, args);
  });
}

void permute_backward(const DeviceRows& shape, const DevicePermuteBackward& args,
                      cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(shape.routing.tokens);
  with_choices(shape, [&]<class T, int kChoices>() {
    permute_backward_kernel<T, kChoices>
        <<<blocks, threads_for(units_of(shape)), 0, stream>>>(shape, args);
  });
}

void move_rows(const MoveRows& args, cudaStream_t stream) {
  if (args.count == 0 || args.most_rows == 0) return;
  const std::int64_t units = args.most_rows * args.row_bytes / kUnitBytes;
  const dim3 blocks(blocks_for(units, 4 * kMoveThreads, 4096), static_cast<unsigned>(args.count));
  move_kernel<<<blocks, kMoveThreads, 0, stream>>>(args);
  check(cudaGetLastError());
}

}  // namespace pipemoe::cuda
