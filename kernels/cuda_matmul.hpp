// Batched matrix products on a GPU through cuBLASLt. The algorithm of each shape is chosen once.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/cuda.hpp"

namespace pipemoe::cuda {

/// What happens to a product before it is stored.
enum class Epilogue {
  None,
  Bias,              ///< adds the bias, one value for each of the n columns
  Relu,              ///< applies ReLU
  ReluBias,          ///< adds the bias, then applies ReLU
  ReluBiasMask,      ///< as ReluBias; also stores a mask of the positive values
  ReluGradient,      ///< multiplies by the mask
  ReluGradientBias,  ///< multiplies by the mask; stores the column sums in the bias
  BiasGradientB,     ///< stores the sums of b's columns over k in the bias
};

/// d[m, n] = epilogue(op(a)[m, k] * op(b)[k, n]), row-major, for each matrix of the batch. A
/// transposed operand is stored transposed. Strides and leading dimensions count elements.
struct Matmul {
  std::int64_t m = 0, n = 0, k = 0, batch = 1;
  bool transpose_a = false, transpose_b = false;
  std::int64_t lda = 0, ldb = 0, ldd = 0;                 ///< from one stored row to the next
  std::int64_t stride_a = 0, stride_b = 0, stride_d = 0;  ///< from one matrix to the next
  Element in = Element::Fp32;                             ///< type of a and b
  Element out = Element::Fp32;                            ///< type of d and of the bias
  bool accumulate = false;                                ///< adds to d
  bool tf32 = false;        ///< lets the library round fp32 operands to ten bits of mantissa
  int multiprocessors = 0;  ///< how many the kernel may use; 0: all
  /// The product runs with a workspace of ZeroedWorkspaces if it is small, and memsets of it are
  /// dropped from the recording. Search::Timed times it in that way.
  bool zeroed = false;
  Epilogue epilogue = Epilogue::None;
  std::int64_t stride_bias = 0;
  std::int64_t mask_ld = 0;      ///< bits from one row's mask to the next: a multiple of 128
  std::int64_t stride_mask = 0;  ///< bits from one matrix' mask to the next

  double flops() const {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) *
           static_cast<double>(batch);
  }
  std::string describe() const;
  auto operator<=>(const Matmul&) const = default;
};

struct MatmulArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  void* d = nullptr;
  void* bias = nullptr;  ///< read or written, depending on the epilogue
  void* mask = nullptr;  ///< 16-byte aligned
};

/// A workspace for products that run one after another.
class Workspace {
 public:
  static constexpr std::size_t kBytes = 64u << 20;
  Workspace() : buffer_(kBytes) {}
  std::span<std::byte> all() const { return {buffer_.data(), buffer_.bytes()}; }

 private:
  DeviceBuffer buffer_;
};

/// Small workspaces, one for each product of an iteration that needs only a few bytes. They are
/// zeroed together when the iteration begins.
///
/// Some algorithms need a workspace of zeros, and cuBLASLt enqueues a memset before each of their
/// kernels. In a CUDA graph this memset takes 5 us, and 15 us beside copies to another GPU (H200,
/// CUDA 13.0, kernel traces). drop_memsets() removes it from the recording.
class ZeroedWorkspaces {
 public:
  static constexpr std::size_t kMost = 16384;  ///< largest workspace, in bytes
  /// Bytes that a workspace of `needed` bytes occupies. 0 if none is needed, or one above kMost.
  static std::size_t size_of(std::size_t needed);

  ZeroedWorkspaces() = default;
  explicit ZeroedWorkspaces(std::size_t bytes) : words_(bytes) {}

  /// All workspaces, a whole number of words. Zero them before the first one of an iteration is
  /// used.
  std::span<std::byte> all() const { return {words_.data(), words_.bytes()}; }
  /// Starts again with the first workspace.
  void begin_iteration() { taken_ = 0; }
  /// Returns the next workspace; empty if size_of(needed) is 0 or no space is left.
  std::span<std::byte> take(std::size_t needed);
  /// Removes the memsets of these workspaces from a recording. What followed a memset then follows
  /// what preceded it.
  void drop_memsets(cudaGraph_t recorded) const;

 private:
  bool zeroes_these(cudaGraphNode_t node) const;

  DeviceBuffer words_;
  std::size_t taken_ = 0;
};

enum class Search {
  Heuristic,  ///< takes the library's first choice, which is the same in every process
  Timed,      ///< times the library's choices on random data when a shape first appears
};

/// The chosen algorithms, by shape. Not thread-safe.
class Matmuls {
 public:
  explicit Matmuls(Search search);
  ~Matmuls();
  Matmuls(const Matmuls&) = delete;
  Matmuls& operator=(const Matmuls&) = delete;

  /// Returns whether the library has an algorithm. It lacks some epilogues for some types and
  /// batches.
  bool can(const Matmul& shape) const;
  /// Chooses the algorithm if that has not been done yet. Returns false if there is none. With
  /// Search::Timed it waits for the device.
  bool prepare(const Matmul& shape);
  /// Returns how many bytes of workspace the algorithm needs. Prepares the shape.
  std::size_t workspace_bytes(const Matmul& shape);
  /// Asynchronous on `stream`, but prepares the shape first, which may wait for the device.
  /// Throws DeviceError if the library has no algorithm.
  void run(const Matmul& shape, const MatmulArgs& args, std::span<std::byte> workspace,
           cudaStream_t stream);

  /// The version of cuBLASLt, for example "13.0.2".
  static std::string version();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pipemoe::cuda
