#include "exec/cuda_executor.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

#include "exec/executor.hpp"
#include "exec/verify.hpp"
#include "models/error.hpp"
#include "tests/exec/executed_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;
using Catch::Contains;

namespace {

constexpr CudaCommunicatorKind kCommunicators[] = {
    CudaCommunicatorKind::Elided, CudaCommunicatorKind::Staged, CudaCommunicatorKind::Nccl,
    CudaCommunicatorKind::NcclZeroCta, CudaCommunicatorKind::PeerCopy};

// 61 tokens as everywhere, rows of whole 16-byte units.
MoeLayer device_layer(Dtype dtype, std::optional<double> capacity_factor,
                      Activation activation = Activation::Relu) {
  MoeLayer layer = prime_layer(2, capacity_factor, activation);
  layer.model_dim = 24;
  layer.hidden_dim = 40;
  layer.dtype = dtype;
  return layer;
}

struct Run {
  MoeLayer layer;
  CudaOptions options;
  Degrees degrees;
  std::string schedule = "pipemoe";
};

struct Outcome {
  LayerResults results;      // of the replay with its own times, on poisoned buffers
  bool same_bits = true;     // as those of the replay without
  double largest_error = 0;  // against float64
  std::string worst;         // the tensor
  std::vector<std::string> notes;
};

TaskGraph graph_of(const Run& run) {
  Cluster cluster = one_node(1);
  cluster.gemm.emplace(Dtype::Bf16, cluster.gemm.at(Dtype::Fp32));
  return build_graph(run.schedule, run.layer, cluster, run.degrees);
}

Outcome outcome_of(const Run& run) {
  const auto group = single_process();
  CudaExecutor::check(run.layer, run.options, 1);
  const TaskGraph graph = graph_of(run);
  CudaExecutor executor(run.layer, run.options, *group);
  const auto prepared = executor.prepare(graph);
  executor.poison();
  prepared->measure_makespan(Clock::now());
  const LayerResults plain = executor.results();
  executor.poison();
  std::vector<Interval> intervals(graph.size());
  prepared->iterate(Clock::now(), intervals);
  Outcome outcome{.results = executor.results(), .notes = executor.notes()};
  outcome.same_bits = outcome.results == plain;
  for (const auto& error : verify(run.layer, run.options.data, outcome.results, *group)) {
    if (error.relative_error <= outcome.largest_error) continue;
    outcome.largest_error = error.relative_error;
    outcome.worst = error.tensor;
  }
  return outcome;
}

const char* name_of(CudaCommunicatorKind communicator) {
  switch (communicator) {
    case CudaCommunicatorKind::Elided:
      return "elided";
    case CudaCommunicatorKind::Staged:
      return "staged";
    case CudaCommunicatorKind::Nccl:
      return "nccl";
    case CudaCommunicatorKind::NcclZeroCta:
      return "nccl-zero-cta";
    case CudaCommunicatorKind::PeerCopy:
      return "peer-copy";
  }
  return "";
}

// One NCCL communicator or none a process: each exchange is a test case of its own.
void check_every_degree(CudaCommunicatorKind communicator) {
  for (const Dtype dtype : {Dtype::Fp32, Dtype::Bf16}) {
    for (const std::int64_t degree : {1, 2, 3, 5, 8}) {
      // Backward's chunks are forward's, or not.
      for (const std::int64_t backward : {degree, std::int64_t{2}}) {
        CAPTURE(name_of(communicator), to_string(dtype), degree, backward);
        const Outcome outcome =
            outcome_of({device_layer(dtype, 1.25),
                        {.data = {.auxiliary_loss_weight = 0.1}, .communicator = communicator},
                        {degree, backward}});
        CAPTURE(outcome.worst);
        CHECK(outcome.largest_error <= tolerance(dtype));
        CHECK(outcome.same_bits);
      }
    }
  }
}

}  // namespace

TEST_CASE("elided: every degree matches float64", "[exec][cuda]") {
  check_every_degree(CudaCommunicatorKind::Elided);
}
TEST_CASE("staged: every degree matches float64", "[exec][cuda]") {
  check_every_degree(CudaCommunicatorKind::Staged);
}
TEST_CASE("nccl: every degree matches float64", "[exec][cuda][nccl]") {
  check_every_degree(CudaCommunicatorKind::Nccl);
}
TEST_CASE("nccl-zero-cta: every degree matches float64", "[exec][cuda][nccl]") {
  check_every_degree(CudaCommunicatorKind::NcclZeroCta);
}

TEST_CASE("peer-copy: every degree matches float64", "[exec][cuda]") {
  check_every_degree(CudaCommunicatorKind::PeerCopy);
}

TEST_CASE("a replayed CUDA graph computes the bits that tasks given one by one do",
          "[exec][cuda][nccl]") {
  const Dtype dtype = GENERATE(Dtype::Fp32, Dtype::Bf16);
  for (const CudaCommunicatorKind communicator : kCommunicators) {
    CAPTURE(name_of(communicator), to_string(dtype));
    // Timed algorithms may differ between two executors.
    Run run{device_layer(dtype, 1.25, Activation::SwiGlu),
            {.communicator = communicator, .search = cuda::Search::Heuristic},
            {3, 2}};
    const Outcome replayed = outcome_of(run);
    run.options.graph.cuda_graph = false;
    const Outcome given = outcome_of(run);
    CHECK(replayed.largest_error <= tolerance(dtype));
    CHECK(given.largest_error <= tolerance(dtype));
    CHECK(given.same_bits);
    CHECK(replayed.results.experts == given.results.experts);
    CHECK(replayed.results.output == given.results.output);
    CHECK(replayed.results == given.results);
  }
}

TEST_CASE("a dropless layer runs on every communicator that takes unequal parts",
          "[exec][cuda][nccl]") {
  const Dtype dtype = GENERATE(Dtype::Fp32, Dtype::Bf16);
  const double skew = GENERATE(0.0, 20.0);  // the other experts get few rows or none
  for (const CudaCommunicatorKind communicator : kCommunicators) {
    if (communicator == CudaCommunicatorKind::NcclZeroCta ||
        communicator == CudaCommunicatorKind::PeerCopy) {
      continue;
    }
    for (const Degrees degrees : {Degrees{1, 1}, Degrees{3, 2}, Degrees{8, 8}}) {
      CAPTURE(name_of(communicator), to_string(dtype), skew, degrees.forward_degree);
      const Outcome outcome = outcome_of({device_layer(dtype, std::nullopt),
                                          {.data = {.skew = skew}, .communicator = communicator},
                                          degrees});
      CHECK(outcome.largest_error <= tolerance(dtype));
      CHECK(outcome.same_bits);
    }
  }
}

TEST_CASE("device memory is reported as planned, taken and modelled", "[exec][cuda]") {
  const Outcome outcome = outcome_of(
      {device_layer(Dtype::Fp32, 1.25), {.communicator = CudaCommunicatorKind::Elided}, {2, 2}});
  REQUIRE_FALSE(outcome.notes.empty());
  CHECK_THAT(outcome.notes.front(),
             Contains("planned") && Contains("the device gave") && Contains("memory model"));
}
