#include "models/cluster.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include "models/error.hpp"

namespace pipemoe {

const Fit<Bytes>& Cluster::all_to_all_fit() const {
  const auto found = all_to_all.find(num_ranks());
  if (found != all_to_all.end()) return found->second;
  std::vector<std::int64_t> fitted;
  for (const auto& [ranks, fit] : all_to_all) fitted.push_back(ranks);
  throw InputError(fmt::format("cluster {}: no all_to_all fit for {} ranks (fitted: {})", name,
                               num_ranks(), fmt::join(fitted, ", ")));
}

const Fit<Flops>& Cluster::gemm_fit(Dtype dtype) const {
  const auto found = gemm.find(dtype);
  if (found != gemm.end()) return found->second;
  throw InputError(fmt::format("cluster {}: no gemm fit for {}", name, to_string(dtype)));
}

MemoryPass Cluster::resolve(MemoryPass pass) const {
  return passes.contains(pass) ? pass : general_pass(pass);
}

const PassCost& Cluster::pass_cost(MemoryPass pass) const {
  const auto found = passes.find(resolve(pass));
  if (found != passes.end()) return found->second;
  const MemoryPass general = general_pass(pass);
  const std::string names =
      pass == general ? to_string(pass) : to_string(pass) + " or " + to_string(general);
  throw InputError(
      fmt::format("cluster {}: no {} fit, and not_modelled does not list it", name, names));
}

}  // namespace pipemoe
