#include "experiments/study_point.hpp"

#include <algorithm>
#include <exception>
#include <nlohmann/json.hpp>

#include "models/cost_model.hpp"
#include "models/error.hpp"
#include "models/plan.hpp"
#include "models/schedule.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

bool possible(const StudySchedule& tried, std::int64_t degree, const MoeLayer& layer) {
  if (degree > layer.slots()) return false;
  return tried.name != "tutel" || layer.slots() % degree == 0;  // it would pad
}

void simulate_all(const Study& study, const StudyPoint& point, PointResult& result) {
  for (const StudySchedule& tried : study.schedules) {
    for (const std::int64_t degree : tried.degrees) {
      if (!possible(tried, degree, point.layer)) continue;
      const TaskGraph graph = schedule(tried.name, point.layer, point.cluster, {degree, degree});
      CostModel(point.cluster).check(graph);
      const PhaseTimes times = sim::simulated_times(graph, point.cluster, study.network);
      result.runs.push_back({tried.name, degree, times.forward.count(), times.backward.count()});
    }
  }
}

void choose_degrees(const Study& study, const StudyPoint& point, PointResult& result) {
  for (const StudySchedule& tried : study.schedules) {
    const std::int64_t largest = *std::max_element(tried.degrees.begin(), tried.degrees.end());
    if (tried.name == "pipemoe") {
      result.chosen = make_plan(point.layer, point.cluster, largest).degrees();
      result.whole_slots = choose_degrees_by_graph(point.layer, point.cluster, largest);
    } else if (tried.name == "pipemoe-deferred") {
      result.deferred_degree = choose_deferred_degree(point.layer, point.cluster, largest).degree;
    }
  }
}

}  // namespace

PointResult run_point(const Study& study, const StudyPoint& point) {
  PointResult result;
  result.point = point.index;
  try {
    choose_degrees(study, point, result);
    simulate_all(study, point, result);
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
                    result.deferred_degree, result.whole_slots.forward_degree,
                    result.whole_slots.backward_degree};
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
    result.deferred_degree = chosen[2];
    result.whole_slots = {chosen[3], chosen[4]};
    for (const Json& run : json.at("runs")) {
      result.runs.push_back({run.at(0).get<std::string>(), run.at(1).get<std::int64_t>(),
                             run.at(2).get<double>(), run.at(3).get<double>()});
    }
    return result;
  } catch (const nlohmann::json::exception& error) {
    throw InputError(std::string("not a study's line: ") + error.what());
  }
}

}  // namespace pipemoe::program
