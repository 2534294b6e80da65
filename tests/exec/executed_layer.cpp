#include "tests/exec/executed_layer.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

#include "exec/verify.hpp"
#include "tests/support/random_layers.hpp"
#include "tests/support/random_runs.hpp"

namespace pipemoe::test {

Cluster one_node(int ranks) {
  Cluster cluster = authors_cluster(16);
  cluster.nodes = 1;
  cluster.gpus_per_node = ranks;
  cluster.collectives = {{{CollectiveKind::AllToAll, {ranks, 1}},
                          Fit<Bytes>{AlphaBeta<Bytes>{Seconds{1e-5}, {1e-9}}, {}, {}, "round"}}};
  cluster.gemm = {{Dtype::Fp32, {AlphaBeta<Flops>{Seconds{1e-5}, {1e-10}}, {}, {}, "round"}}};
  return cluster;
}

MoeLayer prime_layer(std::int64_t top_k, std::optional<double> capacity_factor,
                     Activation activation) {
  return {.tokens_per_rank = 61,
          .model_dim = 12,
          .hidden_dim = 10,
          .num_experts = 8,
          .top_k = top_k,
          .capacity_factor = capacity_factor,
          .activation = activation};
}

Executed execute_layer(const MoeLayer& layer, const std::string& schedule_name, Degrees degrees,
                       const exec::DataOptions& data, exec::ProcessGroup& group,
                       const std::optional<exec::Link>& link) {
  const TaskGraph graph = build_graph(schedule_name, layer, one_node(group.size()), degrees);
  const auto executor = exec::make_executor(layer, {.link = link, .data = data}, group);
  const auto prepared = executor->prepare(graph);
  std::vector<exec::Interval> intervals(graph.size());
  prepared->iterate(exec::Clock::now(), intervals);
  const exec::LayerResults first = executor->results();
  executor->poison();
  prepared->iterate(exec::Clock::now(), intervals);
  Executed executed{.results = executor->results()};
  executed.same_bits_each_time = executed.results == first;
  for (const auto& error : exec::verify(layer, data, executed.results, group)) {
    executed.largest_error = std::max(executed.largest_error, error.relative_error);
  }
  return executed;
}

void check_random_runs(std::uint64_t runs, exec::ProcessGroup& group) {
  constexpr double kMostByRounding = 1e-2;
  const auto error_of = [&](const RandomRun& run) {
    const Executed executed =
        execute_layer(run.layer, run.schedule, run.degrees, run.data, group, run.link);
    CHECK(executed.same_bits_each_time);
    return all_gather(group, executed.largest_error).front();
  };
  for (std::uint64_t index = 0; index < runs; ++index) {
    const RandomRun run = random_run(test_seed(), index, group.size());
    INFO("run " << index << " of PIPEMOE_TEST_SEED=" << test_seed() << " on " << group.size()
                << " ranks: pipemoe " << run.arguments());
    const double error = error_of(run);
    CHECK(error <= kMostByRounding);
    if (error > exec::tolerance(run.layer.dtype)) {
      CHECK(error_of(run.with_other_numbers()) <= exec::tolerance(run.layer.dtype));
    }
  }
}

}  // namespace pipemoe::test
