// Clusters and tasks whose times one can work out in the head.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "models/cluster.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::test {

template <class Amount>
Fit<Amount> line(double alpha_s, double beta_s) {
  return {AlphaBeta<Amount>{Seconds{alpha_s}, {beta_s}}, {}, {}, "by hand"};
}

/// On all ranks of `nodes` x `gpus_per_node` an all-to-all takes 1 s a byte and a product 1 s a
/// flop, without start-up; memory-bound kernels cost nothing. Every link carries 1 byte/s.
inline Cluster second_a_unit(std::int64_t nodes = 1, std::int64_t gpus_per_node = 1) {
  Cluster cluster;
  cluster.name = "by hand";
  cluster.nodes = nodes;
  cluster.gpus_per_node = gpus_per_node;
  cluster.nic = cluster.gpu_link = {{1}, 1};
  cluster.collectives[{CollectiveKind::AllToAll, cluster.all_ranks()}] = line<Bytes>(0, 1);
  cluster.gemm[Dtype::Fp32] = line<Flops>(0, 1);
  for (const MemoryKernel kernel :
       {MemoryKernel::Gate, MemoryKernel::Permutation, MemoryKernel::Activation}) {
    cluster.kernels[kernel] = NotModelled{};
  }
  return cluster;
}

/// An all-to-all of all ranks: a forward dispatch on the communication queue.
inline Task exchange(TrafficMatrix traffic, std::int64_t ranks, int chunk = 0,
                     QueueId queue = kCommunicationQueue) {
  return {{.step = Step::Dispatch, .chunk = chunk},
          queue,
          Collective{CollectiveKind::AllToAll, {ranks, 1}, std::move(traffic)}};
}
/// On one rank, which second_a_unit() does in as many seconds as bytes.
inline Task exchange(std::int64_t bytes, int chunk = 0, QueueId queue = kCommunicationQueue) {
  return exchange(TrafficMatrix::uniform({bytes}), 1, chunk, queue);
}

/// A forward expert that takes this long, whatever the cluster.
inline Task compute(PerRank<Seconds> duration, int chunk = 0, QueueId queue = kComputeQueue) {
  return {{.step = Step::Expert, .chunk = chunk}, queue, Timed{std::move(duration)}};
}
inline Task compute(double seconds, int chunk = 0, QueueId queue = kComputeQueue) {
  return compute(PerRank<Seconds>(Seconds{seconds}), chunk, queue);
}

inline Task at_step(Task task, Step step, Pass pass = Pass::Forward) {
  task.key.step = step;
  task.key.pass = pass;
  return task;
}

/// The tasks in order on their queues, which nothing else orders.
inline TaskGraph graph_of(std::vector<Task> tasks, std::int64_t ranks = 1,
                          std::vector<Queue> queues = compute_and_communication()) {
  TaskGraphBuilder builder("by hand", ranks, std::move(queues));
  for (Task& task : tasks) builder.append(std::move(task));
  return std::move(builder).build();
}

/// Queues of these resources, named "queue0", "queue1", ...
inline std::vector<Queue> queues_of(const std::vector<Resource>& resources) {
  std::vector<Queue> queues;
  for (const Resource resource : resources) {
    queues.push_back({"queue" + std::to_string(queues.size()), resource, 0});
  }
  return queues;
}

}  // namespace pipemoe::test
