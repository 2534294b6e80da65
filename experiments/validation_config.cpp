#include "experiments/validation_config.hpp"

#include <cmath>
#include <set>

#include "models/cluster.hpp"
#include "models/config.hpp"
#include "models/schedule.hpp"

namespace pipemoe::program {
namespace {

MoeLayer read_layer_table(ConfigTable table, const std::string& name) {
  std::vector<Override> settings;
  for (const std::string& key : table.keys()) settings.push_back({key, table.toml(key)});
  ConfigFile file = ConfigFile::parse("", name, "layer", std::move(settings));
  return read_layer(file);
}

// Names stand in tables and file names.
std::string read_name(ConfigTable& table) {
  std::string name = table.text("name");
  if (name.empty() || name.find_first_of(",\"\n /") != std::string::npos) {
    table.fail("name", "must hold no comma, quote, slash or space: it stands in tables and files");
  }
  return name;
}

std::vector<MoeLayer> read_layers(ConfigTable& table) {
  std::vector<MoeLayer> layers;
  std::set<std::string> names;
  if (!table.has("layer")) return layers;
  for (ConfigTable& layer : table.tables("layer")) {
    const std::string name = read_name(layer);
    if (!names.insert(name).second) layer.fail("name", "stands twice");
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
        static_cast<int>(table.integer("exchange_ctas", 0, kMostExchangeCtas));
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
  schedule_has_degrees(validation.schedule);  // refuses an unknown one
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
    if (!names.insert(name).second) regime.fail("name", "stands twice");
  }
  if (validation.regimes.empty()) root.fail("regime", "must hold at least one regime");
  root.finish();
  validation.configuration = document.to_json();
  return validation;
}

}  // namespace pipemoe::program
