#include "experiments/validation_point.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "models/json_reader.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

// Each time and share with its column's name, for reading and writing alike.
template <class Point, class Visit>
void for_each_value(Point& point, Visit visit) {
  visit("predicted_forward_s", point.predicted_forward);
  visit("predicted_makespan_s", point.predicted_makespan);
  visit("closed_form_makespan_s", point.closed_form_makespan);
  visit("predicted_hidden", point.predicted_hidden);
  visit("limit_s", point.limit);
  visit("chosen", point.chosen);
  visit("closed_form_chosen", point.closed_form_chosen);
  visit("measured_forward_s", point.measured_forward);
  visit("measured_makespan_s", point.measured_makespan);
  visit("measured_min_s", point.measured_least);
  visit("measured_max_s", point.measured_most);
  visit("measured_hidden", point.measured_hidden);
}

double number(Seconds time) { return time.count(); }
double number(double share) { return share; }
double number(bool is) { return is ? 1 : 0; }
void assign(Seconds& time, double value) { time = Seconds{value}; }
void assign(double& share, double value) { share = value; }
void assign(bool& is, double value) { is = value != 0; }

}  // namespace

std::string to_json_line(const ValidationPoint& point) {
  Json json{{"regime", point.regime}, {"layer", point.layer}, {"degree", to_string(point.degrees)}};
  for_each_value(point, [&](const char* name, const auto& value) { json[name] = number(value); });
  return json.dump();
}

ValidationPoint validation_point_from(const std::string& line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  JsonObject object(json, "validation point");
  ValidationPoint point{object.text("regime"), object.text("layer"),
                        object.word("degree", degrees_from)};
  for_each_value(point, [&](const char* name, auto& value) { assign(value, object.number(name)); });
  object.finish();
  return point;
}

std::string to_csv(const std::vector<ValidationPoint>& points) {
  std::string text = "regime,layer,degree";
  ValidationPoint names;
  for_each_value(names, [&](const char* name, const auto&) { text += fmt::format(",{}", name); });
  text += ",relative_error\n";
  for (const ValidationPoint& point : points) {
    text += fmt::format("{},{},{}", point.regime, point.layer, to_string(point.degrees));
    for_each_value(
        point, [&](const char*, const auto& value) { text += fmt::format(",{}", number(value)); });
    text += fmt::format(",{}\n", point.relative_error());
  }
  return text;
}

}  // namespace pipemoe::program
