// The oracle: what is true of every accepted layer, cluster and graph, and of every error.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>

#include "experiments/inputs.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/evaluate.hpp"
#include "models/files.hpp"
#include "models/json_reader.hpp"
#include "models/limits.hpp"
#include "models/schedule.hpp"
#include "models/search.hpp"
#include "models/task_graph_io.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz {

std::vector<Target>& targets() {
  static std::vector<Target> all;
  return all;
}

void finding(const std::string& what) {
  std::fprintf(stderr, "FINDING: %s\n", printable(what).c_str());
  std::abort();
}

void require_within(double value, double from, double to, const char* what) {
  require(value >= from && value <= to,
          fmt::format("{} is {}, must be {}..{}", what, value, from, to));
}

void require_time(Seconds time, const char* what) {
  require_within(time.count(), 0, kLongestTimeline, what);
}

void require_printable(const std::string& text, const char* what) {
  require(is_printable(text), fmt::format("{} is not printable: {}", what, text));
}

void require_good_message(const std::exception& error) {
  constexpr std::size_t kLongest = 10'000;
  const std::string line = printable(error.what());  // as the program prints it
  require(!line.empty() && line.size() <= kLongest,
          fmt::format("a message of {} bytes", line.size()));
  require_printable(line, "a message");
}

void require_json(const std::string& text, const char* what) {
  require(nlohmann::json::accept(text), fmt::format("{} is no JSON: {}", what, text));
}

// ---- layers ----

void require_sane(const MoeLayer& layer) {
  require_printable(layer.name, "layer.name");
  const auto count = [](std::int64_t value, std::int64_t most, const char* what) {
    require_within(static_cast<double>(value), 1, static_cast<double>(most), what);
  };
  count(layer.tokens_per_rank, std::int64_t{1} << 26, "tokens_per_rank");
  count(layer.model_dim, kMaxDim, "model_dim");
  count(layer.hidden_dim, kMaxDim, "hidden_dim");
  count(layer.num_experts, kMaxExperts, "num_experts");
  count(layer.top_k, layer.num_experts, "top_k");
  if (layer.capacity_factor) {
    require_within(*layer.capacity_factor, 5e-324, 64, "capacity_factor");
    count(layer.capacity(), std::int64_t{1} << 50, "the capacity");
  }
  count(layer.rows(), std::int64_t{1} << 50, "the rows of a rank");
  count(layer.all_to_all_bytes().count, std::int64_t{1} << 60, "bytes of an all-to-all");
  count(layer.memory_per_rank(1).count, std::int64_t{1} << 60, "memory of a rank");
}

// ---- clusters ----

namespace {

constexpr double kLargest = 1.7976931348623157e308;

template <class Work>
void require_sane(const Fit<Work>& fit, const char* what) {
  require_printable(fit.source, "a fit's source");
  if (const auto* line = fit.line()) {
    require_within(line->alpha.count(), 0, kMostStartup, what);
    require_within(line->beta.value, 0, kMostSlope, what);
  } else {
    double amount = -1, seconds = 0;
    for (const auto& [n, time] : std::get<TimeTable>(fit.model).points) {
      require(n > amount && n <= kMostAmount, "amounts of a table do not increase");
      require_within(time.count(), seconds, kLongestTask, what);
      amount = n;
      seconds = time.count();
    }
  }
  if (fit.r_squared) require_within(*fit.r_squared, -1, 1, "r_squared");
  if (fit.range) {
    require_within(fit.range->from, 0, kLargest, "a range");
    require_within(fit.range->to, fit.range->from, kLargest, "a range");
  }
}

void require_sane(const SlowdownsByKind& slowdowns) {
  for (const Slowdowns& one : {slowdowns.forward, slowdowns.gradients}) {
    require_within(one.products, 1, 1e3, "a slowdown");
    require_within(one.collectives, 1, 1e3, "a slowdown");
  }
}

void require_sane(const LinkPhysics& link) {
  require_within(link.bandwidth.value, kLeastBandwidth, kMostBandwidth, "a bandwidth");
  require_within(link.efficiency, kLeastEfficiency, 1, "an efficiency");
}

}  // namespace

void require_sane(const Cluster& cluster) {
  for (const std::string& text : {cluster.name, cluster.source, cluster.gpu.name}) {
    require_printable(text, "a text of the profile");
  }
  require_within(static_cast<double>(cluster.nodes), 1, 65536, "nodes");
  require_within(static_cast<double>(cluster.gpus_per_node), 1, 1024, "gpus_per_node");
  require_within(cluster.gpu.memory.amount(), 1, 0x1p50, "memory");
  require_within(cluster.gpu.usable_memory.amount(), 1, cluster.gpu.memory.amount(), "memory");
  require_sane(cluster.nic);
  require_sane(cluster.gpu_link);
  if (cluster.fat_tree) require_within(cluster.fat_tree->oversubscription, 1, 1e6, "a fat tree");
  if (cluster.contention) {
    require_sane(cluster.contention->general);
    for (const ExpertContention& expert : cluster.contention->experts) {
      require_sane(expert.slowdowns);
    }
  }
  for (const auto& [of, fit] : cluster.collectives) {
    require_within(fit.queued_saving.count(), 0, kMostStartup, "queued_saving");
    require_sane<Bytes>(fit, "a collective's fit");
  }
  for (const auto& [dtype, fit] : cluster.gemm) require_sane(fit, "a gemm fit");
  for (const auto& [kernel, cost] : cluster.kernels) {
    if (const auto* fit = std::get_if<Fit<Bytes>>(&cost)) require_sane(*fit, "a kernel's fit");
  }
  for (const ExpertFit& expert : cluster.experts) require_sane(expert.fit, "an expert's fit");
}

void require_round_trip(const Cluster& cluster) {
  const std::string text = to_toml(cluster);
  try {
    const Cluster again = read_cluster(ConfigFile::parse(text, "written.toml", "cluster"));
    require(again == cluster, "a written profile reads back as another one: " + text);
  } catch (const std::exception& error) {
    finding(fmt::format("a written profile is refused: {}", error.what()));
  }
}

namespace {

void require_times(const PassTimes& times) {
  require_time(times.forward, "forward's time");
  require_time(times.backward, "backward's time");
}

// A layer that the profile may have costs for, a few experts a rank.
MoeLayer small_layer(const Cluster& cluster) {
  MoeLayer layer{.tokens_per_rank = 4096,
                 .model_dim = 512,
                 .hidden_dim = 1024,
                 .num_experts = cluster.num_ranks(),
                 .top_k = 1};
  if (!cluster.gemm.empty()) layer.dtype = cluster.gemm.begin()->first;
  return layer;
}

// One whose experts have a fit of their own.
MoeLayer layer_of(const ExpertFit& expert, std::int64_t num_ranks) {
  const ExpertSizes sizes = Products{.kind = expert.kind, .shapes = expert.shapes}.expert_sizes();
  return {.tokens_per_rank = 1024,
          .model_dim = sizes.model_dim,
          .hidden_dim = sizes.hidden_dim,
          .num_experts = sizes.experts_per_rank * num_ranks,
          .top_k = 1,
          .dtype = expert.dtype,
          .activation = expert.activation};
}

void require_plans(const MoeLayer& layer, const Cluster& cluster) {
  const Schedule& schedule = find_schedule("pipemoe");
  accepts([&] {
    Preference preference = program::preference_of(cluster.conditions);
    require_within(preference.tolerance, 0, 1, "conditions.degree_tolerance");
    require_within(preference.unequal_gain, 0, 1, "conditions.unequal_degrees_gain");
    preference.max_degree = 2;
    const Plan plan = search(schedule, layer, cluster, preference);
    require_time(plan.forward.choice.time, "the planned forward's time");
    require_time(plan.backward.choice.time, "the planned backward's time");
    require_time(makespan_limit(layer, cluster), "the limit");
  });
  accepts([&] {
    if (const auto costs = schedule.closed_form(layer, cluster)) {
      require_time(choose_degree(costs->forward, 64).time, "the closed form's time");
      require_time(choose_degree(costs->backward, 64).time, "the closed form's time");
    }
  });
  accepts([&] {
    require_evaluates(build_graph("pipemoe", layer, cluster, Degrees{2, 2}), cluster);
  });
}

}  // namespace

void require_usable(const Cluster& cluster) {
  if (cluster.num_ranks() > kMaxExperts) return;  // no layer fits it
  require_plans(small_layer(cluster), cluster);
  if (!cluster.experts.empty()) {
    const MoeLayer layer = layer_of(cluster.experts.front(), cluster.num_ranks());
    if (layer.num_experts <= kMaxExperts) require_plans(layer, cluster);
  }
}

void require_evaluates(const TaskGraph& graph, const Cluster& cluster) {
  accepts([&] {
    const Costs costs(graph, cluster);
    require_times(evaluate_at(NetworkLevel::Fitted, costs));
    const MakespanBounds bounds = makespan_bounds(costs);
    require_time(bounds.critical_path, "the critical path");
    require_time(bounds.serial_sum, "the serial sum");
    costs.notes();
    require_times(evaluate_at(NetworkLevel::Links, costs));
  });
}

void require_round_trip(const TaskGraph& graph) {
  try {
    const TaskGraph again = task_graph_from_json(to_json(graph), "written.json");
    require(again == graph, "a written graph reads back as another one");
  } catch (const std::exception& error) {
    finding(fmt::format("a written graph is refused: {}", error.what()));
  }
}

// ---- seeds ----

std::string shipped(const std::string& path) {
  return read_file(std::filesystem::path(PIPEMOE_SOURCE_DIR) / path, "seed");
}

std::string shipped_toml(const std::string& path, int most) {
  std::istringstream lines(shipped(path));
  std::map<std::string, int> seen;
  std::string text;
  bool keep = true;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.front() == '#') continue;
    if (line.front() == '[') keep = !line.starts_with("[[") || ++seen[line] <= most;
    if (keep) text += line + "\n";
  }
  return text;
}

Cluster cluster_of(std::int64_t num_ranks) {
  static const Cluster authors = read_cluster(ConfigFile::parse(
      shipped("experiments/clusters/rtx2080ti-100gib-16.toml"), "16.toml", "cluster"));
  Cluster cluster = authors;
  cluster.gpus_per_node = num_ranks % 4 == 0 ? 4 : 1;
  cluster.nodes = num_ranks / cluster.gpus_per_node;
  const CollectiveFit fit = authors.collectives.begin()->second;
  cluster.collectives = {{{CollectiveKind::AllToAll, cluster.all_ranks()}, fit}};
  for (const Dtype dtype : {Dtype::Bf16, Dtype::Fp16}) {
    cluster.gemm[dtype] = cluster.gemm.at(Dtype::Fp32);
  }
  return cluster;
}

}  // namespace pipemoe::fuzz
