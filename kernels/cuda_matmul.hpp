// Batched matrix products through cuBLASLt, each shape's algorithm chosen once.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/cuda.hpp"
#include "kernels/device_types.hpp"

namespace pipemoe::cuda {

/// What happens to a product on its way to memory.
enum class Epilogue {
  None,
  Bias,              ///< + bias, one value for each of the n columns
  Relu,              ///< relu
  ReluBias,          ///< relu(+ bias)
  ReluBiasMask,      ///< the same, and a mask of what was positive
  ReluGradient,      ///< times the mask
  ReluGradientBias,  ///< times the mask; the bias gets the column sums
  BiasGradientB,     ///< the bias gets the sums of b's columns over the depth k
};

/// d[m, n] = epilogue(op(a)[m, k] * op(b)[k, n]), row-major, for each of `batch`; a transposed
/// operand is stored as what transposes it. Strides and leading dimensions are in elements.
struct Matmul {
  std::int64_t m = 0, n = 0, k = 0, batch = 1;
  bool transpose_a = false, transpose_b = false;
  std::int64_t lda = 0, ldb = 0, ldd = 0;                 ///< from one stored row to the next
  std::int64_t stride_a = 0, stride_b = 0, stride_d = 0;  ///< from one batch to the next
  Element in = Element::Fp32;                             ///< of a and b
  Element out = Element::Fp32;                            ///< of d and of the bias
  bool accumulate = false;                                ///< adds to d
  bool tf32 = false;        ///< fp32 operands may be rounded to ten bits
  int multiprocessors = 0;  ///< of the device, that it is to use; 0: all
  /// Its workspace is one of ZeroedWorkspaces where that is small, and memsets of it are dropped.
  bool zeroed = false;
  Epilogue epilogue = Epilogue::None;
  std::int64_t stride_bias = 0;
  std::int64_t mask_ld = 0;      ///< bits from one row's mask to the next: a multiple of 128
  std::int64_t stride_mask = 0;  ///< bits

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
  void* bias = nullptr;  ///< read, or written as the epilogue says
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

enum class Search {
  Heuristic,  ///< the library's first choice: the same in every process
  Timed,      ///< the fastest of its choices on random data, timed where a shape first appears
};

/// Algorithms by shape. Not for use from several threads.
class Matmuls {
 public:
  explicit Matmuls(Search search);
  ~Matmuls();
  Matmuls(const Matmuls&) = delete;
  Matmuls& operator=(const Matmuls&) = delete;

  /// Whether the library has an algorithm; epilogues lack one for some types and batches.
  bool can(const Matmul& shape) const;
  /// Chooses the algorithm unless that is done; false when there is none. Waits for the device
  /// under Search::Timed.
  bool prepare(const Matmul& shape);
  /// Of a workspace for the product: as many as its algorithm needs. Prepares first.
  std::size_t workspace_bytes(const Matmul& shape);
  /// Asynchronous; prepares first, so that a shape not prepared may wait for the device.
  /// Throws DeviceError when the library has no algorithm.
  void run(const Matmul& shape, const MatmulArgs& args, std::span<std::byte> workspace,
           cudaStream_t stream);

  /// "13.0.2".
  static std::string version();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pipemoe::cuda
