#include "experiments/study.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <exception>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "experiments/inputs.hpp"
#include "experiments/journal.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"
#include "models/files.hpp"
#include "models/json_reader.hpp"
#include "models/limits.hpp"

namespace pipemoe::program {
namespace {

constexpr std::int64_t kMaxDegree = 512;

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
        if (degree < 1 || degree > kMaxDegree || degree != std::floor(degree)) {
          table.fail(name, fmt::format("holds {}, must hold degrees 1..{}", degree, kMaxDegree));
        }
        schedule.degrees.push_back(static_cast<std::int64_t>(degree));
      }
      if (schedule.degrees.empty()) table.fail(name, "must hold at least one degree");
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

// Reads each cluster file once for all points that override it alike.
class Clusters {
 public:
  std::shared_ptr<const Cluster> get(const std::filesystem::path& file,
                                     std::vector<Override> overrides) {
    std::string key = file.string();
    for (const Override& one : overrides) key += fmt::format("\n{}={}", one.key, one.value);
    std::shared_ptr<const Cluster>& cluster = known_[key];
    if (cluster == nullptr) {
      cluster = std::make_shared<Cluster>(
          read_cluster(ConfigFile::load(file, "cluster", std::move(overrides))));
    }
    return cluster;
  }

 private:
  std::map<std::string, std::shared_ptr<const Cluster>> known_;
};

// A string of JSON, and for what a profile or a path may hold also one of TOML.
std::string json_string(const std::string& text) { return nlohmann::ordered_json(text).dump(); }

StudyPoint make_point(const Template& from, const std::string& cluster_file,
                      const std::vector<std::size_t>& chosen, Clusters& clusters) {
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
  point.cluster = clusters.get(from.folder / cluster_file, std::move(cluster));
  if (experts_per_rank > 0) {
    layer.push_back({"num_experts", std::to_string(experts_per_rank * point.cluster->num_ranks())});
  }
  layer.push_back({"name", json_string(point.cluster->name)});
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

void check_size(const Template& from) {
  double points = static_cast<double>(from.cluster_files.size());
  for (const Axis& axis : from.axes) points *= static_cast<double>(axis.values.size());
  if (points <= static_cast<double>(kMostStudyPoints)) return;
  throw InputError(
      fmt::format("the study's grid has {:g} points on all its clusters, must be at most "
                  "{}: split it into several studies",
                  points, kMostStudyPoints));
}

void expand(const Template& from, Study& study) {
  check_size(from);
  Clusters clusters;
  for (const std::string& cluster_file : from.cluster_files) {
    for_each_combination(from.axes, [&](const std::vector<std::size_t>& chosen) {
      StudyPoint point = make_point(from, cluster_file, chosen, clusters);
      const bool fits = point.layer.memory_per_rank(point.cluster->num_ranks()) <=
                        point.cluster->gpu.usable_memory;
      auto& group = fits || !from.must_fit_memory ? study.points : study.left_out;
      if (point.cluster->name.find('/') != std::string::npos) {
        throw InputError(fmt::format("{}: name is {}, must have no slash: files are named so",
                                     cluster_file, point.cluster->name));
      }
      point.index = study.points.size();
      group.push_back(std::move(point));
    });
  }
}

// A schedule that the study has, as one of its keys names it. Its degrees are chosen among all up
// to the largest one, so that each of them must be tried.
std::string read_studied(ConfigTable& root, const std::string& key, const Study& study) {
  const std::string name = root.text(key);
  const auto studied = std::find_if(study.schedules.begin(), study.schedules.end(),
                                    [&](const StudySchedule& one) { return one.name == name; });
  if (studied == study.schedules.end()) {
    root.fail(key, fmt::format("is {}, must be one of [schedules]", name));
  }
  const std::set<std::int64_t> tried(studied->degrees.begin(), studied->degrees.end());
  const std::int64_t largest = *tried.rbegin();
  if (static_cast<std::int64_t>(tried.size()) < largest) {
    root.fail(key, fmt::format("is {0}, so that schedules.{0} must have every degree of 1..{1}",
                               name, largest));
  }
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
  return parse_study(read_file(file, "study file"), file, network);
}

Study parse_study(std::string_view text, const std::filesystem::path& file,
                  const std::string& network) {
  const ConfigFile document = ConfigFile::parse(text, file.string(), "study");
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
  if (study.variant == study.subject) {
    root.fail("variant",
              fmt::format("is {}, must be another schedule than subject", study.variant));
  }
  root.finish();
  study.note += inert_axes(study, from);
  for (const Axis& axis : from.axes) study.grid_keys.push_back(axis.key);
  expand(from, study);
  study.configuration = "{\"study\":" + document.to_json();
  for (const std::string& cluster : from.cluster_files) {
    study.configuration +=
        fmt::format(",{}:{}", json_string(cluster),
                    ConfigFile::load(from.folder / cluster, "cluster").to_json());
  }
  study.configuration += "}";
  return study;
}

namespace {

using Json = nlohmann::ordered_json;

// Whether the layer can have this degree in both passes.
bool can_have(const Schedule& schedule, const StudyPoint& point, std::int64_t degree) {
  const auto knobs = schedule.knobs(point.layer, *point.cluster, degree);
  return std::all_of(knobs.begin(), knobs.end(), [&](const Knob& knob) {
    return std::binary_search(knob.values.begin(), knob.values.end(), degree);
  });
}

// Each schedule with every degree that the study tries and the layer can have.
std::vector<std::pair<std::string, std::int64_t>> runs_of(const Study& study,
                                                          const StudyPoint& point) {
  std::vector<std::pair<std::string, std::int64_t>> runs;
  for (const StudySchedule& tried : study.schedules) {
    const Schedule& schedule = find_schedule(tried.name);
    for (const std::int64_t degree : tried.degrees) {
      if (can_have(schedule, point, degree)) runs.emplace_back(tried.name, degree);
    }
  }
  return runs;
}

void evaluate_all(const Study& study, const StudyPoint& point, const Evaluator& evaluator,
                  PointResult& result) {
  for (const auto& [name, degree] : runs_of(study, point)) {
    const Schedule& schedule = find_schedule(name);
    const Choice choice = choice_of(schedule, point.layer, *point.cluster, {degree, degree});
    const TaskGraph graph = build_graph(schedule, point.layer, *point.cluster, choice);
    const PassTimes times = evaluator.times(Costs(graph, *point.cluster));
    result.runs.push_back({name, degree, times.forward.count(), times.backward.count()});
  }
}

// What the evaluation at these degrees rests on.
BasisShares basis_of(const Evaluator& evaluator, const StudyPoint& point, const Schedule& schedule,
                     Degrees degrees) {
  const Choice choice = choice_of(schedule, point.layer, *point.cluster, degrees);
  const TaskGraph graph = build_graph(schedule, point.layer, *point.cluster, choice);
  const Evaluation made = evaluator.evaluation(Costs(graph, *point.cluster));
  return made.timeline.basis.value_or(BasisShares{});
}

void choose_degrees(const Study& study, const StudyPoint& point, const Evaluator& evaluator,
                    PointResult& result) {
  for (const StudySchedule& tried : study.schedules) {
    const Schedule& schedule = find_schedule(tried.name);
    Preference preference = preference_of(point.cluster->conditions);
    preference.max_degree = *std::max_element(tried.degrees.begin(), tried.degrees.end());
    const auto chosen = [&](const Preference& by) {
      const Choice choice = search_choice(schedule, point.layer, *point.cluster, by);
      return degrees_of(build_graph(schedule, point.layer, *point.cluster, choice));
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
  } catch (const std::bad_alloc&) {
    throw;  // this says more about the machine than about the point
  } catch (const std::exception& error) {
    result.runs.clear();
    result.error = printable(error.what());
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

namespace {

std::int64_t integer_in(const Json& json, std::int64_t from, std::int64_t to, const char* what) {
  const std::int64_t value = json.is_number_integer() ? json.get<std::int64_t>() : from - 1;
  if (value >= from && value <= to) return value;
  throw InputError(fmt::format("{} must be an integer {}..{}", what, from, to));
}

double number_in(const Json& json, double to, const char* what) {
  const double value = json.is_number() ? json.get<double>() : -1;
  if (value >= 0 && value <= to) return value;
  throw InputError(fmt::format("{} must be a number 0..{:g}", what, to));
}

const Json& list_of(const Json& json, std::size_t size, const char* what) {
  if (json.is_array() && json.size() == size) return json;
  throw InputError(fmt::format("{} must be a list of {}", what, size));
}

PointRun run_from(const Json& json, const std::pair<std::string, std::int64_t>& expected) {
  constexpr double kMostSeconds = 1e12;
  list_of(json, 4, "a run");
  const auto& [schedule, degree] = expected;
  if (json[0] != schedule || json[1] != degree) {
    throw InputError(fmt::format("a run must be of {} at degree {}", schedule, degree));
  }
  return {schedule, degree, number_in(json[2], kMostSeconds, "a time"),
          number_in(json[3], kMostSeconds, "a time")};
}

void check_evaluated(const PointResult& result, const std::string& schedule, std::int64_t degree) {
  for (const PointRun& run : result.runs) {
    if (run.schedule == schedule && run.degree == degree) return;
  }
  throw InputError(fmt::format("the chosen degree {} of {} has no run", degree, schedule));
}

PointResult result_from(const Json& json, const Study& study) {
  JsonObject object(json, "point");
  PointResult result;
  const auto last = static_cast<std::int64_t>(study.points.size()) - 1;
  result.point = static_cast<std::size_t>(object.integer("point", 0, last));
  if (object.has("error")) {
    result.error = object.text("error");
    if (result.error.empty()) object.fail("error", "must not be empty");
    object.finish();
    return result;
  }
  const Json& chosen = list_of(object.array("chosen"), 5, "chosen");
  const auto degree = [&](std::size_t i, std::int64_t least) {
    return integer_in(chosen[i], least, kMaxDegree, "a chosen degree");
  };
  result.chosen = {degree(0, 1), degree(1, 1)};
  result.variant_degree = degree(2, 0);
  result.whole_slots = {degree(3, 1), degree(4, 1)};
  const Json& basis = list_of(object.array("basis"), kBases.size(), "basis");
  for (std::size_t i = 0; i < kBases.size(); ++i) {
    result.basis[i] = number_in(basis[i], 1 + 1e-6, "a share");
  }
  const auto expected = runs_of(study, study.points[result.point]);
  const Json& runs = list_of(object.array("runs"), expected.size(), "runs");
  for (std::size_t i = 0; i < runs.size(); ++i) {
    result.runs.push_back(run_from(runs[i], expected[i]));
  }
  object.finish();
  check_evaluated(result, study.subject, result.chosen.forward_degree);
  check_evaluated(result, study.subject, result.chosen.backward_degree);
  if (!study.variant.empty()) check_evaluated(result, study.variant, result.variant_degree);
  return result;
}

}  // namespace

PointResult point_from_json_line(const JournalLine& line, const Study& study) {
  const Json json = parse_json(line.text, line.where);
  try {
    return result_from(json, study);
  } catch (const std::exception& error) {
    throw InputError(fmt::format("{}: {}", line.where, error.what()));
  }
}

std::filesystem::path journal_path(const std::filesystem::path& folder, const std::string& shard) {
  return folder / (shard.empty() ? "points.jsonl" : "points." + shard + ".jsonl");
}

void add_points(const std::vector<JournalLine>& lines, const Study& study,
                std::map<std::size_t, PointResult>& finished) {
  for (const JournalLine& line : lines) {
    PointResult result = point_from_json_line(line, study);
    const std::size_t point = result.point;
    if (finished.emplace(point, std::move(result)).second) continue;
    throw InputError(fmt::format("{}: point {} is there twice", line.where, point));
  }
}

std::map<std::size_t, PointResult> read_journals(const std::filesystem::path& folder,
                                                 const JournalHeader& header, const Study& study) {
  std::map<std::size_t, PointResult> finished;
  if (!std::filesystem::is_directory(folder)) return finished;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("points.") || !name.ends_with(".jsonl")) continue;
    add_points(read_journal(entry.path(), header), study, finished);
  }
  return finished;
}

}  // namespace pipemoe::program
