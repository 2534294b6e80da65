#include "kernels/device_activation.hpp"
#include "kernels/device_common.cuh"

namespace pipemoe::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float normal_cdf(float x) { return 0.5f * erfcf(-0.70710678f * x); }
__device__ float gelu(float x) { return x * normal_cdf(x); }
__device__ float gelu_derivative(float x) {
  return normal_cdf(x) + x * 0.39894228f * expf(-0.5f * x * x);
}
__device__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

// The unit that a thread processes. blockIdx.z is the expert.
struct Place {
  std::int64_t row;
  std::int64_t column;
  bool inside;
};
template <class T>
__device__ Place place_of(const ExpertRows& rows, std::int64_t width) {
  const std::int64_t units = width / kUnit<T>;
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t row = i / units;
  return {blockIdx.z * rows.stride + row, (i - row * units) * kUnit<T>, row < rows.rows};
}

template <class T>
__global__ void activate_kernel(ExpertRows rows, Activate args) {
  const Place place = place_of<T>(rows, args.hidden_dim);
  if (!place.inside) return;
  const bool gated = args.activation == DeviceActivation::SwiGlu;
  const std::int64_t width = gated ? 2 * args.hidden_dim : args.hidden_dim;
  T* input = static_cast<T*>(args.input) + place.row * width + place.column;
  const T* bias = static_cast<const T*>(args.bias) + blockIdx.z * width + place.column;
  Unit<T> x, up{}, b, y;
  load(input, x);
  if (gated) load(input + args.hidden_dim, up);
  if (args.bias != nullptr) {
    load(bias, b);
#pragma unroll
    for (int v = 0; v < kUnit<T>; ++v) x.value[v] += b.value[v];
    if (gated) {
      load(bias + args.hidden_dim, b);
#pragma unroll
      for (int v = 0; v < kUnit<T>; ++v) up.value[v] += b.value[v];
    }
    if (args.input != args.output) store(input, x);
    if (gated) store(input + args.hidden_dim, up);
  }
#pragma unroll
  for (int v = 0; v < kUnit<T>; ++v) {
    const float in = x.value[v];
    y.value[v] = args.activation == DeviceActivation::Relu   ? (in < 0 ? 0 : in)  // keeps NaN
                 : args.activation == DeviceActivation::Gelu ? gelu(in)
                                                             : in * sigmoid(in) * up.value[v];
  }
  store(static_cast<T*>(args.output) + place.row * args.hidden_dim + place.column, y);
}

template <class T>
__global__ void add_bias_kernel(ExpertRows rows, AddBias args) {
  const Place place = place_of<T>(rows, args.width);
  if (!place.inside) return;
  T* values = static_cast<T*>(args.values) + place.row * args.width + place.column;
  Unit<T> x, b;
  load(values, x);
  load(static_cast<const T*>(args.bias) + blockIdx.z * args.width + place.column, b);
#pragma unroll
  for (int v = 0; v < kUnit<T>; ++v) x.value[v] += b.value[v];
  store(values, x);
}

// A block sums kSliceRows rows of 32 units. Its eight warps take every eighth row each, and their
// sums are added at the end.
constexpr std::int64_t kSliceRows = 128;
constexpr int kWarps = 8;

__host__ __device__ std::int64_t slices_of(std::int64_t rows) {
  return (rows + kSliceRows - 1) / kSliceRows;
}

// The rows and the column of a thread of such a block.
struct Slice {
  int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  std::int64_t first = blockIdx.y * kSliceRows + warp, end;

  __device__ explicit Slice(std::int64_t rows)
      : end(min(static_cast<long long>(blockIdx.y * kSliceRows + kSliceRows),
                static_cast<long long>(rows))) {}
  template <class T>
  __device__ std::int64_t column() const {
    return (std::int64_t{blockIdx.x} * 32 + lane) * kUnit<T>;
  }
};

template <class T>
using WarpSums = Unit<T>[kWarps][32];

// Adds the warps' sums in order; the first warp writes the result to `to`. All threads must call
// it.
template <class T>
__device__ void add_warps(WarpSums<T>& sums, const Slice& slice, Unit<T> sum, bool inside,
                          float* to) {
  sums[slice.warp][slice.lane] = sum;
  __syncthreads();
  if (slice.warp == 0 && inside) {
    for (int w = 1; w < kWarps; ++w) {
#pragma unroll
      for (int v = 0; v < kUnit<T>; ++v) sum.value[v] += sums[w][slice.lane].value[v];
    }
#pragma unroll
    for (int v = 0; v < kUnit<T>; ++v) to[v] = sum.value[v];
  }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kThreads) sum_columns_kernel(ExpertRows rows, SumColumns args) {
  __shared__ WarpSums<T> sums;
  const Slice slice(rows.rows);
  const std::int64_t column = slice.column<T>();
  const T* values = static_cast<const T*>(args.values) + blockIdx.z * rows.stride * args.width;
  Unit<T> sum{};
  const bool inside = column < args.width;
  if (inside) {
#pragma unroll 8
    for (std::int64_t row = slice.first; row < slice.end; row += kWarps) {
      Unit<T> x;
      load(values + row * args.width + column, x);
#pragma unroll
      for (int v = 0; v < kUnit<T>; ++v) sum.value[v] += x.value[v];
    }
  }
  const std::int64_t at = std::int64_t{blockIdx.y} * gridDim.z + blockIdx.z;
  add_warps<T>(sums, slice, sum, inside, args.partial + at * args.width + column);
}

template <class T, DeviceActivation kActivation>
__global__ void __launch_bounds__(kThreads, kActivation == DeviceActivation::Relu ? 4 : 2)
    activate_backward_kernel(ExpertRows rows, ActivateBackward args) {
  constexpr bool kGated = kActivation == DeviceActivation::SwiGlu;
  __shared__ WarpSums<T> sums;
  const Slice slice(rows.rows);
  const std::int64_t column = slice.column<T>(), hidden = args.hidden_dim;
  const std::int64_t width = kGated ? 2 * hidden : hidden;
  const std::int64_t first_row = blockIdx.z * rows.stride;
  const T* input = static_cast<const T*>(args.input) + first_row * width + column;
  const T* gradient = static_cast<const T*>(args.output_gradient) + first_row * hidden + column;
  T* to = static_cast<T*>(args.input_gradient) + first_row * width + column;
  Unit<T> sum{}, up_sum{};
  const bool inside = column < hidden;
  if (inside) {
#pragma unroll 4
    for (std::int64_t row = slice.first; row < slice.end; row += kWarps) {
      Unit<T> x, up{}, g, dx, dup;
      load(input + row * width, x);
      if (kGated) load(input + row * width + hidden, up);
      load(gradient + row * hidden, g);
#pragma unroll
      for (int v = 0; v < kUnit<T>; ++v) {
        const float in = x.value[v], of = g.value[v];
        if (kActivation == DeviceActivation::Relu) {
          dx.value[v] = in > 0 ? of : 0;
        } else if (kActivation == DeviceActivation::Gelu) {
          dx.value[v] = of * gelu_derivative(in);
        } else {
          const float s = sigmoid(in), silu = in * s;
          dx.value[v] = of * up.value[v] * (s + silu * (1 - s));
          dup.value[v] = of * silu;
          up_sum.value[v] += dup.value[v];
        }
        sum.value[v] += dx.value[v];
      }
      store(to + row * width, dx);
      if (kGated) store(to + row * width + hidden, dup);
    }
  }
  if (args.partial == nullptr) return;
  const std::int64_t at = std::int64_t{blockIdx.y} * gridDim.z + blockIdx.z;
  add_warps<T>(sums, slice, sum, inside, args.partial + at * width + column);
  if (kGated)
    add_warps<T>(sums, slice, up_sum, inside, args.partial + at * width + hidden + column);
}

// sums[i] = sum over the slices of partial[slice, i], plus sums[i] if `accumulate`.
template <class T>
__global__ void end_sums_kernel(const float* partial, std::int64_t slices, std::int64_t stride,
                                std::int64_t count, T* sums, bool accumulate) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  float sum = accumulate ? to_float(sums[i]) : 0;
#pragma unroll 16
  for (std::int64_t slice = 0; slice < slices; ++slice) sum += partial[slice * stride + i];
  sums[i] = from_float<T>(sum);
}

constexpr std::int64_t kTokenSlice = 128;

// blockIdx.z selects one of the two sums.
template <class T, int kExperts>
__global__ void __launch_bounds__(kThreads)
    sum_tokens_kernel(SumTokensShape shape, SumTokens one, SumTokens two, float* scratch) {
  __shared__ WarpSums<T> sums;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t column = (std::int64_t{blockIdx.x} * 32 + lane) * kUnit<T>;
  const std::int64_t first = blockIdx.y * kTokenSlice + warp;
  const std::int64_t end =
      min(static_cast<long long>(first - warp + kTokenSlice), static_cast<long long>(shape.tokens));
  const SumTokens& args = blockIdx.z == 0 ? one : two;
  const T* values = static_cast<const T*>(args.values) + column;
  const T* coefficients = static_cast<const T*>(args.coefficients);
  Unit<T> sum[kExperts] = {};
  const bool inside = column < shape.width;
  if (inside) {
#pragma unroll 4
    for (std::int64_t token = first; token < end; token += kWarps) {
      Unit<T> x;
      load(values + token * shape.width, x);
#pragma unroll
      for (int e = 0; e < kExperts; ++e) {
        if (e >= shape.num_experts) continue;
        const float of = to_float(coefficients[token * shape.padded_experts + e]);
#pragma unroll
        for (int v = 0; v < kUnit<T>; ++v) sum[e].value[v] += of * x.value[v];
      }
    }
  }
  Slice slice(0);
  float* to = scratch + (blockIdx.y * gridDim.z + blockIdx.z) * shape.num_experts * shape.width;
#pragma unroll
  for (int e = 0; e < kExperts; ++e) {
    if (e >= shape.num_experts) continue;
    add_warps<T>(sums, slice, sum[e], inside, to + e * shape.width + column);
  }
}

template <class T>
void launch_sum_tokens(const SumTokensShape& shape, const SumTokens& one, const SumTokens& two,
                       float* scratch, dim3 blocks, cudaStream_t stream) {
  if (shape.num_experts <= 2) {
    sum_tokens_kernel<T, 2><<<blocks, kThreads, 0, stream>>>(shape, one, two, scratch);
  } else {
    sum_tokens_kernel<T, 4><<<blocks, kThreads, 0, stream>>>(shape, one, two, scratch);
  }
}

dim3 unit_blocks(const ExpertRows& rows, std::int64_t width) {
  const std::int64_t units = rows.rows * width * size_of(rows.element) / kUnitBytes;
  return {blocks_for(units, kThreads), 1, static_cast<unsigned>(rows.experts)};
}

template <class T>
dim3 slice_blocks(const ExpertRows& rows, std::int64_t width) {
  return {blocks_for(width, 32 * kUnit<T>), static_cast<unsigned>(slices_of(rows.rows)),
          static_cast<unsigned>(rows.experts)};
}

bool nothing(const ExpertRows& rows) { return rows.rows == 0 || rows.experts == 0; }

}  // namespace

void activate(const ExpertRows& rows, const Activate& args, cudaStream_t stream) {
  if (nothing(rows)) return;
  with_type(rows.element, [&]<class T>(T) {
    activate_kernel<T><<<unit_blocks(rows, args.hidden_dim), kThreads, 0, stream>>>(rows, args);
  });
  check(cudaGetLastError());
}

void activate_backward(const ExpertRows& rows, const ActivateBackward& args, cudaStream_t stream) {
  if (nothing(rows)) return;
  with_type(rows.element, [&]<class T>(T) {
    const dim3 blocks = slice_blocks<T>(rows, args.hidden_dim);
    switch (args.activation) {
      case DeviceActivation::Relu:
        activate_backward_kernel<T, DeviceActivation::Relu>
            <<<blocks, kThreads, 0, stream>>>(rows, args);
        break;
      case DeviceActivation::Gelu:
        activate_backward_kernel<T, DeviceActivation::Gelu>
            <<<blocks, kThreads, 0, stream>>>(rows, args);
        break;
      case DeviceActivation::SwiGlu:
        activate_backward_kernel<T, DeviceActivation::SwiGlu>
            <<<blocks, kThreads, 0, stream>>>(rows, args);
        break;
    }
  });
  check(cudaGetLastError());
}

void add_bias(const ExpertRows& rows, const AddBias& args, cudaStream_t stream) {
  if (nothing(rows)) return;
  with_type(rows.element, [&]<class T>(T) {
    add_bias_kernel<T><<<unit_blocks(rows, args.width), kThreads, 0, stream>>>(rows, args);
  });
  check(cudaGetLastError());
}

std::int64_t partial_sums_size(const ExpertRows& rows, std::int64_t width) {
  return slices_of(rows.rows) * rows.experts * width;
}

void sum_columns(const ExpertRows& rows, const SumColumns& args, cudaStream_t stream) {
  if (nothing(rows)) return;
  with_type(rows.element, [&]<class T>(T) {
    sum_columns_kernel<T><<<slice_blocks<T>(rows, args.width), kThreads, 0, stream>>>(rows, args);
  });
  check(cudaGetLastError());
}

void add_partial_sums(const ExpertRows& rows, const AddPartialSums& args, cudaStream_t stream) {
  const std::int64_t count = rows.experts * args.width;
  if (count == 0) return;
  with_type(rows.element, [&]<class T>(T) {
    end_sums_kernel<T><<<blocks_for(count, kThreads), kThreads, 0, stream>>>(
        args.partial, slices_of(rows.rows), count, count, static_cast<T*>(args.sums),
        args.accumulate);
  });
  check(cudaGetLastError());
}

std::int64_t sum_tokens_scratch(const SumTokensShape& shape) {
  return 2 * ((shape.tokens + kTokenSlice - 1) / kTokenSlice) * shape.num_experts * shape.width;
}

void sum_tokens(const SumTokensShape& shape, const SumTokens& first, const SumTokens& second,
                float* scratch, cudaStream_t stream) {
  ensure(shape.num_experts <= kFewExperts, "sum_tokens: experts");
  const unsigned sums = second.values == nullptr ? 1 : 2;
  const std::int64_t slices = (shape.tokens + kTokenSlice - 1) / kTokenSlice;
  const std::int64_t count = shape.num_experts * shape.width;
  with_type(shape.element, [&]<class T>(T) {
    const dim3 blocks(blocks_for(shape.width, 32 * kUnit<T>), static_cast<unsigned>(slices), sums);
    launch_sum_tokens<T>(shape, first, second, scratch, blocks, stream);
  });
  check(cudaGetLastError());
  for (unsigned i = 0; i < sums; ++i) {
    const SumTokens& args = i == 0 ? first : second;
    with_type(args.sums_element, [&]<class To>(To) {
      end_sums_kernel<To><<<blocks_for(count, kThreads), kThreads, 0, stream>>>(
          scratch + i * count, slices, sums * count, count, static_cast<To*>(args.sums), false);
    });
    check(cudaGetLastError());
  }
}

}  // namespace pipemoe::cuda
