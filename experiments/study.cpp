#include "experiments/study.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "experiments/inputs.hpp"
#include "experiments/journal.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"

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

// Whatever the layer: its knobs' names do not depend on it.
bool has_degrees(const std::string& schedule) {
  const MoeLayer layer{.tokens_per_rank = 1, .num_experts = 1, .top_k = 1};
  Cluster cluster;
  cluster.nodes = cluster.gpus_per_node = 1;
  return !find_schedule(schedule).knobs(layer, cluster, 1).empty();
}

std::vector<StudySchedule> read_schedules(ConfigTable table) {
  std::vector<StudySchedule> schedules;
  for (const Schedule& known : all_schedules()) {  // in the order of their list
    const std::string& name = known.name;
    if (!table.has(name)) continue;
    StudySchedule schedule{known.name, {}};
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
    if (!has_degrees(known.name) && schedule.degrees != std::vector<std::int64_t>{1}) {
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

// A schedule that the study has, as one of its keys names it.
std::string read_studied(ConfigTable& root, const std::string& key, const Study& study) {
  const std::string name = root.text(key);
  const bool known = std::any_of(study.schedules.begin(), study.schedules.end(),
                                 [&](const StudySchedule& one) { return one.name == name; });
  if (!known) root.fail(key, fmt::format("is {}, must be one of [schedules]", name));
  return name;
}

// What the study's note must say of links that it changes where nothing knows them.
std::string inert_axes(const Study& study, const Template& from) {
  std::vector<Override> cluster = from.cluster;
  for (const Axis& axis : from.axes) {
    if (axis.kind == "cluster") cluster.push_back({axis.key, ""});
  }
  std::string text;
  for (const std::string& note : inert_overrides(cluster, study.network)) {
    text += (study.note.empty() && text.empty() ? "" : "; ") + note;
  }
  return text;
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
    root.fail("name", "must have no comma, quote or space: tables show it");
  }
  study.note = root.has("note") ? root.text("note") : "";
  const std::string level = root.text("network");
  study.network = network_level_from(network.empty() ? level : network);
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
  study.subject = read_studied(root, "subject", study);
  if (root.has("variant")) study.variant = read_studied(root, "variant", study);
  root.finish();
  study.note += inert_axes(study, from);
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

namespace {

using Json = nlohmann::ordered_json;

// The degree for both passes; absent where the layer cannot have it.
std::optional<Choice> choice_for(const Schedule& schedule, const StudyPoint& point,
                                 std::int64_t degree) {
  const auto& [index, file, values, layer, cluster] = point;
  for (const Knob& knob : schedule.knobs(layer, cluster, degree)) {
    if (!std::binary_search(knob.values.begin(), knob.values.end(), degree)) return std::nullopt;
  }
  return choice_of(schedule, layer, cluster, {degree, degree});
}

void evaluate_all(const Study& study, const StudyPoint& point, const Evaluator& evaluator,
                  PointResult& result) {
  for (const StudySchedule& tried : study.schedules) {
    const Schedule& schedule = find_schedule(tried.name);
    for (const std::int64_t degree : tried.degrees) {
      const auto choice = choice_for(schedule, point, degree);
      if (!choice) continue;
      const TaskGraph graph = build_graph(schedule, point.layer, point.cluster, *choice);
      const PassTimes times = evaluator.times(Costs(graph, point.cluster));
      result.runs.push_back({tried.name, degree, times.forward.count(), times.backward.count()});
    }
  }
}

// What the evaluation at these degrees rests on.
BasisShares basis_of(const Evaluator& evaluator, const StudyPoint& point, const Schedule& schedule,
                     Degrees degrees) {
  const Choice choice = choice_of(schedule, point.layer, point.cluster, degrees);
  const TaskGraph graph = build_graph(schedule, point.layer, point.cluster, choice);
  const Evaluation made = evaluator.evaluation(Costs(graph, point.cluster));
  return made.timeline.basis.value_or(BasisShares{});
}

void choose_degrees(const Study& study, const StudyPoint& point, const Evaluator& evaluator,
                    PointResult& result) {
  for (const StudySchedule& tried : study.schedules) {
    const Schedule& schedule = find_schedule(tried.name);
    Preference preference = preference_of(point.cluster.conditions);
    preference.max_degree = *std::max_element(tried.degrees.begin(), tried.degrees.end());
    const auto chosen = [&](const Preference& by) {
      const Choice choice = search_choice(schedule, point.layer, point.cluster, by);
      return degrees_of(build_graph(schedule, point.layer, point.cluster, choice));
    };
    const Preference fastest{.max_degree = preference.max_degree, .closed_form = false};
    if (tried.name == study.subject) {
      result.chosen = chosen(preference);
      result.basis = basis_of(evaluator, point, schedule, result.chosen);
      result.whole_slots = chosen(fastest);
    } else if (tried.name == study.variant) {
      result.variant_degree = chosen(fastest).backward_degree;
    }
  }
}

}  // namespace

PointResult run_point(const Study& study, const StudyPoint& point) {
  PointResult result;
  result.point = point.index;
  try {
    const Evaluator evaluator = evaluator_for(study.network);
    choose_degrees(study, point, evaluator, result);
    evaluate_all(study, point, evaluator, result);
  } catch (const std::exception& error) {
    result.runs.clear();
    result.error = error.what();
  }
  return result;
}

std::string to_json_line(const PointResult& result) {
  Json json{{"point", result.point}};
  if (!result.error.empty()) {
    json["error"] = result.error;
    return json.dump();
  }
  json["chosen"] = {result.chosen.forward_degree, result.chosen.backward_degree,
                    result.variant_degree, result.whole_slots.forward_degree,
                    result.whole_slots.backward_degree};
  json["basis"] = result.basis;
  json["runs"] = Json::array();
  for (const PointRun& run : result.runs) {
    json["runs"].push_back({run.schedule, run.degree, run.forward_s, run.backward_s});
  }
  return json.dump();
}

PointResult point_from_json_line(const std::string& line) {
  try {
    const Json json = Json::parse(line);
    PointResult result;
    result.point = json.at("point").get<std::size_t>();
    if (json.contains("error")) {
      result.error = json["error"].get<std::string>();
      return result;
    }
    const auto chosen = json.at("chosen").get<std::array<std::int64_t, 5>>();
    result.chosen = {chosen[0], chosen[1]};
    result.variant_degree = chosen[2];
    result.whole_slots = {chosen[3], chosen[4]};
    result.basis = json.at("basis").get<BasisShares>();
    for (const Json& run : json.at("runs")) {
      result.runs.push_back({run.at(0).get<std::string>(), run.at(1).get<std::int64_t>(),
                             run.at(2).get<double>(), run.at(3).get<double>()});
    }
    return result;
  } catch (const nlohmann::json::exception& error) {
    throw InputError(std::string("not a study's line: ") + error.what());
  }
}

std::filesystem::path journal_path(const std::filesystem::path& folder, const std::string& shard) {
  return folder / (shard.empty() ? "points.jsonl" : "points." + shard + ".jsonl");
}

std::map<std::size_t, PointResult> read_journals(const std::filesystem::path& folder,
                                                 const std::string& header) {
  std::map<std::size_t, PointResult> finished;
  if (!std::filesystem::is_directory(folder)) return finished;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("points.") || !name.ends_with(".jsonl")) continue;
    for (const std::string& line : read_journal(entry.path(), header)) {
      PointResult result = point_from_json_line(line);
      finished[result.point] = std::move(result);
    }
  }
  return finished;
}

}  // namespace pipemoe::program
