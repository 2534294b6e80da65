// What the .cu files share: units of 16 bytes as fp32 values, warp sums, sizes of launches, and
// which row a slot has.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/device_routing.hpp"

namespace pipemoe::cuda {

template <class T>
inline constexpr int kUnit = kUnitBytes / sizeof(T);  ///< values in a unit

/// One unit of a row, converted to fp32.
template <class T>
struct Unit {
  float value[kUnit<T>];
};

__device__ inline void load(const float* from, Unit<float>& to) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to.value[0] = v.x, to.value[1] = v.y, to.value[2] = v.z, to.value[3] = v.w;
}

__device__ inline void unpack(const uint4& v, Unit<__nv_bfloat16>& to) {
  const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to.value[2 * i] = __uint_as_float(words[i] << 16);
    to.value[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

__device__ inline void unpack(const uint4& v, Unit<float>& to) {
  to.value[0] = __uint_as_float(v.x), to.value[1] = __uint_as_float(v.y);
  to.value[2] = __uint_as_float(v.z), to.value[3] = __uint_as_float(v.w);
}

/// Reads a unit without converting it: for bf16 this takes half the registers of Unit.
template <class T>
__device__ uint4 load_packed(const T* from) {
  return *reinterpret_cast<const uint4*>(from);
}

__device__ inline void load(const __nv_bfloat16* from, Unit<__nv_bfloat16>& to) {
  unpack(*reinterpret_cast<const uint4*>(from), to);
}

__device__ inline void store(float* to, const Unit<float>& from) {
  *reinterpret_cast<float4*>(to) =
      make_float4(from.value[0], from.value[1], from.value[2], from.value[3]);
}

__device__ inline void store(__nv_bfloat16* to, const Unit<__nv_bfloat16>& from) {
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(from.value[2 * i], from.value[2 * i + 1]);
    words[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
  }
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Returns the sum over the warp to every lane.
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}

/// Calls launch(T{}), where T is the C++ type of the element.
template <class Launch>
void with_type(Element element, Launch launch) {
  if (element == Element::Fp32) {
    launch(float{});
  } else {
    launch(__nv_bfloat16{});
  }
}

/// Returns how many blocks cover `count` items; at least 1. Above `limit` it returns `limit`, and
/// the kernel must loop.
inline unsigned blocks_for(std::int64_t count, std::int64_t per_block,
                           std::int64_t limit = 1 << 30) {
  const std::int64_t blocks = (count + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > limit ? limit : blocks);
}

/// rows_before_chunk() and chunk_of_row() of kernels/routing.hpp.
__device__ inline int rows_before(int rows, int degree, int chunk) {
  return chunk * (rows / degree) + min(chunk, rows % degree);
}

__device__ inline int chunk_of(int row, int rows, int degree) {
  const int least = rows / degree, larger = rows % degree;
  const int in_larger = larger * (least + 1);
  return row < in_larger ? row / (least + 1) : larger + (row - in_larger) / least;
}

/// Returns the row of a slot. `rows`: how many rows the expert has in all chunks.
__device__ inline int row_of_slot(const RowMap& map, int experts, int expert, int slot, int rows) {
  const int degree = static_cast<int>(map.degree);
  if (degree == 1) return map.block_begin[expert] + slot;
  if (map.bounds != nullptr) {
    int block = 0;
    while (slot >= map.bounds[block + 1]) ++block;
    return map.block_begin[block * experts + expert] + slot - map.bounds[block];
  }
  const int chunk = chunk_of(slot, rows, degree);
  return map.block_begin[chunk * experts + expert] + slot - rows_before(rows, degree, chunk);
}

}  // namespace pipemoe::cuda
