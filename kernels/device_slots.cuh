// Which row a slot has: kernels/routing.hpp's arithmetic on the device.
#pragma once

#include "kernels/device_routing.hpp"

namespace pipemoe::cuda {

__device__ inline int rows_before(int rows, int degree, int chunk) {
  return chunk * (rows / degree) + min(chunk, rows % degree);
}

__device__ inline int chunk_of(int row, int rows, int degree) {
  const int least = rows / degree, larger = rows % degree;
  const int in_larger = larger * (least + 1);
  return row < in_larger ? row / (least + 1) : larger + (row - in_larger) / least;
}

/// `rows`: all of the expert's.
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
