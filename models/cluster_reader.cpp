#include <fmt/core.h>

#include <charconv>
#include <utility>

#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"

namespace pipemoe {
namespace {

constexpr std::int64_t kMaxNodes = 65536;
constexpr std::int64_t kMaxGpusPerNode = 1024;
constexpr std::int64_t kMaxDim = std::int64_t{1} << 17;
constexpr std::int64_t kMaxExperts = std::int64_t{1} << 16;
constexpr double kMaxBandwidth = 1e15;
constexpr double kMaxStartup = 1e3;

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

template <class Parse>
auto read_word(const ConfigTable& table, const std::string& key, const std::string& word,
               Parse parse) {
  try {
    return parse(word);
  } catch (const InputError& error) {
    table.fail(key, error.what());
  }
}

bool same_key(const ExpertFit& a, const ExpertFit& b) {
  return a.dtype == b.dtype && a.activation == b.activation && a.pass == b.pass &&
         a.gemms == b.gemms;
}

ExpertSizes read_sizes(ConfigTable& table) {
  return {table.integer("experts_per_rank", 1, kMaxExperts), table.integer("model_dim", 1, kMaxDim),
          table.integer("hidden_dim", 1, kMaxDim)};
}

ExpertFit read_expert(ConfigTable table) {
  ExpertFit expert;
  expert.dtype = read_word(table, "dtype", table.text("dtype"), dtype_from);
  expert.activation = read_word(table, "activation", table.text("activation"), activation_from);
  expert.pass = read_word(table, "pass", table.text("pass"), pass_from);
  const ExpertSizes sizes = read_sizes(table);
  const MoeLayer shape{.model_dim = sizes.model_dim,
                       .hidden_dim = sizes.hidden_dim,
                       .num_experts = sizes.experts_per_rank,
                       .activation = expert.activation};
  expert.gemms = shape.gemms(expert.pass, 0, /*num_ranks=*/1);
  expert.fit = read_fit<Flops>(std::move(table));
  return expert;
}

void read_experts(ConfigTable& fits, Cluster& cluster) {
  if (!fits.has("expert")) return;
  for (ConfigTable& table : fits.tables("expert")) {
    const ExpertFit expert = read_expert(table);
    for (const ExpertFit& other : cluster.experts) {
      if (same_key(expert, other)) table.fail("pass", "of this shape is fitted twice");
    }
    cluster.experts.push_back(expert);
  }
}

void read_fits_by_ranks(ConfigTable& fits, const std::string& name,
                        std::map<std::int64_t, Fit<Bytes>>& to) {
  if (!fits.has(name)) return;
  ConfigTable by_ranks = fits.table(name);
  for (const std::string& key : by_ranks.keys()) {
    to[read_rank_count(by_ranks, key)] = read_fit<Bytes>(by_ranks.table(key));
  }
}

// A number, or a list of them for as many <key>_bytes.
Slowdown read_slowdown(ConfigTable& table, const std::string& key) {
  constexpr NumberRange kFactor{1, 1e3};
  const std::string bytes_key = key + "_bytes";
  if (!table.has(bytes_key)) return table.number(key, kFactor);
  const auto bytes = table.numbers(bytes_key), factors = table.numbers(key);
  if (bytes.size() != factors.size()) {
    table.fail(key, fmt::format("holds {} numbers, must hold {} as {} does", factors.size(),
                                bytes.size(), bytes_key));
  }
  Slowdown::Points points;
  for (std::size_t i = 0; i < bytes.size(); ++i) points.emplace_back(bytes[i], factors[i]);
  try {
    return Slowdown(std::move(points));
  } catch (const InputError& error) {
    table.fail(key, error.what());
  }
}

// Adds what `read` makes of each table of the list, unless one for the same is there already.
template <class One, class Read, class Same>
void read_by_experts(ConfigTable& parent, const std::string& list, std::vector<One>& all, Read read,
                     Same same) {
  if (!parent.has(list)) return;
  for (ConfigTable& table : parent.tables(list)) {
    One one = read(read_sizes(table), table);
    for (const One& other : all) {
      if (same(one, other)) table.fail("model_dim", "of these experts stands twice");
    }
    all.push_back(std::move(one));
    table.finish();
  }
}

// Absent: of all passes.
std::optional<Pass> read_phase(ConfigTable& table) {
  if (!table.has("pass")) return std::nullopt;
  const Pass pass = read_word(table, "pass", table.text("pass"), pass_from);
  if (pass != Pass::Forward && pass != Pass::Backward) {
    table.fail("pass", "must be forward or backward");
  }
  return pass;
}

void read_fits(ConfigTable table, Cluster& cluster) {
  read_fits_by_ranks(table, "all_to_all", cluster.all_to_all);
  read_fits_by_ranks(table, "all_to_all_queued", cluster.all_to_all_queued);
  read_by_experts(
      table, "all_to_all_in_layers", cluster.all_to_all_in_layers,
      [](const ExpertSizes& sizes, ConfigTable& layers) {
        return ExchangesInLayers{sizes, read_slowdown(layers, "slowdown")};
      },
      [](const auto& a, const auto& b) { return a.sizes == b.sizes; });
  if (table.has("gemm")) {
    ConfigTable by_dtype = table.table("gemm");
    for (const std::string& key : by_dtype.keys()) {
      cluster.gemm[read_word(by_dtype, key, key, dtype_from)] =
          read_fit<Flops>(by_dtype.table(key));
    }
  }
  for (const MemoryPass pass : kMemoryPasses) {
    const std::string name = to_string(pass);
    if (table.has(name)) cluster.passes.emplace(pass, read_fit<Bytes>(table.table(name)));
  }
  read_experts(table, cluster);
  table.finish();
}

void read_not_modelled(ConfigTable& root, Cluster& cluster) {
  if (!root.has("not_modelled")) return;
  for (const std::string& name : root.texts("not_modelled")) {
    const MemoryPass pass = read_word(root, "not_modelled", name, memory_pass_from);
    if (!cluster.passes.emplace(pass, NotModelled{}).second) {
      root.fail("not_modelled", fmt::format("holds {}, which has a fit or stands twice", name));
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

void read_overlap(ConfigTable& root, Cluster& cluster) {
  if (!root.has("overlap")) return;
  ConfigTable table = root.table("overlap");
  cluster.overlap = Overlap{read_slowdown(table, "compute_slowdown"),
                            read_slowdown(table, "communication_slowdown"), table.text("source")};
  read_by_experts(
      table, "expert", cluster.overlap->experts,
      [](const ExpertSizes& sizes, ConfigTable& expert) {
        return ExpertOverlap{sizes, read_slowdown(expert, "compute_slowdown"),
                             read_slowdown(expert, "communication_slowdown"), read_phase(expert)};
      },
      [](const ExpertOverlap& a, const ExpertOverlap& b) {
        return a.sizes == b.sizes && (a.pass == b.pass || !a.pass || !b.pass);
      });
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

Cluster read_cluster(const ConfigFile& file) {
  ConfigTable root = file.root();
  Cluster cluster;
  cluster.name = root.text("name");
  cluster.source = root.text("source");
  cluster.nodes = root.integer("nodes", 1, kMaxNodes);
  cluster.gpus_per_node = root.integer("gpus_per_node", 1, kMaxGpusPerNode);
  read_gpu(root.table("gpu"), cluster);
  read_network(root.table("network"), cluster);
  if (root.has("equal_degrees")) cluster.degrees.equal = root.boolean("equal_degrees");
  if (root.has("degree_tolerance")) {
    cluster.degrees.tolerance = root.number("degree_tolerance", {.from = 0, .to = 1});
  }
  if (root.has("unequal_degrees_gain")) {
    cluster.degrees.unequal_gain = root.number("unequal_degrees_gain", {.from = 0, .to = 1});
  }
  if (root.has("exchange_ctas")) {
    cluster.exchange_ctas = root.integer("exchange_ctas", 1, kMostExchangeCtas);
  }
  read_overlap(root, cluster);
  read_fits(root.table("fits"), cluster);
  read_not_modelled(root, cluster);
  root.finish();
  return cluster;
}

}  // namespace pipemoe
