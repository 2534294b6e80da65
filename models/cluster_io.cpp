#include "models/cluster_io.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "models/config.hpp"
#include "models/error.hpp"
#include "models/layer.hpp"

namespace pipemoe {
namespace {

constexpr const char* kClusterSchema = "pipemoe.cluster/2";
enum class Version { One, Two };

// ---- reading ----

constexpr std::int64_t kMaxNodes = 65536;
constexpr std::int64_t kMaxGpusPerNode = 1024;
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
  return a.dtype == b.dtype && a.activation == b.activation && a.kind == b.kind &&
         a.shapes == b.shapes;
}

ExpertSizes read_sizes(ConfigTable& table) {
  return {table.integer("experts_per_rank", 1, kMaxExperts), table.integer("model_dim", 1, kMaxDim),
          table.integer("hidden_dim", 1, kMaxDim)};
}

// Version 1 says "pass", and backward where it means both gradients.
ProductKind read_kind(ConfigTable& table, Version version) {
  if (version == Version::Two) {
    return read_word(table, "kind", table.text("kind"), product_kind_from);
  }
  const std::string pass = table.text("pass");
  return read_word(table, "pass", pass == "backward" ? "both_gradients" : pass, product_kind_from);
}

ExpertFit read_expert(ConfigTable table, Version version) {
  ExpertFit expert;
  expert.dtype = read_word(table, "dtype", table.text("dtype"), dtype_from);
  expert.activation = read_word(table, "activation", table.text("activation"), activation_from);
  expert.kind = read_kind(table, version);
  const ExpertSizes sizes = read_sizes(table);
  const MoeLayer shape{.model_dim = sizes.model_dim,
                       .hidden_dim = sizes.hidden_dim,
                       .num_experts = sizes.experts_per_rank,
                       .activation = expert.activation};
  expert.shapes = shape.gemms(expert.kind, /*num_ranks=*/1);
  expert.fit = read_fit<Flops>(std::move(table));
  return expert;
}

void read_experts(ConfigTable& fits, Version version, Cluster& cluster) {
  if (!fits.has("expert")) return;
  for (ConfigTable& table : fits.tables("expert")) {
    const ExpertFit expert = read_expert(table, version);
    for (const ExpertFit& other : cluster.experts) {
      if (same_key(expert, other)) table.fail("model_dim", "of this shape is fitted twice");
    }
    cluster.experts.push_back(expert);
  }
}

// [fits.<kind>.<group>]; in [fits.<kind>_queued.<group>] of collectives behind others.
void read_collectives(ConfigTable& fits, const std::string& suffix, CollectiveFits& to) {
  for (const CollectiveKind kind : {CollectiveKind::AllToAll, CollectiveKind::AllReduce,
                                    CollectiveKind::AllGather, CollectiveKind::ReduceScatter}) {
    const std::string name = to_string(kind) + suffix;
    if (!fits.has(name)) continue;
    ConfigTable by_group = fits.table(name);
    for (const std::string& key : by_group.keys()) {
      to[{kind, read_word(by_group, key, key, group_from)}] = read_fit<Bytes>(by_group.table(key));
    }
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
      if (same(one, other)) table.fail("model_dim", "of these experts is there twice");
    }
    all.push_back(std::move(one));
    table.finish();
  }
}

std::optional<Pass> read_pass(ConfigTable& table) {
  if (!table.has("pass")) return std::nullopt;
  return read_word(table, "pass", table.text("pass"), pass_from);
}

void read_fits(ConfigTable table, Version version, Cluster& cluster) {
  read_collectives(table, "", cluster.collectives);
  read_collectives(table, "_queued", cluster.queued_collectives);
  read_by_experts(
      table, "all_to_all_in_layers", cluster.collectives_in_layers,
      [](const ExpertSizes& sizes, ConfigTable& layers) {
        return CollectivesInLayers{sizes, read_slowdown(layers, "slowdown")};
      },
      [](const auto& a, const auto& b) { return a.sizes == b.sizes; });
  if (table.has("gemm")) {
    ConfigTable by_dtype = table.table("gemm");
    for (const std::string& key : by_dtype.keys()) {
      cluster.gemm[read_word(by_dtype, key, key, dtype_from)] =
          read_fit<Flops>(by_dtype.table(key));
    }
  }
  for (std::size_t i = 0; i < kMemoryKernels; ++i) {
    const auto kernel = static_cast<MemoryKernel>(i);
    const std::string name = to_string(kernel);
    if (table.has(name)) cluster.kernels.emplace(kernel, read_fit<Bytes>(table.table(name)));
  }
  read_experts(table, version, cluster);
  table.finish();
}

void read_not_modelled(ConfigTable& root, Cluster& cluster) {
  if (!root.has("not_modelled")) return;
  for (const std::string& name : root.texts("not_modelled")) {
    const MemoryKernel kernel = read_word(root, "not_modelled", name, memory_kernel_from);
    if (!cluster.kernels.emplace(kernel, NotModelled{}).second) {
      root.fail("not_modelled", fmt::format("lists {}, which has a fit or is listed twice", name));
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

void read_contention(ConfigTable& root, Version version, Cluster& cluster) {
  const char* name = version == Version::One ? "overlap" : "contention";
  if (!root.has(name)) return;
  ConfigTable table = root.table(name);
  cluster.contention =
      Contention{read_slowdown(table, "compute_slowdown"),
                 read_slowdown(table, "communication_slowdown"), table.text("source")};
  read_by_experts(
      table, "expert", cluster.contention->experts,
      [](const ExpertSizes& sizes, ConfigTable& expert) {
        return ExpertContention{sizes, read_slowdown(expert, "compute_slowdown"),
                                read_slowdown(expert, "communication_slowdown"), read_pass(expert)};
      },
      [](const ExpertContention& a, const ExpertContention& b) {
        return a.sizes == b.sizes && (a.pass == b.pass || !a.pass || !b.pass);
      });
  table.finish();
}

void read_conditions(ConfigTable& root, Cluster& cluster) {
  if (!root.has("conditions")) return;
  ConfigTable table = root.table("conditions");
  for (const std::string& key : table.keys()) {
    if (table.is_text(key)) {
      cluster.conditions[key] = table.text(key);
    } else if (table.is_boolean(key)) {
      cluster.conditions[key] = table.boolean(key);
    } else if (table.is_integer(key)) {
      cluster.conditions[key] = table.integer(key, std::numeric_limits<std::int64_t>::min(),
                                              std::numeric_limits<std::int64_t>::max());
    } else {
      constexpr double kInfinity = std::numeric_limits<double>::infinity();
      cluster.conditions[key] = table.number(key, {.from = -kInfinity});
    }
  }
  table.finish();
}

// Version 1 had these beside the machine.
void read_conditions_of_version_1(ConfigTable& root, Cluster& cluster) {
  if (root.has("equal_degrees")) {
    cluster.conditions["equal_degrees"] = root.boolean("equal_degrees");
  }
  for (const char* key : {"degree_tolerance", "unequal_degrees_gain"}) {
    if (root.has(key)) cluster.conditions[key] = root.number(key, {.from = 0, .to = 1});
  }
  if (root.has("exchange_ctas")) {
    constexpr std::int64_t kMostCtas = 64;
    cluster.conditions["exchange_ctas"] = root.integer("exchange_ctas", 1, kMostCtas);
  }
}

void read_gpu(ConfigTable table, Cluster& cluster) {
  constexpr std::int64_t kMaxMemory = std::int64_t{1} << 50;
  cluster.gpu.name = table.text("name");
  cluster.gpu.memory = {table.integer("memory_bytes", 1, kMaxMemory)};
  cluster.gpu.usable_memory = {table.integer("usable_memory_bytes", 1, cluster.gpu.memory.count)};
  cluster.gpu_link = read_link(table, "link_bytes_per_s");
  table.finish();
}

Cluster read(const ConfigFile& file, Version version) {
  ConfigTable root = file.root();
  Cluster cluster;
  cluster.name = root.text("name");
  cluster.source = root.text("source");
  cluster.nodes = root.integer("nodes", 1, kMaxNodes);
  cluster.gpus_per_node = root.integer("gpus_per_node", 1, kMaxGpusPerNode);
  read_gpu(root.table("gpu"), cluster);
  read_network(root.table("network"), cluster);
  if (version == Version::One) {
    read_conditions_of_version_1(root, cluster);
  } else {
    root.text("schema");
    read_conditions(root, cluster);
  }
  read_contention(root, version, cluster);
  read_fits(root.table("fits"), version, cluster);
  read_not_modelled(root, cluster);
  root.finish();
  return cluster;
}

// ---- writing ----

// A basic string: what TOML must not see raw is escaped.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (code < 0x20 || code == 0x7f) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string line(const std::string& key, const std::string& text) {
  return fmt::format("{} = {}\n", key, quoted(text));
}
std::string line(const std::string& key, std::int64_t value) {
  return fmt::format("{} = {}\n", key, value);
}
// The shortest decimal that reads back as the same double.
std::string line(const std::string& key, double value) {
  const std::string digits = fmt::format("{}", value);
  const bool is_whole = digits.find_first_not_of("-0123456789") == std::string::npos;
  return fmt::format("{} = {}{}\n", key, digits, is_whole ? ".0" : "");
}
std::string line(const std::string& key, const std::vector<double>& values) {
  return fmt::format("{} = [{}]\n", key, fmt::join(values, ", "));
}

template <class Work>
std::string model_toml(const Fit<Work>& fit) {
  const std::string unit = unit_name<Work>();
  if (const AlphaBeta<Work>* alpha_beta = fit.line()) {
    return line("alpha_s", alpha_beta->alpha.count()) +
           line("beta_s_per_" + unit, alpha_beta->beta.value);
  }
  std::vector<double> amounts, seconds;
  for (const auto& [amount, time] : std::get<TimeTable>(fit.model).points) {
    amounts.push_back(amount);
    seconds.push_back(time.count());
  }
  return line(unit + "s", amounts) + line("seconds", seconds);
}

template <class Work>
std::string fit_toml(const Fit<Work>& fit) {
  std::string text = model_toml(fit);
  if (fit.r_squared) text += line("r_squared", *fit.r_squared);
  if (fit.range) {
    text += line(std::string("range_") + unit_name<Work>() + "s",
                 std::vector<double>{fit.range->from, fit.range->to});
  }
  return text + line("source", fit.source);
}

std::string sizes_toml(const ExpertSizes& sizes) {
  return line("experts_per_rank", sizes.experts_per_rank) + line("model_dim", sizes.model_dim) +
         line("hidden_dim", sizes.hidden_dim);
}

std::string expert_toml(const ExpertFit& expert) {
  return "\n[[fits.expert]]\n" + line("dtype", to_string(expert.dtype)) +
         line("activation", to_string(expert.activation)) + line("kind", to_string(expert.kind)) +
         sizes_toml(Products{.kind = expert.kind, .shapes = expert.shapes}.expert_sizes()) +
         fit_toml(expert.fit);
}

std::string slowdown_toml(const std::string& key, const Slowdown& slowdown) {
  if (slowdown == Slowdown(slowdown.points().front().second)) {
    return line(key, slowdown.points().front().second);
  }
  std::vector<double> bytes, factors;
  for (const auto& [amount, factor] : slowdown.points()) {
    bytes.push_back(amount);
    factors.push_back(factor);
  }
  return line(key + "_bytes", bytes) + line(key, factors);
}

std::string fits_toml(const Cluster& cluster) {
  std::string text = "\n[fits]\n";
  const auto collectives = [&](const CollectiveFits& fits, const char* suffix) {
    for (const auto& [of, fit] : fits) {
      text += fmt::format("\n[fits.{}{}.{}]\n", to_string(of.first), suffix, to_string(of.second)) +
              fit_toml(fit);
    }
  };
  collectives(cluster.collectives, "");
  collectives(cluster.queued_collectives, "_queued");
  for (const CollectivesInLayers& layer : cluster.collectives_in_layers) {
    text += "\n[[fits.all_to_all_in_layers]]\n" + sizes_toml(layer.sizes) +
            slowdown_toml("slowdown", layer.slowdown);
  }
  for (const auto& [dtype, fit] : cluster.gemm) {
    text += fmt::format("\n[fits.gemm.{}]\n", to_string(dtype)) + fit_toml(fit);
  }
  for (const auto& [kernel, cost] : cluster.kernels) {
    if (const auto* fit = std::get_if<Fit<Bytes>>(&cost)) {
      text += fmt::format("\n[fits.{}]\n", to_string(kernel)) + fit_toml(*fit);
    }
  }
  for (const ExpertFit& expert : cluster.experts) text += expert_toml(expert);
  return text;
}

std::string link_toml(const std::string& bandwidth_key, const LinkPhysics& link) {
  return line(bandwidth_key, link.bandwidth.value) + line("efficiency", link.efficiency);
}

std::string network_toml(const Cluster& cluster) {
  std::string text = "\n[network]\n" + line("topology", cluster.fat_tree ? "fat_tree" : "star") +
                     link_toml("nic_bytes_per_s", cluster.nic);
  if (cluster.fat_tree) {
    text += line("nodes_per_leaf", cluster.fat_tree->nodes_per_leaf) +
            line("oversubscription", cluster.fat_tree->oversubscription);
  }
  return text;
}

template <class Slowdowns>
std::string slowdowns_toml(const Slowdowns& of) {
  return slowdown_toml("compute_slowdown", of.compute) +
         slowdown_toml("communication_slowdown", of.communication);
}

std::string contention_toml(const Cluster& cluster) {
  if (!cluster.contention) return "";
  std::string text = "\n[contention]\n" + slowdowns_toml(*cluster.contention) +
                     line("source", cluster.contention->source);
  for (const ExpertContention& expert : cluster.contention->experts) {
    text += "\n[[contention.expert]]\n" + sizes_toml(expert.sizes) +
            (expert.pass ? line("pass", to_string(*expert.pass)) : "") + slowdowns_toml(expert);
  }
  return text;
}

// Bare where TOML allows it.
std::string key_toml(const std::string& name) {
  const bool is_bare = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
  return is_bare ? name : quoted(name);
}

std::string conditions_toml(const Cluster& cluster) {
  if (cluster.conditions.empty()) return "";
  std::string text = "\n[conditions]\n";
  for (const auto& [name, value] : cluster.conditions) {
    const std::string key = key_toml(name);
    text += std::visit(Overloaded{[&](bool is) { return fmt::format("{} = {}\n", key, is); },
                                  [&](std::int64_t number) { return line(key, number); },
                                  [&](double number) { return line(key, number); },
                                  [&](const std::string& words) { return line(key, words); }},
                       value);
  }
  return text;
}

std::string gpu_toml(const Cluster& cluster) {
  return "\n[gpu]\n" + line("name", cluster.gpu.name) +
         line("memory_bytes", cluster.gpu.memory.count) +
         line("usable_memory_bytes", cluster.gpu.usable_memory.count) +
         link_toml("link_bytes_per_s", cluster.gpu_link);
}

std::string not_modelled_toml(const Cluster& cluster) {
  std::vector<std::string> names;
  for (const auto& [kernel, cost] : cluster.kernels) {
    if (std::holds_alternative<NotModelled>(cost)) names.push_back(quoted(to_string(kernel)));
  }
  return names.empty() ? "" : fmt::format("not_modelled = [{}]\n", fmt::join(names, ", "));
}

}  // namespace

Cluster read_cluster(const ConfigFile& file) {
  ConfigTable root = file.root();
  if (!root.has("schema")) {
    throw InputError(fmt::format(
        "{}: is a profile of version 1: pipemoe import profile {} --output NEW converts it",
        file.name(), file.name()));
  }
  if (const std::string schema = root.text("schema"); schema != kClusterSchema) {
    root.fail("schema", fmt::format("is {}, must be {}", schema, kClusterSchema));
  }
  return read(file, Version::Two);
}

Cluster read_version_1_cluster(const ConfigFile& file) {
  ConfigTable root = file.root();
  if (root.has("schema")) root.fail("schema", "is there: this is no profile of version 1");
  return read(file, Version::One);
}

std::string to_toml(const Cluster& cluster) {
  return line("schema", kClusterSchema) + line("name", cluster.name) +
         line("source", cluster.source) + line("nodes", cluster.nodes) +
         line("gpus_per_node", cluster.gpus_per_node) + not_modelled_toml(cluster) +
         conditions_toml(cluster) + gpu_toml(cluster) + network_toml(cluster) +
         contention_toml(cluster) + fits_toml(cluster);
}

}  // namespace pipemoe
