// A cluster: the machine as it was bought, and its profile, what was measured of it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "models/contention.hpp"
#include "models/fit.hpp"
#include "models/task_graph.hpp"
#include "models/units.hpp"

namespace pipemoe {

struct Gpu {
  std::string name;
  Bytes memory;
  Bytes usable_memory;  ///< what a training process can allocate
  bool operator==(const Gpu&) const = default;
};

/// A full-duplex link as bought, and the share of it that a collective's payload gets.
struct LinkPhysics {
  BytesPerSecond bandwidth;  ///< each direction
  double efficiency = 1;     ///< in (0, 1]

  BytesPerSecond payload() const { return {bandwidth.value * efficiency}; }
  bool operator==(const LinkPhysics&) const = default;
};

/// Leaf switches under a non-blocking spine; a leaf's uplink carries its nodes' links' sum divided
/// by `oversubscription`. Absent from a Cluster: one non-blocking switch (a star).
struct FatTree {
  std::int64_t nodes_per_leaf = 0;
  double oversubscription = 1;  ///< >= 1
  bool operator==(const FatTree&) const = default;
};

/// Cost of a memory-bound kernel: fitted, or declared as not modelled (costs nothing, and every
/// output says so).
struct NotModelled {
  bool operator==(const NotModelled&) const = default;
};
using KernelCost = std::variant<NotModelled, Fit<Bytes>>;

/// The measured time of one whole expert task (matrix products, biases, activation and layout
/// copies) as a function of its flops, for one exact shape.
struct ExpertFit {
  Dtype dtype = Dtype::Fp32;
  Activation activation = Activation::Relu;
  ProductKind kind = ProductKind::Forward;
  GemmShapes shapes;  ///< without rows
  Fit<Flops> fit;
  bool operator==(const ExpertFit&) const = default;
};

/// Under what a profile was measured (communicator, limits, driver). Nothing in models/ reads it:
/// whoever runs or chooses for the machine does.
using Condition = std::variant<bool, std::int64_t, double, std::string>;
using Conditions = std::map<std::string, Condition>;

/// What a collective takes in a layer, by a rank's bytes.
struct CollectiveFit : Fit<Bytes> {
  CollectiveFit() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): a fit is one that saves nothing
  CollectiveFit(Fit<Bytes> fit, Seconds saving = {})
      : Fit<Bytes>(std::move(fit)), queued_saving(saving) {}

  /// What it takes less right behind another collective, beside which a part of its start-up runs;
  /// at most its start-up, and the time that it waited for its queue alone.
  Seconds queued_saving{};
  bool operator==(const CollectiveFit&) const = default;
};

/// Each is of one kind over one group of ranks.
using CollectiveFits = std::map<std::pair<CollectiveKind, Group>, CollectiveFit>;

struct Cluster {
  std::string name;
  std::string source;
  std::int64_t nodes = 0;
  std::int64_t gpus_per_node = 0;
  Gpu gpu;
  LinkPhysics nic;       ///< node to network; one a node, shared by its GPUs
  LinkPhysics gpu_link;  ///< GPU to node
  std::optional<FatTree> fat_tree;

  Conditions conditions;
  std::optional<Contention> contention;  ///< absent: queues do not slow each other
  CollectiveFits collectives;
  std::map<Dtype, Fit<Flops>> gemm;
  std::map<MemoryKernel, KernelCost> kernels;
  std::vector<ExpertFit> experts;  ///< where one has a task's shape, it replaces gemm and kernels

  std::int64_t num_ranks() const { return nodes * gpus_per_node; }
  Group all_ranks() const { return {num_ranks(), 1}; }

  bool operator==(const Cluster&) const = default;
};

}  // namespace pipemoe
