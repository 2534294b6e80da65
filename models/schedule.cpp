#include "models/schedule.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>

#include "models/error.hpp"
#include "models/schedules/schedules.hpp"

namespace pipemoe {
namespace {

struct Entry {
  const char* name;
  schedules::Policy policy;
  bool has_degrees;
};

constexpr std::array<Entry, 5> kEntries{{
    {"sequential", schedules::sequential, false},
    {"fastermoe", schedules::fastermoe, false},
    {"tutel", schedules::tutel, true},
    {"pipemoe", schedules::pipemoe, true},
    {"pipemoe-deferred", schedules::pipemoe_deferred, true},
}};

const Entry& entry(const std::string& name) {
  for (const Entry& candidate : kEntries) {
    if (name == candidate.name) return candidate;
  }
  throw InputError(
      fmt::format("schedule is {}, must be one of {}", name, fmt::join(schedule_names(), ", ")));
}

WorkTotals unpipelined(const MoeLayer& layer, Pass pass, std::int64_t num_ranks) {
  WorkTotals totals{layer.all_to_all_bytes(), layer.all_to_all_bytes(), {}};
  for (const GemmShape& gemm : layer.gemms(pass, layer.rows(), num_ranks)) {
    totals.flops += gemm.flops();
  }
  return totals;
}

// Flops are sums of integers too large for a double's exact range, hence the tolerance.
bool conserved(const WorkTotals& made, const WorkTotals& wanted) {
  return made.dispatched == wanted.dispatched && made.combined == wanted.combined &&
         std::abs(made.flops.count - wanted.flops.count) <= 1e-12 * wanted.flops.count;
}

}  // namespace

TaskGraph schedule(const std::string& name, const MoeLayer& layer, const Cluster& cluster,
                   Degrees degrees) {
  const schedules::Policy make = entry(name).policy;
  const std::int64_t ranks = cluster.num_ranks();
  check_fits_ranks(layer, ranks);
  TaskGraph graph = make(layer, cluster, degrees);
  ensure(conserved(total_work(graph, Phase::Forward), unpipelined(layer, Pass::Forward, ranks)),
         "a schedule lost or added forward work");
  ensure(conserved(total_work(graph, Phase::Backward), unpipelined(layer, Pass::Backward, ranks)),
         "a schedule lost or added backward work");
  return graph;
}

bool schedule_has_degrees(const std::string& name) { return entry(name).has_degrees; }

std::vector<std::string> schedule_names() {
  std::vector<std::string> names;
  for (const Entry& candidate : kEntries) names.emplace_back(candidate.name);
  return names;
}

}  // namespace pipemoe
