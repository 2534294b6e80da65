// A cluster profile: its shape, the physics of its links, and the fitted cost of each operation.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "models/fit.hpp"
#include "models/layer.hpp"
#include "models/passes.hpp"
#include "models/slowdown.hpp"
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
/// by `oversubscription`. Absent from a Network: one non-blocking switch (a star).
struct FatTree {
  std::int64_t nodes_per_leaf = 0;
  double oversubscription = 1;  ///< >= 1
  bool operator==(const FatTree&) const = default;
};

/// Cost of a memory-bound pass: fitted, or declared as not modelled (costs nothing, and every
/// output says so).
struct NotModelled {
  bool operator==(const NotModelled&) const = default;
};
using PassCost = std::variant<NotModelled, Fit<Bytes>>;

/// The measured time of one whole expert task (matrix products, biases, activation and layout
/// copies) as a function of its flops, for one exact shape.
struct ExpertFit {
  Dtype dtype = Dtype::Fp32;
  Activation activation = Activation::Relu;
  Pass pass = Pass::Forward;
  GemmShapes gemms;  ///< without_rows
  Fit<Flops> fit;
  bool operator==(const ExpertFit&) const = default;
};

/// How degrees are chosen by their predicted times. Without any of it: the fastest.
struct DegreeRule {
  /// Both phases of a layer are to have one degree: between unequal ones the executor moves the
  /// rows that forward saved, which no fit says.
  bool equal = false;
  /// Share by which times must differ to be told apart: of degrees no further from the fastest
  /// those of the fewest chunks are chosen.
  double tolerance = 0;
  /// Share by which unequal degrees must be faster than the equal ones that would be chosen.
  double unequal_gain = 0;

  bool takes_fastest() const { return !equal && tolerance == 0 && unequal_gain == 0; }
  bool operator==(const DegreeRule&) const = default;
};

/// The most that NCCL can be limited to: its channels.
inline constexpr int kMostExchangeCtas = 64;

struct Cluster {
  std::string name;
  std::string source;
  std::int64_t nodes = 0;
  std::int64_t gpus_per_node = 0;
  Gpu gpu;
  LinkPhysics nic;       ///< node to network; one a node, shared by its GPUs
  LinkPhysics gpu_link;  ///< GPU to node
  std::optional<FatTree> fat_tree;
  std::optional<Overlap> overlap;  ///< absent: streams do not slow each other
  DegreeRule degrees;
  /// Multiprocessors that exchanges of these fits were limited to and experts beside them left; 0:
  /// to none.
  std::int64_t exchange_ctas = 0;

  std::map<std::int64_t, Fit<Bytes>> all_to_all;  ///< by number of ranks; work is a rank's input
  /// The same for one queued right behind another: part of its start-up then runs beside that one.
  /// Absent: none does.
  std::map<std::int64_t, Fit<Bytes>> all_to_all_queued;
  std::vector<ExchangesInLayers> all_to_all_in_layers;  ///< of other layers: as the fits say
  std::map<Dtype, Fit<Flops>> gemm;
  std::map<MemoryPass, PassCost> passes;
  std::vector<ExpertFit> experts;  ///< of a shape that has one, they replace gemm and passes

  std::int64_t num_ranks() const { return nodes * gpus_per_node; }
  /// The fit for all ranks of this cluster. Throws InputError when the profile has none.
  const Fit<Bytes>& all_to_all_fit() const;
  const Fit<Flops>& gemm_fit(Dtype dtype) const;
  /// `pass` itself where the profile has it, else the general pass that stands for it.
  MemoryPass resolve(MemoryPass pass) const;
  /// Of resolve(pass). Throws InputError when the profile neither fits that nor declares it not
  /// modelled.
  const PassCost& pass_cost(MemoryPass pass) const;

  bool operator==(const Cluster&) const = default;
};

}  // namespace pipemoe
