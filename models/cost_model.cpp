#include "models/cost_model.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <set>

#include "models/error.hpp"

namespace pipemoe {
namespace {

enum PassIndex : std::size_t { kGate, kPermutation, kActivation };
constexpr std::array<const char*, 3> kPassNames{"gate", "permutation", "activation"};

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

template <class Work>
std::string range_note(const std::string& what, const Fit<Work>& fit, Work work) {
  return fmt::format("{} extrapolates: {:.4g} is outside the fitted {:.4g}..{:.4g}", what,
                     work.amount(), fit.range->from, fit.range->to);
}

}  // namespace

CostModel::CostModel(const Cluster& cluster)
    : cluster_(cluster), all_to_all_(find_or_null(cluster.all_to_all, cluster.num_ranks())) {
  for (std::size_t i = 0; i < gemm_.size(); ++i) {
    gemm_[i] = find_or_null(cluster.gemm, static_cast<Dtype>(i));
  }
  for (std::size_t i = 0; i < passes_.size(); ++i) {
    passes_[i] = find_or_null(cluster.passes, std::string(kPassNames[i]));
  }
}

TaskCost CostModel::pass_cost(std::size_t pass, Bytes traffic) const {
  const PassCost& cost = passes_[pass] ? *passes_[pass] : cluster_.pass_cost(kPassNames[pass]);
  const auto* fit = std::get_if<Fit<Bytes>>(&cost);
  return fit == nullptr || traffic.count == 0 ? TaskCost{} : cost_of(*fit, traffic);
}

TaskCost CostModel::expert_cost(const ExpertFfn& expert) const {
  const auto index = static_cast<std::size_t>(expert.dtype);
  const Fit<Flops>& fit = gemm_[index] ? *gemm_[index] : cluster_.gemm_fit(expert.dtype);
  TaskCost sum = pass_cost(kActivation, expert.activation_traffic);
  for (const GemmShape& gemm : expert.gemms) sum += cost_of(fit, gemm.flops());
  return sum;
}

TaskCost CostModel::operator()(const Task& task) const {
  struct Cost {
    const CostModel& model;
    TaskCost operator()(const Gate& gate) const { return model.pass_cost(kGate, gate.traffic); }
    TaskCost operator()(const Permute& permute) const {
      return model.pass_cost(kPermutation, permute.traffic);
    }
    TaskCost operator()(const Unpermute& unpermute) const {
      return model.pass_cost(kPermutation, unpermute.traffic);
    }
    TaskCost operator()(const ExpertFfn& expert) const { return model.expert_cost(expert); }
    TaskCost operator()(const AllToAll& exchange) const {
      const Fit<Bytes>& fit =
          model.all_to_all_ ? *model.all_to_all_ : model.cluster_.all_to_all_fit();
      return cost_of(fit, exchange.traffic.per_rank());
    }
  };
  return std::visit(Cost{*this}, task.operation);
}

std::vector<std::string> CostModel::check(const TaskGraph& graph) const {
  if (graph.num_ranks() != cluster_.num_ranks()) {
    throw InputError(fmt::format("task graph is for {} ranks, cluster {} has {}", graph.num_ranks(),
                                 cluster_.name, cluster_.num_ranks()));
  }
  std::set<std::string> free_passes, notes;
  const auto look_at_pass = [&](std::size_t pass, Bytes traffic) {
    const PassCost& cost = cluster_.pass_cost(kPassNames[pass]);
    const auto* fit = std::get_if<Fit<Bytes>>(&cost);
    if (fit == nullptr) {
      free_passes.insert(kPassNames[pass]);
    } else if (traffic.count > 0 && fit->extrapolates_at(traffic)) {
      notes.insert(range_note(kPassNames[pass], *fit, traffic));
    }
  };
  for (const Task& task : graph.tasks()) {
    (*this)(task);
    if (const auto* gate = std::get_if<Gate>(&task.operation)) {
      look_at_pass(kGate, gate->traffic);
    } else if (const auto* permute = std::get_if<Permute>(&task.operation)) {
      look_at_pass(kPermutation, permute->traffic);
    } else if (const auto* unpermute = std::get_if<Unpermute>(&task.operation)) {
      look_at_pass(kPermutation, unpermute->traffic);
    } else if (const auto* exchange = std::get_if<AllToAll>(&task.operation)) {
      const Bytes bytes = exchange->traffic.per_rank();
      if (all_to_all_->extrapolates_at(bytes)) {
        notes.insert(range_note("all_to_all", *all_to_all_, bytes));
      }
    } else if (const auto* expert = std::get_if<ExpertFfn>(&task.operation)) {
      look_at_pass(kActivation, expert->activation_traffic);
      const Fit<Flops>& fit = cluster_.gemm_fit(expert->dtype);
      for (const GemmShape& gemm : expert->gemms) {
        if (fit.extrapolates_at(gemm.flops())) {
          notes.insert(range_note("gemm", fit, gemm.flops()));
        }
      }
    }
  }
  std::vector<std::string> all(notes.begin(), notes.end());
  if (!free_passes.empty()) {
    all.insert(all.begin(), fmt::format("not modelled on this cluster, cost nothing here: {}",
                                        fmt::join(free_passes, ", ")));
  }
  return all;
}

}  // namespace pipemoe
