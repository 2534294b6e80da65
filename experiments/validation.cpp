#include "experiments/validation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "models/config.hpp"
#include "models/error.hpp"
#include "models/files.hpp"
#include "models/json_reader.hpp"
#include "models/limits.hpp"

namespace pipemoe::program {
namespace {

MoeLayer read_layer_table(ConfigTable table, const std::string& name) {
  std::vector<Override> settings;
  for (const std::string& key : table.keys()) settings.push_back({key, table.toml(key)});
  ConfigFile file = ConfigFile::parse("", name, "layer", std::move(settings));
  return read_layer(file);
}

// Names are used in tables and for files.
std::string read_name(ConfigTable& table) {
  std::string name = table.text("name");
  if (name.empty() || name.find_first_of(",\"\n /") != std::string::npos) {
    table.fail("name", "must have no comma, quote, slash or space: tables and files are named so");
  }
  return name;
}

std::vector<MoeLayer> read_layers(ConfigTable& table) {
  std::vector<MoeLayer> layers;
  std::set<std::string> names;
  if (!table.has("layer")) return layers;
  for (ConfigTable& layer : table.tables("layer")) {
    const std::string name = read_name(layer);
    if (!names.insert(name).second) layer.fail("name", "is there twice");
    layers.push_back(read_layer_table(layer, name));
  }
  return layers;
}

// What every regime has that does not say otherwise.
struct Shared {
  exec::ExecutorOptions backend;
  std::vector<MoeLayer> layers;
};

Regime read_regime(ConfigTable table, const Shared& shared) {
  Regime regime{read_name(table), shared.backend, read_layers(table)};
  if (table.has("communicator")) regime.backend.communicator = table.text("communicator");
  if (table.has("pack_rows")) regime.backend.pack_rows = table.boolean("pack_rows");
  if (table.has("exchange_ctas")) {
    regime.backend.exchange_ctas =
        static_cast<int>(table.integer("exchange_ctas", 0, exec::kMostExchangeCtas));
  }
  if (table.has("link")) regime.backend.link = exec::parse_link(table.text("link"));
  if (regime.layers.empty()) regime.layers = shared.layers;
  if (regime.layers.empty()) table.fail("layer", "must hold at least one layer");
  table.finish();
  return regime;
}

std::vector<std::int64_t> read_degrees(ConfigTable& table) {
  std::vector<std::int64_t> degrees;
  for (const double degree : table.numbers("degrees")) {
    if (degree < 1 || degree > kMostDegree || degree != std::floor(degree)) {
      table.fail("degrees", fmt::format("must hold integers 1..{}", kMostDegree));
    }
    degrees.push_back(static_cast<std::int64_t>(degree));
  }
  if (std::set<std::int64_t>(degrees.begin(), degrees.end()).size() != degrees.size()) {
    table.fail("degrees", "must hold each degree once");
  }
  if (degrees.empty() || degrees.front() != 1) {
    table.fail("degrees", "must begin with 1, what the others are compared with");
  }
  return degrees;
}

}  // namespace

Validation read_validation(const std::filesystem::path& file) {
  return parse_validation(read_file(file, "validation file"), file);
}

Validation parse_validation(std::string_view text, const std::filesystem::path& file) {
  const ConfigFile document = ConfigFile::parse(text, file.string(), "validation");
  ConfigTable root = document.root();
  Validation validation;
  validation.name = read_name(root);
  validation.schedule = root.text("schedule");
  find_schedule(validation.schedule);  // refuses an unknown one
  validation.degrees = read_degrees(root);
  validation.warm_up = static_cast<int>(root.integer("warm_up", 0, 10000));
  validation.repeats = static_cast<int>(root.integer("repeats", 1, 10000));
  validation.calibration_repeats =
      root.has("calibration_repeats")
          ? static_cast<int>(root.integer("calibration_repeats", 1, 10000))
          : validation.repeats;
  Shared shared{.layers = read_layers(root)};
  exec::ExecutorOptions& backend = shared.backend;
  if (root.has("backend")) backend.backend = root.text("backend");
  if (root.has("communicator")) backend.communicator = root.text("communicator");
  if (root.has("cuda_graph")) backend.cuda_graph = root.boolean("cuda_graph");
  if (root.has("pack_rows")) backend.pack_rows = root.boolean("pack_rows");
  std::set<std::string> names;
  for (ConfigTable& regime : root.tables("regime")) {
    validation.regimes.push_back(read_regime(regime, shared));
    const std::string& name = validation.regimes.back().name;
    if (!names.insert(name).second) regime.fail("name", "is there twice");
  }
  if (validation.regimes.empty()) root.fail("regime", "must hold at least one regime");
  root.finish();
  std::size_t layers = 0;
  for (const Regime& regime : validation.regimes) layers += regime.layers.size();
  if (layers > kMostValidationLayers) {
    throw InputError(fmt::format("{}: has {} layers in all its regimes, must be at most {}",
                                 file.string(), layers, kMostValidationLayers));
  }
  validation.configuration = document.to_json();
  return validation;
}

namespace {

using Json = nlohmann::ordered_json;

// Each time and share with its column's name, for reading and writing alike.
template <class Point, class Visit>
void for_each_prediction(Point& point, Visit visit) {
  visit("predicted_forward_s", point.predicted_forward);
  visit("predicted_makespan_s", point.predicted_makespan);
  visit("closed_form_makespan_s", point.closed_form_makespan);
  visit("predicted_hidden", point.predicted_hidden);
  for (const Basis basis : kBases) {
    visit((to_string(basis) + "_share").c_str(), point.basis[static_cast<std::size_t>(basis)]);
  }
  visit("limit_s", point.limit);
  visit("chosen", point.chosen);
  visit("closed_form_chosen", point.closed_form_chosen);
}
template <class Point, class Visit>
void for_each_value(Point& point, Visit visit) {
  for_each_prediction(point, visit);
  visit("measured_forward_s", point.measured_forward);
  visit("measured_makespan_s", point.measured_makespan);
  visit("measured_min_s", point.measured_least);
  visit("measured_max_s", point.measured_most);
  visit("measured_hidden", point.measured_hidden);
}

double number(Seconds time) { return time.count(); }
double number(double share) { return share; }
double number(bool is) { return is ? 1 : 0; }

}  // namespace

bool same_place(const ValidationPoint& a, const ValidationPoint& b) {
  return a.regime == b.regime && a.layer == b.layer && a.degrees == b.degrees;
}

bool same_prediction(const ValidationPoint& a, const ValidationPoint& b) {
  constexpr double kRounding = 1e-6;
  std::vector<double> of_a, of_b;
  for_each_prediction(a, [&](const char*, const auto& value) { of_a.push_back(number(value)); });
  for_each_prediction(b, [&](const char*, const auto& value) { of_b.push_back(number(value)); });
  return same_place(a, b) &&
         std::equal(of_a.begin(), of_a.end(), of_b.begin(), [](double one, double other) {
           return std::abs(one - other) <= kRounding * one;
         });
}

std::string to_json_line(const ValidationPoint& point) {
  Json json{{"regime", point.regime}, {"layer", point.layer}, {"degree", to_string(point.degrees)}};
  for_each_value(point, [&](const char* name, const auto& value) { json[name] = number(value); });
  return json.dump();
}

namespace {

// Reads a value and checks that a measurement or a prediction can have it.
class PointReader {
 public:
  explicit PointReader(JsonObject& object) : object_(object) {}

  void operator()(const char* name, Seconds& time) const { time = Seconds{number(name, 1e12)}; }
  void operator()(const char* name, double& share) const { share = number(name, 1 + 1e-6); }
  void operator()(const char* name, bool& is) const {
    const double value = number(name, 1);
    if (value != 0 && value != 1) object_.fail(name, "must be 0 or 1");
    is = value != 0;
  }

 private:
  double number(const char* name, double most) const {
    const double value = object_.number(name);
    if (value < 0 || value > most) object_.fail(name, fmt::format("must be 0..{:g}", most));
    return value;
  }

  JsonObject& object_;
};

void check_is_of(const Validation& validation, const ValidationPoint& point) {
  for (const Regime& regime : validation.regimes) {
    if (regime.name != point.regime) continue;
    for (const MoeLayer& layer : regime.layers) {
      const auto [forward, backward] = point.degrees;
      if (layer.name != point.layer) continue;
      const auto is_tried = [&](std::int64_t degree) {
        const auto& all = validation.degrees;
        return std::find(all.begin(), all.end(), degree) != all.end() && degree <= layer.slots();
      };
      if (is_tried(forward) && is_tried(backward)) return;
      throw InputError(
          fmt::format("degree {} is none of the validation's", to_string(point.degrees)));
    }
    throw InputError(fmt::format("regime {} has no layer {}", point.regime, point.layer));
  }
  throw InputError(fmt::format("the validation has no regime {}", point.regime));
}

}  // namespace

ValidationPoint validation_point_from(const JournalLine& line, const Validation& validation) {
  const Json json = parse_json(line.text, line.where);
  try {
    JsonObject object(json, "point");
    ValidationPoint point{object.text("regime"), object.text("layer"),
                          object.word("degree", degrees_from)};
    for_each_value(point, PointReader(object));
    object.finish();
    if (point.measured_makespan <= Seconds{} || point.measured_least > point.measured_makespan ||
        point.measured_most < point.measured_makespan) {
      object.fail("measured_makespan_s",
                  "must be positive and within measured_min_s..measured_max_s");
    }
    check_is_of(validation, point);
    return point;
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: {}", line.where, error.what()));
  }
}

std::vector<ValidationPoint> validation_points_from(const std::vector<JournalLine>& lines,
                                                    const Validation& validation) {
  std::vector<ValidationPoint> points;
  for (const JournalLine& line : lines) {
    points.push_back(validation_point_from(line, validation));
    const ValidationPoint& last = points.back();
    for (std::size_t i = 0; i + 1 < points.size(); ++i) {
      if (!same_place(points[i], last)) continue;
      throw InputError(fmt::format("{}: {} {} at {} is there twice", line.where, last.regime,
                                   last.layer, to_string(last.degrees)));
    }
  }
  return points;
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
