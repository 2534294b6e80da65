#include "kernels/cpu_math.hpp"

#include <cblas.h>
#include <fmt/core.h>
#include <sys/mman.h>

#include <limits>

namespace pipemoe::kernels {
namespace {

CBLAS_TRANSPOSE cblas(Transpose transpose) {
  return transpose == Transpose::Yes ? CblasTrans : CblasNoTrans;
}

blasint blas_size(std::int64_t size) {
  ensure(size >= 0 && size <= std::numeric_limits<std::int32_t>::max(), "gemm: size out of range");
  return static_cast<blasint>(size);
}

// By default OpenBLAS runs a thread on every core, and the ranks of one host share these cores.
void use_one_thread() {
  static const bool once = (openblas_set_num_threads(1), true);
  static_cast<void>(once);
}

}  // namespace

void check_fp32(const MoeLayer& layer) {
  if (layer.dtype == Dtype::Fp32) return;
  throw InputError(fmt::format("{}: dtype is {}, must be fp32 to be executed on CPUs", layer.name,
                               to_string(layer.dtype)));
}

void gemm(const Gemm& shape, std::span<const float> a, std::span<const float> b,
          std::span<float> c) {
  use_one_thread();
  const blasint m = blas_size(shape.m), n = blas_size(shape.n), k = blas_size(shape.k);
  check_size(a, shape.m * shape.k, "gemm: size of a");
  check_size(b, shape.k * shape.n, "gemm: size of b");
  check_size(c, shape.m * shape.n, "gemm: size of c");
  if (c.empty()) return;
  if (k == 0) {
    if (!shape.accumulate) std::fill(c.begin(), c.end(), 0.0f);
    return;
  }
  cblas_sgemm(CblasRowMajor, cblas(shape.transpose_a), cblas(shape.transpose_b), m, n, k, 1.0f,
              a.data(), shape.transpose_a == Transpose::Yes ? m : k, b.data(),
              shape.transpose_b == Transpose::Yes ? k : n, shape.accumulate ? 1.0f : 0.0f, c.data(),
              n);
}

void check_blas_memory(int threads) {
  constexpr std::size_t kBuffer = std::size_t{128} << 20;  // of the builds for x86-64 and arm64
  const std::size_t size = kBuffer * static_cast<std::size_t>(threads);
  void* buffers = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (buffers == MAP_FAILED) {
    throw RunError(fmt::format(
        "OpenBLAS needs {} MiB of address space for its buffers (see ulimit -v)", size >> 20));
  }
  munmap(buffers, size);
}

std::string blas_version() { return openblas_get_config(); }

}  // namespace pipemoe::kernels
