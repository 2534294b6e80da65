// Small workspaces of matrix products, zeroed all at once.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/cuda.hpp"

namespace pipemoe::cuda {

/// A workspace of its own for each product of an iteration that needs only a few bytes. Some
/// algorithms need theirs to be zero, and cuBLASLt gives a memset before each of their kernels: in
/// a CUDA graph 5 us, beside copies to another GPU 15 (H200, CUDA 13.0, kernel traces). With all
/// zeroed when an iteration begins, its recording can do without them.
class ZeroedWorkspaces {
 public:
  static constexpr std::size_t kMost = 16384;  ///< bytes of one
  /// What a workspace of `needed` bytes takes of `bytes`; 0 of none, and of one that is not small.
  static std::size_t size_of(std::size_t needed);

  ZeroedWorkspaces() = default;
  explicit ZeroedWorkspaces(std::size_t bytes) : words_(bytes) {}

  /// What must be zeroed before the first of an iteration is used: whole words.
  std::span<std::byte> all() const { return {words_.data(), words_.bytes()}; }
  /// The next ones taken are the first again.
  void begin_iteration() { taken_ = 0; }
  /// Empty where size_of(needed) is 0 or where there are no more.
  std::span<std::byte> take(std::size_t needed);
  /// Takes memsets of these workspaces out of what was recorded: what followed them follows what
  /// came before.
  void drop_memsets(cudaGraph_t recorded) const;

 private:
  bool zeroes_these(cudaGraphNode_t node) const;

  DeviceBuffer words_;
  std::size_t taken_ = 0;
};

}  // namespace pipemoe::cuda
