#include "models/cluster.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "models/config.hpp"
#include "models/error.hpp"

namespace pipemoe {
namespace {

constexpr std::array<const char*, 3> kPasses{"gate", "permutation", "activation"};
constexpr std::int64_t kMaxNodes = 65536;
constexpr std::int64_t kMaxGpusPerNode = 1024;
constexpr double kMaxBandwidth = 1e15;
constexpr double kMaxStartup = 1e3;

bool is_pass(const std::string& name) {
  return std::find(kPasses.begin(), kPasses.end(), name) != kPasses.end();
}

template <class Work>
constexpr const char* unit_name() {
  return std::is_same_v<Work, Bytes> ? "byte" : "flop";
}

// alpha_s and beta_s_per_<unit>, or a table: <unit>s = [...] and seconds = [...].
template <class Work>
std::variant<AlphaBeta<Work>, TimeTable> read_model(ConfigTable& table) {
  const std::string unit = unit_name<Work>();
  const std::string beta = "beta_s_per_" + unit, amounts_key = unit + "s";
  const bool is_table = table.has(amounts_key) || table.has("seconds");
  if (!is_table) {
    return AlphaBeta<Work>{Seconds{table.number("alpha_s", {0, kMaxStartup})},
                           {table.number(beta, kNotNegative)}};
  }
  if (table.has("alpha_s") || table.has(beta)) {
    table.fail("alpha_s", fmt::format("and {} exclude each other", amounts_key));
  }
  const auto amounts = table.numbers(amounts_key), seconds = table.numbers("seconds");
  if (amounts.size() != seconds.size()) {
    table.fail("seconds", fmt::format("holds {} numbers, must hold {} as {} does", seconds.size(),
                                      amounts.size(), amounts_key));
  }
  TimeTable points;
  for (std::size_t i = 0; i < amounts.size(); ++i) {
    points.points.emplace_back(amounts[i], Seconds{seconds[i]});
  }
  try {
    check_table(points, "table");
  } catch (const InputError& error) {
    table.fail("seconds", error.what());
  }
  return points;
}

template <class Work>
Fit<Work> read_fit(ConfigTable table) {
  Fit<Work> fit;
  fit.model = read_model<Work>(table);
  if (table.has("r_squared")) fit.r_squared = table.number("r_squared", {-1, 1});
  const std::string range_key = std::string("range_") + unit_name<Work>() + "s";
  if (table.has(range_key)) {
    const auto range = table.numbers(range_key);
    if (range.size() != 2 || range[0] < 0 || range[0] >= range[1]) {
      table.fail(range_key, "must be [from, to] with 0 <= from < to");
    }
    fit.range = WorkRange{range[0], range[1]};
  }
  fit.source = table.text("source");
  table.finish();
  return fit;
}

std::int64_t read_rank_count(const ConfigTable& table, const std::string& key) {
  std::int64_t ranks = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), ranks);
  if (error != std::errc{} || end != key.data() + key.size() || ranks < 1) {
    table.fail(key, "is no number of ranks");
  }
  return ranks;
}

Dtype read_dtype(const ConfigTable& table, const std::string& key) {
  try {
    return dtype_from(key);
  } catch (const InputError& error) {
    table.fail(key, error.what());
  }
}

void read_fits(ConfigTable table, Cluster& cluster) {
  if (table.has("all_to_all")) {
    ConfigTable by_ranks = table.table("all_to_all");
    for (const std::string& key : by_ranks.keys()) {
      cluster.all_to_all[read_rank_count(by_ranks, key)] = read_fit<Bytes>(by_ranks.table(key));
    }
  }
  if (table.has("gemm")) {
    ConfigTable by_dtype = table.table("gemm");
    for (const std::string& key : by_dtype.keys()) {
      cluster.gemm[read_dtype(by_dtype, key)] = read_fit<Flops>(by_dtype.table(key));
    }
  }
  for (const char* pass : kPasses) {
    if (table.has(pass)) cluster.passes.emplace(pass, read_fit<Bytes>(table.table(pass)));
  }
  table.finish();
}

void read_not_modelled(ConfigTable& root, Cluster& cluster) {
  if (!root.has("not_modelled")) return;
  for (const std::string& pass : root.texts("not_modelled")) {
    if (!is_pass(pass)) {
      root.fail("not_modelled",
                fmt::format("holds {}, must hold some of {}", pass, fmt::join(kPasses, ", ")));
    }
    if (!cluster.passes.emplace(pass, NotModelled{}).second) {
      root.fail("not_modelled", fmt::format("holds {}, which has a fit or stands twice", pass));
    }
  }
}

LinkPhysics read_link(ConfigTable& table, const std::string& bandwidth_key) {
  return {{table.number(bandwidth_key, {0, kMaxBandwidth, true})},
          table.number("efficiency", {0, 1, true})};
}

void read_network(ConfigTable table, Cluster& cluster) {
  cluster.nic = read_link(table, "nic_bytes_per_s");
  const std::string topology = table.text("topology");
  if (topology == "fat_tree") {
    cluster.fat_tree = FatTree{table.integer("nodes_per_leaf", 1, kMaxNodes),
                               table.number("oversubscription", {1, 1e6})};
  } else if (topology != "star") {
    table.fail("topology", fmt::format("is {}, must be star or fat_tree", topology));
  }
  table.finish();
}

void read_gpu(ConfigTable table, Cluster& cluster) {
  constexpr std::int64_t kMaxMemory = std::int64_t{1} << 50;
  cluster.gpu.name = table.text("name");
  cluster.gpu.memory = {table.integer("memory_bytes", 1, kMaxMemory)};
  cluster.gpu.usable_memory = {table.integer("usable_memory_bytes", 1, cluster.gpu.memory.count)};
  cluster.gpu_link = read_link(table, "link_bytes_per_s");
  table.finish();
}

}  // namespace

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

const PassCost& Cluster::pass_cost(const std::string& pass) const {
  const auto found = passes.find(pass);
  if (found != passes.end()) return found->second;
  throw InputError(
      fmt::format("cluster {}: no {} fit, and not_modelled does not list it", name, pass));
}

Cluster read_cluster(const ConfigFile& file) {
  ConfigTable root = file.root();
  Cluster cluster;
  cluster.name = root.text("name");
  cluster.source = root.text("source");
  cluster.nodes = root.integer("nodes", 1, kMaxNodes);
  cluster.gpus_per_node = root.integer("gpus_per_node", 1, kMaxGpusPerNode);
  read_gpu(root.table("gpu"), cluster);
  read_network(root.table("network"), cluster);
  read_fits(root.table("fits"), cluster);
  read_not_modelled(root, cluster);
  root.finish();
  return cluster;
}

}  // namespace pipemoe
