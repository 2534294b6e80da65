// A user's program against the installed package: plans a layer, simulates it, compares the two,
// and runs a small one for real.
#include <cmath>
#include <cstdio>

#include "exec/execute.hpp"
#include "exec/executor.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/search.hpp"
#include "sim/simulate.hpp"

int main(int, char** argv) {
  using namespace pipemoe;
  const Cluster cluster = read_cluster(ConfigFile::load(argv[1], "cluster"));
  const MoeLayer layer{.tokens_per_rank = 8192,
                       .model_dim = 4096,
                       .hidden_dim = 4096,
                       .num_experts = 64,
                       .top_k = 2};
  const Schedule& schedule = find_schedule("pipemoe");
  const Plan plan = search(schedule, layer, cluster, {.max_degree = 2});
  const TaskGraph graph = build_graph(schedule, layer, cluster, plan.choice);
  const Timeline predicted = sim::simulate(graph, cluster, NetworkLevel::Fitted).timeline;
  const double planned = plan.iteration().count(), simulated = predicted.makespan().count();
  std::printf("planned %.6f s, simulated %.6f s\n", planned, simulated);

  const MoeLayer small{
      .tokens_per_rank = 8, .model_dim = 4, .hidden_dim = 8, .num_experts = 2, .top_k = 1};
  const auto ranks = exec::single_process();
  const auto executor = exec::make_executor(small, {}, *ranks);
  const Timeline measured =
      exec::execute(build_graph("pipemoe", small, {.nodes = 1, .gpus_per_node = 1}, {2, 2}),
                    *executor, *ranks, {.warm_up = 0, .repeats = 1});
  if (measured.makespan() <= Seconds{}) return 1;
  return std::abs(planned / simulated - 1) < 1e-9 ? 0 : 1;
}
