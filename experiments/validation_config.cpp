#include "experiments/validation_config.hpp"

#include <cmath>
#include <set>

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

Regime read_regime(ConfigTable table, const exec::BackendOptions& backend,
                   std::set<std::string>& names) {
  Regime regime;
  regime.name = read_name(table);
  if (!names.insert(regime.name).second) table.fail("name", "stands twice");
  regime.backend = backend;
  if (table.has("link")) regime.backend.link = exec::parse_link(table.text("link"));
  for (ConfigTable& layer : table.tables("layer")) {
    const std::string name = read_name(layer);
    if (!names.insert(name).second) layer.fail("name", "stands twice");
    regime.layers.push_back(read_layer_table(layer, name));
  }
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
  exec::BackendOptions backend;
  if (root.has("backend")) backend.backend = root.text("backend");
  if (root.has("communicator")) backend.communicator = root.text("communicator");
  if (root.has("cuda_graph")) backend.cuda_graph = root.boolean("cuda_graph");
  std::set<std::string> names;
  for (ConfigTable& regime : root.tables("regime")) {
    validation.regimes.push_back(read_regime(regime, backend, names));
  }
  if (validation.regimes.empty()) root.fail("regime", "must hold at least one regime");
  root.finish();
  validation.configuration = document.to_json();
  return validation;
}

}  // namespace pipemoe::program
