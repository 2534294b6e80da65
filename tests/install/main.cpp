// A user's program against the installed package: plans a layer, simulates it, compares the two,
// and multiplies two matrices as an expert would.
#include <cmath>
#include <cstdio>

#include "kernels/blas.hpp"
#include "models/config.hpp"
#include "models/plan.hpp"
#include "models/schedule.hpp"
#include "sim/simulate.hpp"

int main(int, char** argv) {
  using namespace pipemoe;
  const Cluster cluster = read_cluster(ConfigFile::load(argv[1], "cluster"));
  const MoeLayer layer{.tokens_per_rank = 8192,
                       .model_dim = 4096,
                       .hidden_dim = 4096,
                       .num_experts = 64,
                       .top_k = 2};
  const Plan plan = make_plan(layer, cluster, 2);
  const TaskGraph graph = schedule("pipemoe", layer, cluster, plan.degrees());
  const Timeline predicted = sim::simulate(graph, cluster);
  const double planned = plan.iteration().count(), simulated = predicted.makespan().count();
  std::printf("planned %.6f s, simulated %.6f s\n", planned, simulated);

  const float a[] = {1, 2}, b[] = {3, 4};  // [1, 2] x [2, 1]
  float product[1];
  kernels::gemm({.m = 1, .n = 1, .k = 2}, a, b, product);
  if (product[0] != 11) return 1;
  return std::abs(planned / simulated - 1) < 1e-9 ? 0 : 1;
}
