#include "models/cluster_io.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "models/config.hpp"
#include "models/error.hpp"
#include "models/layer.hpp"
#include "models/limits.hpp"

namespace pipemoe {
namespace {

constexpr const char* kClusterSchema = "pipemoe.cluster/2";
enum class Version { One, Two };

// ---- reading ----

constexpr std::int64_t kMaxNodes = 65536;
constexpr std::int64_t kMaxGpusPerNode = 1024;
constexpr NumberRange kFactor{1, 1e3};

// alpha_s and beta_s_per_<unit>, or a table: <unit>s = [...] and seconds = [...].
template <class Work>
std::variant<AlphaBeta<Work>, TimeTable> read_model(ConfigTable& table) {
  const std::string unit = unit_name<Work>();
  const std::string beta = "beta_s_per_" + unit, amounts_key = unit + "s";
  const bool is_table = table.has(amounts_key) || table.has("seconds");
  if (!is_table) {
    return AlphaBeta<Work>{Seconds{table.number("alpha_s", {0, kMostStartup})},
                           {table.number(beta, {0, kMostSlope})}};
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

CollectiveFit read_collective(ConfigTable table) {
  constexpr const char* kSaving = "queued_saving_s";
  const Seconds saving{table.has(kSaving) ? table.number(kSaving, {0, kMostStartup}) : 0};
  return {read_fit<Bytes>(std::move(table)), saving};
}

// [fits.<kind>.<group>], or of version 1 [fits.<kind>_queued.<group>].
void read_collectives(ConfigTable& fits, const std::string& suffix, CollectiveFits& to) {
  for (const CollectiveKind kind : {CollectiveKind::AllToAll, CollectiveKind::AllReduce,
                                    CollectiveKind::AllGather, CollectiveKind::ReduceScatter}) {
    const std::string name = to_string(kind) + suffix;
    if (!fits.has(name)) continue;
    ConfigTable by_group = fits.table(name);
    for (const std::string& key : by_group.keys()) {
      to[{kind, read_word(by_group, key, key, group_from)}] = read_collective(by_group.table(key));
    }
  }
}

// ---- version 1: tables by bytes, of which constants are made ----

double median(const std::vector<double>& values) {
  std::vector<std::pair<double, double>> alike;
  for (const double value : values) alike.emplace_back(value, 1);
  return weighted_median(std::move(alike));
}

// How many times as long, by bytes; one factor without bytes: whatever they are.
struct FactorTable {
  std::vector<double> bytes, factors;
};

// A number, or a list of them for as many <key>_bytes.
FactorTable read_factors(ConfigTable& table, const std::string& key) {
  const std::string bytes_key = key + "_bytes";
  if (!table.has(bytes_key)) return {{}, {table.number(key, kFactor)}};
  FactorTable found{table.numbers(bytes_key), table.numbers(key)};
  if (found.factors.empty() || found.bytes.size() != found.factors.size()) {
    table.fail(key, fmt::format("holds {} numbers, must hold {} as {} does", found.factors.size(),
                                found.bytes.size(), bytes_key));
  }
  for (const double amount : found.bytes) {
    if (!(amount >= 0 && amount <= kMostAmount)) {
      table.fail(bytes_key, fmt::format("holds {}, must hold 0..{:g}", amount, kMostAmount));
    }
  }
  for (const double factor : found.factors) {
    if (!(factor >= kFactor.from && factor <= kFactor.to)) {
      table.fail(key, fmt::format("holds {}, must hold factors of at least 1", factor));
    }
  }
  return found;
}

Slowdowns read_overlap_factors(ConfigTable& table) {
  return {median(read_factors(table, "compute_slowdown").factors),
          median(read_factors(table, "communication_slowdown").factors)};
}

// [overlap]; an [[overlap.expert]] may be of one pass.
void read_overlap(ConfigTable& root, Cluster& cluster) {
  if (!root.has("overlap")) return;
  ConfigTable table = root.table("overlap");
  const SlowdownsByKind general{read_overlap_factors(table)};
  Contention& contention = cluster.contention.emplace(Contention{general, table.text("source")});
  if (table.has("expert")) {
    for (ConfigTable& expert : table.tables("expert")) {
      const ExpertSizes sizes = read_sizes(expert);
      auto own = std::find_if(contention.experts.begin(), contention.experts.end(),
                              [&](const ExpertContention& one) { return one.sizes == sizes; });
      if (own == contention.experts.end()) {
        own = contention.experts.insert(own, ExpertContention{sizes, general});
      }
      const bool of_both = !expert.has("pass");
      const Pass pass =
          of_both ? Pass::Forward : read_word(expert, "pass", expert.text("pass"), pass_from);
      const Slowdowns found = read_overlap_factors(expert);
      if (of_both || pass == Pass::Forward) own->slowdowns.forward = found;
      if (of_both || pass == Pass::Backward) own->slowdowns.gradients = found;
      expert.finish();
    }
  }
  table.finish();
}

// A table's amounts; of a line powers of two.
std::vector<Bytes> sizes_of(const Fit<Bytes>& fit) {
  std::vector<Bytes> sizes;
  if (fit.line() != nullptr) {
    for (std::int64_t size = 4096; size <= 1 << 29; size *= 2) sizes.push_back({size});
    return sizes;
  }
  for (const auto& [amount, time] : std::get<TimeTable>(fit.model).points) {
    sizes.push_back({std::llround(amount)});
  }
  return sizes;
}

// How many times as long all-to-alls, one behind another, took in layers of each size.
std::vector<LengthenedTime> read_in_layers(ConfigTable& fits, const Fit<Bytes>& queued) {
  std::vector<LengthenedTime> points;
  for (ConfigTable& layer : fits.tables("all_to_all_in_layers")) {
    read_sizes(layer);
    const auto [bytes, factors] = read_factors(layer, "slowdown");
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      points.push_back({queued(Bytes{std::llround(bytes[i])}), factors[i]});
    }
    layer.finish();
  }
  return points;
}

// [fits.<kind>_queued.<group>] and [[fits.all_to_all_in_layers]].
void convert_collectives(ConfigTable& fits, Cluster& cluster) {
  CollectiveFits queued = cluster.collectives;
  read_collectives(fits, "_queued", queued);
  for (auto& [of, fit] : cluster.collectives) {
    const Fit<Bytes>& behind = queued.at(of);
    const std::vector<Bytes> sizes = sizes_of(fit.line() == nullptr ? fit : behind);
    fit.queued_saving = median_saving(fit, behind, sizes);
    if (of != std::pair{CollectiveKind::AllToAll, cluster.all_ranks()}) continue;
    if (!fits.has("all_to_all_in_layers")) continue;
    fit_lengthening(read_in_layers(fits, behind)).apply_to<Bytes>(fit);
  }
}

void read_fits(ConfigTable table, Version version, Cluster& cluster) {
  read_collectives(table, "", cluster.collectives);
  if (version == Version::One) convert_collectives(table, cluster);
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
  return {{table.number(bandwidth_key, {kLeastBandwidth, kMostBandwidth})},
          table.number("efficiency", {kLeastEfficiency, 1})};
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

Slowdowns read_slowdowns(ConfigTable table) {
  const Slowdowns slowdowns{table.number("products", kFactor),
                            table.number("collectives", kFactor)};
  table.finish();
  return slowdowns;
}

SlowdownsByKind read_slowdowns_by_kind(ConfigTable& table) {
  return {read_slowdowns(table.table("forward")), read_slowdowns(table.table("gradients"))};
}

void read_contention(ConfigTable& root, Cluster& cluster) {
  if (!root.has("contention")) return;
  ConfigTable table = root.table("contention");
  const SlowdownsByKind general = read_slowdowns_by_kind(table);
  Contention& contention = cluster.contention.emplace(Contention{general, table.text("source")});
  if (table.has("expert")) {
    for (ConfigTable& expert : table.tables("expert")) {
      const ExpertSizes sizes = read_sizes(expert);
      for (const ExpertContention& other : contention.experts) {
        if (other.sizes == sizes) expert.fail("model_dim", "of these experts is there twice");
      }
      contention.experts.push_back({sizes, read_slowdowns_by_kind(expert)});
      expert.finish();
    }
  }
  table.finish();
}

// The conditions that the program itself uses. Returns whether the key is one of them.
bool read_known_condition(ConfigTable& table, const std::string& key, Cluster& cluster) {
  if (key == "equal_degrees") {
    cluster.conditions[key] = table.boolean(key);
  } else if (key == "degree_tolerance" || key == "unequal_degrees_gain") {
    cluster.conditions[key] = table.number(key, {0, 1});
  } else if (key == "exchange_ctas") {
    constexpr std::int64_t kMostCtas = 64;
    cluster.conditions[key] = table.integer(key, 1, kMostCtas);
  } else {
    return false;
  }
  return true;
}

void read_conditions(ConfigTable& root, Cluster& cluster) {
  if (!root.has("conditions")) return;
  ConfigTable table = root.table("conditions");
  for (const std::string& key : table.keys()) {
    if (read_known_condition(table, key, cluster)) continue;
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
  for (const char* key :
       {"equal_degrees", "degree_tolerance", "unequal_degrees_gain", "exchange_ctas"}) {
    if (root.has(key)) read_known_condition(root, key, cluster);
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
  version == Version::One ? read_overlap(root, cluster) : read_contention(root, cluster);
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
std::string number(double value) {
  const std::string digits = fmt::format("{}", value);
  const bool is_whole = digits.find_first_not_of("-0123456789") == std::string::npos;
  return digits + (is_whole ? ".0" : "");
}
std::string line(const std::string& key, double value) {
  return fmt::format("{} = {}\n", key, number(value));
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

std::string fits_toml(const Cluster& cluster) {
  std::string text = "\n[fits]\n";
  for (const auto& [of, fit] : cluster.collectives) {
    text += fmt::format("\n[fits.{}.{}]\n", to_string(of.first), to_string(of.second)) +
            fit_toml<Bytes>(fit);
    if (fit.queued_saving > Seconds{}) text += line("queued_saving_s", fit.queued_saving.count());
  }
  for (const auto& [dtype, fit] : cluster.gemm) {
    text += fmt::format("\n[fits.gemm.{}]\n", to_string(dtype)) + fit_toml(fit);
  }
  for (const auto& [kernel, cost] : cluster.kernels) {
    const std::string table = fmt::format("\n[fits.{}]\n", to_string(kernel));
    std::visit(Overloaded{[&](const Fit<Bytes>& fit) { text += table + fit_toml(fit); },
                          [](NotModelled) {}},  // the key not_modelled lists it
               cost);
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

std::string slowdowns_toml(const SlowdownsByKind& by_kind) {
  const auto pair = [](const char* kind, const Slowdowns& of) {
    return fmt::format("{} = {{products = {}, collectives = {}}}\n", kind, number(of.products),
                       number(of.collectives));
  };
  return pair("forward", by_kind.forward) + pair("gradients", by_kind.gradients);
}

std::string contention_toml(const Cluster& cluster) {
  if (!cluster.contention) return "";
  std::string text = "\n[contention]\n" + slowdowns_toml(cluster.contention->general) +
                     line("source", cluster.contention->source);
  for (const ExpertContention& expert : cluster.contention->experts) {
    text +=
        "\n[[contention.expert]]\n" + sizes_toml(expert.sizes) + slowdowns_toml(expert.slowdowns);
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
  Cluster cluster = read(file, Version::One);
  // Fits that the conversion lengthens may leave their ranges: what it makes must read back.
  read_cluster(ConfigFile::parse(to_toml(cluster), file.name() + ", converted", "cluster"));
  return cluster;
}

std::string to_toml(const Cluster& cluster) {
  return line("schema", kClusterSchema) + line("name", cluster.name) +
         line("source", cluster.source) + line("nodes", cluster.nodes) +
         line("gpus_per_node", cluster.gpus_per_node) + not_modelled_toml(cluster) +
         conditions_toml(cluster) + gpu_toml(cluster) + network_toml(cluster) +
         contention_toml(cluster) + fits_toml(cluster);
}

}  // namespace pipemoe
