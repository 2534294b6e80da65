#include "models/cost_model.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "models/error.hpp"

namespace pipemoe {
namespace {

template <class Map, class Key>
auto* find_or_null(const Map& map, const Key& key) {
  const auto found = map.find(key);
  return found == map.end() ? nullptr : &found->second;
}

template <class Work>
TaskCost cost_of(const Fit<Work>& fit, Work work) {
  const Seconds startup = fit.startup();
  return {startup, fit(work) - startup};
}

// Calls visit(MemoryPass, Bytes) for each memory-bound pass of a task.
template <class Visit>
void for_each_pass(const Task& task, Visit visit) {
  const bool forward = task.phase == Phase::Forward;
  const auto either = [&](MemoryPass forwards, MemoryPass backwards) {
    return forward ? forwards : backwards;
  };
  if (const auto* gate = std::get_if<Gate>(&task.operation)) {
    visit(either(MemoryPass::Gate, MemoryPass::GateBackward), gate->traffic);
  } else if (const auto* permute = std::get_if<Permute>(&task.operation)) {
    visit(either(MemoryPass::Permute, MemoryPass::PermuteBackward), permute->traffic);
  } else if (const auto* unpermute = std::get_if<Unpermute>(&task.operation)) {
    visit(either(MemoryPass::Unpermute, MemoryPass::UnpermuteBackward), unpermute->traffic);
  } else if (const auto* expert = std::get_if<ExpertFfn>(&task.operation)) {
    visit(either(MemoryPass::Activation, MemoryPass::ActivationBackward),
          expert->activation_traffic);
    // Backward, gradients are packed just as rows are forward.
    if (expert->layout_traffic.count > 0) visit(MemoryPass::Permute, expert->layout_traffic);
  }
}

// What a reader of a result must know, each thing once.
class Notes {
 public:
  void add_unfitted_shape(const ExpertFfn& expert) {
    const GemmShape shape = expert.gemms.empty() ? GemmShape{} : expert.gemms.front();
    unfitted_.insert(fmt::format("{} {} {} of {} x [{}, {}]", to_string(expert.dtype),
                                 to_string(expert.activation), to_string(expert.pass), shape.groups,
                                 shape.k, shape.n));
  }
  template <class Work>
  void add_use(const std::string& what, const Fit<Work>& fit, Work work) {
    if (!fit.extrapolates_at(work)) return;
    notes_.insert(fmt::format("{} extrapolates: {:.4g} is outside the fitted {:.4g}..{:.4g}", what,
                              work.amount(), fit.range->from, fit.range->to));
  }
  void add_pass(const std::string& name, const Fit<Bytes>* fit, Bytes traffic) {
    if (fit == nullptr) {
      free_passes_.insert(name);
    } else if (traffic.count > 0) {
      add_use(name, *fit, traffic);
    }
  }

  std::vector<std::string> list() const {
    std::vector<std::string> all;
    if (!free_passes_.empty()) {
      all.push_back(fmt::format("not modelled on this cluster, cost nothing here: {}",
                                fmt::join(free_passes_, ", ")));
    }
    if (!unfitted_.empty()) {
      all.push_back(
          fmt::format("no expert fit of these shapes, so the fits of their parts are "
                      "summed: {}",
                      fmt::join(unfitted_, "; ")));
    }
    all.insert(all.end(), notes_.begin(), notes_.end());
    return all;
  }

 private:
  std::set<std::string> free_passes_, unfitted_, notes_;
};

}  // namespace

CostModel::CostModel(const Cluster& cluster)
    : cluster_(cluster),
      all_to_all_(find_or_null(cluster.all_to_all, cluster.num_ranks())),
      all_to_all_queued_(find_or_null(cluster.all_to_all_queued, cluster.num_ranks())) {
  for (std::size_t i = 0; i < gemm_.size(); ++i) {
    gemm_[i] = find_or_null(cluster.gemm, static_cast<Dtype>(i));
  }
  for (const MemoryPass pass : kMemoryPasses) {
    passes_[static_cast<std::size_t>(pass)] = find_or_null(cluster.passes, cluster.resolve(pass));
  }
}

const Fit<Bytes>& CostModel::all_to_all_fit() const {
  return all_to_all_ ? *all_to_all_ : cluster_.all_to_all_fit();
}

const Fit<Flops>& CostModel::gemm_fit(Dtype dtype) const {
  const Fit<Flops>* fit = gemm_[static_cast<std::size_t>(dtype)];
  return fit ? *fit : cluster_.gemm_fit(dtype);
}

// Null: as long as by itself.
const Slowdown* CostModel::in_layer(const AllToAll& exchange) const {
  for (const ExchangesInLayers& one : cluster_.all_to_all_in_layers) {
    if (one.sizes == exchange.experts) return &one.slowdown;
  }
  return nullptr;
}

double CostModel::in_layer_factor(const AllToAll& exchange) const {
  const Slowdown* slowdown = in_layer(exchange);
  return slowdown == nullptr ? 1 : slowdown->at(exchange.traffic.per_rank());
}

// Null: not modelled.
const Fit<Bytes>* CostModel::pass_fit(MemoryPass pass) const {
  const PassCost* known = passes_[static_cast<std::size_t>(pass)];
  return std::get_if<Fit<Bytes>>(known ? known : &cluster_.pass_cost(pass));
}

// Null: no expert, or none of this shape.
const ExpertFit* CostModel::expert_fit(const ExpertFfn* expert) const {
  if (expert == nullptr || cluster_.experts.empty()) return nullptr;
  const GemmShapes gemms = without_rows(expert->gemms);
  for (const ExpertFit& one : cluster_.experts) {
    if (one.dtype == expert->dtype && one.activation == expert->activation &&
        one.pass == expert->pass && one.gemms == gemms) {
      return &one;
    }
  }
  return nullptr;
}

TaskCost CostModel::pass_cost(MemoryPass pass, Bytes traffic) const {
  const Fit<Bytes>* fit = pass_fit(pass);
  return fit == nullptr || traffic.count == 0 ? TaskCost{} : cost_of(*fit, traffic);
}

TaskCost CostModel::operator()(const Task& task) const {
  if (const auto* exchange = std::get_if<AllToAll>(&task.operation)) {
    return in_layer_factor(*exchange) * cost_of(all_to_all_fit(), exchange->traffic.per_rank());
  }
  const auto* expert = std::get_if<ExpertFfn>(&task.operation);
  if (const ExpertFit* whole = expert_fit(expert)) {
    return cost_of(whole->fit, expert_flops(task.operation));
  }
  const Fit<Flops>* gemm_cost = expert ? &gemm_fit(expert->dtype) : nullptr;
  TaskCost sum;
  for_each_pass(task, [&](MemoryPass pass, Bytes traffic) { sum += pass_cost(pass, traffic); });
  if (expert == nullptr) return sum;
  for (const GemmShape& gemm : expert->gemms) sum += cost_of(*gemm_cost, gemm.flops());
  return sum;
}

Seconds CostModel::queued_saving(const Task& task, Seconds waited) const {
  const auto* exchange = std::get_if<AllToAll>(&task.operation);
  if (exchange == nullptr || !has_queued()) return {};
  const Fit<Bytes>& alone = all_to_all_fit();
  const Bytes bytes = exchange->traffic.per_rank();
  const Seconds most = std::min(alone(bytes) - (*all_to_all_queued_)(bytes), alone.startup());
  return std::clamp(waited, Seconds{}, in_layer_factor(*exchange) * std::max(most, Seconds{}));
}

Slowdowns CostModel::slowdowns(const Task& compute, Bytes in_flight) const {
  const Overlap& overlap = *cluster_.overlap;
  const auto* expert = std::get_if<ExpertFfn>(&compute.operation);
  const bool looks = expert != nullptr && !overlap.experts.empty();
  const ExpertOverlap* own =
      looks ? overlap.of(expert_sizes(expert->pass, expert->gemms), expert->pass) : nullptr;
  const auto at = [&](const auto& of) {
    return Slowdowns{of.compute.at(in_flight), of.communication.at(in_flight)};
  };
  return own == nullptr ? at(overlap) : at(*own);
}

bool CostModel::extrapolates(const Task& task) const {
  if (const auto* exchange = std::get_if<AllToAll>(&task.operation)) {
    return all_to_all_fit().extrapolates_at(exchange->traffic.per_rank());
  }
  const auto* expert = std::get_if<ExpertFfn>(&task.operation);
  if (const ExpertFit* whole = expert_fit(expert)) {
    return whole->fit.extrapolates_at(expert_flops(task.operation));
  }
  return expert != nullptr &&
         std::any_of(expert->gemms.begin(), expert->gemms.end(), [&](const GemmShape& gemm) {
           return gemm_fit(expert->dtype).extrapolates_at(gemm.flops());
         });
}

bool CostModel::is_line(const Task& task) const {
  if (const auto* exchange = std::get_if<AllToAll>(&task.operation)) {
    const Slowdown* slowdown = in_layer(*exchange);
    return all_to_all_fit().line() != nullptr && (slowdown == nullptr || slowdown->is_constant());
  }
  const auto* expert = std::get_if<ExpertFfn>(&task.operation);
  if (const ExpertFit* whole = expert_fit(expert)) return whole->fit.line() != nullptr;
  bool all_lines = expert == nullptr || gemm_fit(expert->dtype).line() != nullptr;
  for_each_pass(task, [&](MemoryPass pass, Bytes) {
    const Fit<Bytes>* fit = pass_fit(pass);
    all_lines &= fit == nullptr || fit->line() != nullptr;
  });
  return all_lines;
}

std::vector<std::string> CostModel::check(const TaskGraph& graph) const {
  if (graph.num_ranks() != cluster_.num_ranks()) {
    throw InputError(fmt::format("task graph is for {} ranks, cluster {} has {}", graph.num_ranks(),
                                 cluster_.name, cluster_.num_ranks()));
  }
  Notes notes;
  for (const Task& task : graph.tasks()) {
    (*this)(task);
    const auto* expert = std::get_if<ExpertFfn>(&task.operation);
    if (const ExpertFit* whole = expert_fit(expert)) {
      notes.add_use("expert " + to_string(expert->pass), whole->fit, expert_flops(task.operation));
      continue;
    }
    for_each_pass(task, [&](MemoryPass pass, Bytes traffic) {
      notes.add_pass(to_string(cluster_.resolve(pass)), pass_fit(pass), traffic);
    });
    if (const auto* exchange = std::get_if<AllToAll>(&task.operation)) {
      notes.add_use("all_to_all", all_to_all_fit(), exchange->traffic.per_rank());
    } else if (expert != nullptr) {
      if (!cluster_.experts.empty()) notes.add_unfitted_shape(*expert);
      for (const GemmShape& gemm : expert->gemms) {
        notes.add_use("gemm", gemm_fit(expert->dtype), gemm.flops());
      }
    }
  }
  return notes.list();
}

}  // namespace pipemoe
