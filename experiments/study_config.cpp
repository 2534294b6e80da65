#include "experiments/study_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"
#include "models/schedule.hpp"

namespace pipemoe::program {
namespace {

constexpr std::int64_t kMaxDegree = 512;
constexpr std::size_t kMaxPoints = 1'000'000;

// One axis of the grid: a key of the layer or of the cluster, and its values as TOML.
struct Axis {
  std::string kind, key;
  std::vector<std::string> values;
};

std::vector<Override> read_settings(ConfigTable table) {
  std::vector<Override> settings;
  for (const std::string& key : table.keys()) settings.push_back({key, table.toml(key)});
  return settings;
}

// A study's own layer key: num_experts that follows the cluster's size.
constexpr const char* kExpertsPerRank = "experts_per_rank";

void check_experts_per_rank(ConfigTable& table, const std::string& key) {
  for (const double experts : table.numbers(key)) {
    if (experts < 1 || experts > 1024 || experts != std::floor(experts)) {
      table.fail(key, fmt::format("holds {}, must hold integers 1..1024", experts));
    }
  }
}

void read_axes(ConfigTable grid, std::vector<Axis>& axes) {
  for (const char* kind : {"layer", "cluster"}) {
    if (!grid.has(kind)) continue;
    ConfigTable table = grid.table(kind);
    for (const std::string& key : table.keys()) {
      axes.push_back({kind, key, table.toml_items(key)});
      if (key == kExpertsPerRank) check_experts_per_rank(table, key);
      if (axes.back().values.empty()) table.fail(key, "must hold at least one value");
    }
  }
  grid.finish();
}

std::vector<std::int64_t> range_of(ConfigTable& table, const std::string& name) {
  const std::string text = table.text(name);
  const auto dots = text.find("..");
  std::int64_t from = 0, to = 0;
  const char* end = text.data() + text.size();
  const bool good =
      dots != std::string::npos &&
      std::from_chars(text.data(), text.data() + dots, from).ptr == text.data() + dots &&
      std::from_chars(text.data() + dots + 2, end, to).ptr == end;
  if (!good || from < 1 || to < from || to > kMaxDegree) {
    table.fail(name, fmt::format("is {}, must be FROM..TO within 1..{}", text, kMaxDegree));
  }
  std::vector<std::int64_t> degrees;
  for (std::int64_t degree = from; degree <= to; ++degree) degrees.push_back(degree);
  return degrees;
}

std::vector<StudySchedule> read_schedules(ConfigTable table) {
  std::vector<StudySchedule> schedules;
  for (const std::string& name : schedule_names()) {  // in the registry's order
    if (!table.has(name)) continue;
    StudySchedule schedule{name, {}};
    if (table.is_text(name)) {
      schedule.degrees = range_of(table, name);
    } else {
      for (const double degree : table.numbers(name)) {
        schedule.degrees.push_back(static_cast<std::int64_t>(degree));
        if (degree < 1 || degree > kMaxDegree ||
            degree != static_cast<double>(schedule.degrees.back())) {
          table.fail(name, fmt::format("holds {}, must hold degrees 1..{}", degree, kMaxDegree));
        }
      }
    }
    if (!schedule_has_degrees(name) && schedule.degrees != std::vector<std::int64_t>{1}) {
      table.fail(name, "must be [1]: this schedule has no degree");
    }
    schedules.push_back(std::move(schedule));
  }
  table.finish();
  return schedules;
}

struct Template {
  std::filesystem::path folder;
  std::vector<std::string> cluster_files;
  std::vector<Override> layer, cluster;
  std::int64_t experts_per_rank = 0;  // 0: the layer says num_experts
  bool must_fit_memory = false;
  std::vector<Axis> axes;
};

StudyPoint make_point(const Template& from, const std::string& cluster_file,
                      const std::vector<std::size_t>& chosen) {
  StudyPoint point;
  point.cluster_file = cluster_file;
  std::vector<Override> layer = from.layer, cluster = from.cluster;
  std::int64_t experts_per_rank = from.experts_per_rank;
  for (std::size_t i = 0; i < from.axes.size(); ++i) {
    const Axis& axis = from.axes[i];
    const std::string& value = axis.values[chosen[i]];
    point.values.emplace_back(axis.key, value);
    if (axis.key == kExpertsPerRank) {
      experts_per_rank = std::stoll(value);
    } else {
      (axis.kind == "layer" ? layer : cluster).push_back({axis.key, value});
    }
  }
  point.cluster =
      read_cluster(ConfigFile::load(from.folder / cluster_file, "cluster", std::move(cluster)));
  if (experts_per_rank > 0) {
    layer.push_back({"num_experts", std::to_string(experts_per_rank * point.cluster.num_ranks())});
  }
  layer.push_back({"name", fmt::format("\"{}\"", point.cluster.name)});
  ConfigFile file = ConfigFile::parse("", "the study's layer", "layer", std::move(layer));
  point.layer = read_layer(file);
  return point;
}

// Calls visit with every combination of one value from each axis, the last axis fastest.
template <class Visit>
void for_each_combination(const std::vector<Axis>& axes, Visit visit) {
  std::vector<std::size_t> chosen(axes.size(), 0);
  for (;;) {
    visit(chosen);
    std::size_t axis = axes.size();
    while (axis > 0 && ++chosen[axis - 1] == axes[axis - 1].values.size()) chosen[--axis] = 0;
    if (axis == 0) return;
  }
}

void expand(const Template& from, Study& study) {
  for (const std::string& cluster_file : from.cluster_files) {
    for_each_combination(from.axes, [&](const std::vector<std::size_t>& chosen) {
      StudyPoint point = make_point(from, cluster_file, chosen);
      const bool fits =
          point.layer.memory_per_rank(point.cluster.num_ranks()) <= point.cluster.gpu.usable_memory;
      auto& group = fits || !from.must_fit_memory ? study.points : study.left_out;
      point.index = study.points.size();
      group.push_back(std::move(point));
      if (study.points.size() > kMaxPoints) throw InputError("the study has over a million points");
    });
  }
}

}  // namespace

Study read_study(const std::filesystem::path& file, const std::string& network) {
  const ConfigFile document = ConfigFile::load(file, "study");
  ConfigTable root = document.root();
  Study study;
  Template from;
  from.folder = file.parent_path();
  study.name = root.text("name");
  if (study.name.find_first_of(",\"\n ") != std::string::npos) {
    root.fail("name", "must hold no comma, quote or space: it stands in tables");
  }
  study.note = root.has("note") ? root.text("note") : "";
  const std::string level = root.text("network");
  study.network = sim::network_from(network.empty() ? level : network);
  from.cluster_files = root.texts("clusters");
  if (from.cluster_files.empty()) root.fail("clusters", "must name at least one file");
  if (root.has(kExpertsPerRank)) {
    from.experts_per_rank = root.integer(kExpertsPerRank, 1, 1024);
  }
  from.must_fit_memory = root.has("fits_memory") && root.boolean("fits_memory");
  if (root.has("layer")) from.layer = read_settings(root.table("layer"));
  if (root.has("cluster")) from.cluster = read_settings(root.table("cluster"));
  if (root.has("grid")) read_axes(root.table("grid"), from.axes);
  study.schedules = read_schedules(root.table("schedules"));
  root.finish();
  for (const Axis& axis : from.axes) study.grid_keys.push_back(axis.key);
  expand(from, study);
  study.configuration = "{\"study\":" + document.to_json();
  for (const std::string& cluster : from.cluster_files) {
    study.configuration += fmt::format(
        ",\"{}\":{}", cluster, ConfigFile::load(from.folder / cluster, "cluster").to_json());
  }
  study.configuration += "}";
  return study;
}

}  // namespace pipemoe::program
