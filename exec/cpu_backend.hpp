// Runs one pipelined MoE layer on CPU ranks.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "exec/backend.hpp"
#include "exec/cpu_moe_layer.hpp"

namespace pipemoe::exec {

struct CpuOptions {
  DataOptions data;
  std::optional<Link> link;  ///< emulated; absent: the real one
};

class CpuBackend final : public LayerBackend {
 public:
  /// Collective over `group`, which must outlive this. Requires what check() checks of the layer.
  CpuBackend(const MoeLayer& layer, const CpuOptions& options, ProcessGroup& group);

  /// Throws InputError unless the layer suits this backend on so many ranks: fp32, experts that
  /// divide.
  static void check(const MoeLayer& layer, int num_ranks);
  /// Throws InputError unless the layer and the graph suit this backend on so many ranks: one
  /// layer, chunks by slots between all ranks.
  static void check(const MoeLayer& layer, const TaskGraph& graph, int num_ranks);

  std::string name() const override;
  std::map<std::string, std::string> versions() const override;
  /// Collective. Throws what check() throws.
  bool regroups() const override { return true; }
  std::unique_ptr<GraphRunner> prepare(const TaskGraph& graph) override;

  LayerResults results() const override { return prepared_last_->results(); }
  void poison() override { prepared_last_->poison(); }

 private:
  MoeLayer layer_;
  CpuOptions options_;
  ProcessGroup& group_;
  LayerData data_;
  std::shared_ptr<CpuMoeLayer> prepared_last_;
  std::map<Stream, std::unique_ptr<Communicator>> communicators_;
};

}  // namespace pipemoe::exec
