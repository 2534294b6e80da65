#include "experiments/validation.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "models/config.hpp"
#include "models/json_reader.hpp"

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
    if (degree < 1 || degree > 1e6 || degree != std::floor(degree)) {
      table.fail("degrees", "must hold integers >= 1");
    }
    degrees.push_back(static_cast<std::int64_t>(degree));
  }
  if (degrees.empty() || degrees.front() != 1) {
    table.fail("degrees", "must begin with 1, what the others are compared with");
  }
  return degrees;
}

}  // namespace

Validation read_validation(const std::filesystem::path& file) {
  const ConfigFile document = ConfigFile::load(file, "validation");
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
  validation.configuration = document.to_json();
  return validation;
}

namespace {

using Json = nlohmann::ordered_json;

// Each time and share with its column's name, for reading and writing alike.
template <class Point, class Visit>
void for_each_value(Point& point, Visit visit) {
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
