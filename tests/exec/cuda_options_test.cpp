// What the CUDA executor refuses, tested without a device.
#include <catch2/catch.hpp>

#include "exec/cuda_executor.hpp"
#include "exec/executor.hpp"
#include "models/error.hpp"
#include "tests/exec/executed_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;
using Catch::Contains;

namespace {

const cuda::Device kTuring{.name = "RTX 2080 Ti", .major = 7, .minor = 5};
const cuda::Device kAmpere{.name = "A100", .major = 8, .minor = 0};

cuda::DeviceLayerShape shape(cuda::Element element) {
  return {.tokens = 16,
          .model_dim = 16,
          .hidden_dim = 8,
          .num_experts = 4,
          .top_k = 2,
          .element = element};
}

ExecutorOptions cuda_with(const char* communicator) {
  ExecutorOptions options;
  options.backend = "cuda";
  options.communicator = communicator;
  return options;
}

}  // namespace

TEST_CASE("bf16 is refused on a GPU of compute capability 7.5", "[exec][cuda]") {
  CHECK_THROWS_AS(cuda::check_runs_on(shape(cuda::Element::Bf16), kTuring), InputError);
  CHECK_THROWS_WITH(cuda::check_runs_on(shape(cuda::Element::Bf16), kTuring),
                    Contains("dtype is bf16") && Contains("RTX 2080 Ti") && Contains("7.5"));
  CHECK_NOTHROW(cuda::check_runs_on(shape(cuda::Element::Fp32), kTuring));
  CHECK_NOTHROW(cuda::check_runs_on(shape(cuda::Element::Bf16), kAmpere));
}

TEST_CASE("rows that are no whole 16-byte units are refused", "[exec][cuda]") {
  auto narrow = shape(cuda::Element::Bf16);
  narrow.hidden_dim = 12;
  CHECK_THROWS_WITH(cuda::check_runs_on(narrow, kAmpere),
                    Contains("hidden_dim is 12, must be a multiple of 8 for bf16"));
  narrow.element = cuda::Element::Fp32;
  CHECK_NOTHROW(cuda::check_runs_on(narrow, kAmpere));
}

TEST_CASE("exchanges of equal parts refuse a dropless layer, and say what takes it",
          "[exec][cuda]") {
  const MoeLayer dropless = prime_layer(2, std::nullopt);
  const auto check = [&](CudaCommunicatorKind communicator) {
    CudaExecutor::check(dropless, {.communicator = communicator}, 1);
  };
  CHECK_THROWS_AS(check(CudaCommunicatorKind::NcclZeroCta), InputError);
  CHECK_THROWS_WITH(check(CudaCommunicatorKind::NcclZeroCta),
                    Contains("nccl-zero-cta") && Contains("dropless") && Contains("use nccl"));
  CHECK_THROWS_WITH(check(CudaCommunicatorKind::PeerCopy),
                    Contains("peer-copy") && Contains("dropless") && Contains("use nccl"));
}

TEST_CASE("rows can be read as delivered with a capacity only, and on GPUs", "[exec][cuda]") {
  CHECK_THROWS_WITH(CudaExecutor::check(prime_layer(2, std::nullopt), {.packs = false}, 1),
                    Contains("--no-pack-rows needs a capacity"));
  ExecutorOptions cpu;
  cpu.pack_rows = true;
  CHECK_THROWS_WITH(check_options(cpu), Contains("--pack-rows") && Contains("not cpu"));
}

TEST_CASE("only NCCL's own kernels take multiprocessors that can be left to them", "[exec][cuda]") {
  ExecutorOptions options{.backend = "cuda", .communicator = "peer-copy"};
  CHECK_NOTHROW(check_options(options));
  options.exchange_ctas = 8;
  CHECK_THROWS_WITH(check_options(options),
                    Contains("--exchange-ctas") && Contains("nccl, not peer-copy"));
  options.communicator = "nccl";
  CHECK_NOTHROW(check_options(options));
  options.exchange_ctas = 65;
  CHECK_THROWS_WITH(check_options(options), "--exchange-ctas is 65, must be 0..64");
}

TEST_CASE("nccl-zero-cta refuses an NCCL before 2.28", "[exec][cuda]") {
  CHECK_THROWS_AS(check_zero_cta(22703), InputError);
  CHECK_THROWS_WITH(check_zero_cta(22703), Contains("NCCL 2.28.0 or later, this is 2.27.3"));
  CHECK_NOTHROW(check_zero_cta(22800));
}

TEST_CASE("parts of an exchange that must be equal are", "[exec][cuda]") {
  cuda::DeviceExchange exchange{.send_bytes = {16, 16}, .receive_bytes = {16, 16}};
  CHECK(exchange.equal_part() == 16);
  exchange.receive_bytes[1] = 32;
  CHECK_THROWS_AS(exchange.equal_part(), std::logic_error);
}

TEST_CASE("exchanges are elided on one rank only", "[exec][cuda]") {
  const CudaOptions options{.communicator = CudaCommunicatorKind::Elided};
  CHECK_THROWS_WITH(CudaExecutor::check(prime_layer(2, 1.0), options, 2),
                    Contains("on one rank only, not on 2"));
}

TEST_CASE("the CUDA executor has communicators of its own", "[exec][cuda]") {
  for (const char* known : {"staged", "nccl", "nccl-zero-cta", "peer-copy", "elided"}) {
    CHECK_NOTHROW(check_options(cuda_with(known)));
  }
  CHECK_THROWS_WITH(check_options(cuda_with("mpi")), Contains("staged, nccl, nccl-zero-cta"));
  ExecutorOptions cpu;
  cpu.communicator = "nccl-zero-cta";
  CHECK_THROWS_WITH(check_options(cpu),
                    Contains("--communicator nccl-zero-cta is for --backend cuda"));
}
