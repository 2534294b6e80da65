#include "models/config.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <cmath>
#include <limits>
#include <sstream>

#include "models/error.hpp"
#include "models/files.hpp"

namespace pipemoe {
namespace {

std::string shown(const toml::node& node) {
  std::ostringstream text;
  node.visit([&](const auto& value) { text << value; });
  return text.str();
}

// The number nearest to an integer or a float; NaN for anything else. toml++ itself turns only
// those integers into a double that a double holds exactly.
double as_double(const toml::node& node) {
  if (const auto* integer = node.as_integer()) return static_cast<double>(integer->get());
  if (const auto* number = node.as_floating_point()) return number->get();
  return std::numeric_limits<double>::quiet_NaN();
}

std::vector<std::string> split_at_dots(const std::string& key) {
  std::vector<std::string> parts;
  std::istringstream stream(key);
  for (std::string part; std::getline(stream, part, '.');) parts.push_back(part);
  return parts;
}

toml::table parse_toml(std::string_view text, const std::string& name) {
  try {
    return toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    throw InputError(
        fmt::format("{}:{}: {}", name, error.source().begin.line, error.description()));
  }
}

// A value is TOML where it parses as such, else bare text: dtype=bf16 needs no quotes.
toml::table parse_value(const std::string& value) {
  try {
    toml::table parsed = toml::parse("value = " + value);
    if (parsed.size() == 1 && parsed.contains("value")) return parsed;
  } catch (const toml::parse_error&) {
  }
  toml::table bare;
  bare.insert("value", value);
  return bare;
}

std::string describe(const NumberRange& range) {
  const char* below = range.above ? "above" : "at least";
  if (std::isinf(range.to)) return fmt::format("{} {:g}", below, range.from);
  return fmt::format("{} {:g} and at most {:g}", below, range.from, range.to);
}

}  // namespace

ConfigFile ConfigFile::load(const std::filesystem::path& path, std::string kind,
                            std::vector<Override> overrides) {
  const std::string text = read_file(path, kind + " file");
  return parse(text, path.string(), std::move(kind), std::move(overrides));
}

ConfigFile ConfigFile::parse(std::string_view text, std::string name, std::string kind,
                             std::vector<Override> overrides) {
  ConfigFile file;
  file.document_ = parse_toml(text, name);
  file.name_ = std::move(name);
  file.kind_ = std::move(kind);
  file.overrides_ = std::move(overrides);
  for (const Override& one : file.overrides_) file.apply(one);
  file.check_printable(file.document_, "");
  return file;
}

// Also of what nothing reads: the document is shown, and kept in journals, as a whole.
void ConfigFile::check_printable(const toml::node& node, const std::string& path) const {
  const auto check = [&](const std::string& text) {
    if (!is_printable(text)) {
      throw InputError(fmt::format("{}: {} must have no control characters", origin(path), path));
    }
  };
  if (const auto* text = node.as_string()) check(text->get());
  if (const auto* list = node.as_array()) {
    for (const toml::node& item : *list) check_printable(item, path);
  }
  if (const auto* table = node.as_table()) {
    for (const auto& [key, value] : *table) {
      const std::string name(key.str());
      check(name);
      check_printable(value, path.empty() ? name : path + "." + name);
    }
  }
}

void ConfigFile::apply(const Override& one) {
  const std::vector<std::string> parts = split_at_dots(one.key);
  const std::string option = fmt::format("--set {}.{}={}", kind_, one.key, one.value);
  if (parts.empty()) throw InputError(option + ": no key given");
  if (one.key.back() == '.') throw InputError(option + ": the key ends in a dot");
  toml::table* table = &document_;
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    if (!table->contains(parts[i])) table->insert(parts[i], toml::table{});
    table = table->get(parts[i])->as_table();
    if (table == nullptr) throw InputError(fmt::format("{}: {} is not a table", option, parts[i]));
  }
  const toml::table value = parse_value(one.value);
  const toml::node* given = value.get("value");
  ensure(given != nullptr, "an override without its value");
  given->visit([&](const auto& node) { table->insert_or_assign(parts.back(), node); });
}

bool ConfigFile::overrides(const std::string& key) const {
  for (const Override& one : overrides_) {
    if (one.key == key) return true;
  }
  return false;
}

std::string ConfigFile::origin(const std::string& key) const {
  for (auto one = overrides_.rbegin(); one != overrides_.rend(); ++one) {
    if (one->key == key) return fmt::format("--set {}.{}={}", kind_, one->key, one->value);
  }
  return name_;
}

ConfigTable ConfigFile::root() const { return {*this, document_, ""}; }

std::string ConfigFile::to_json() const {
  std::ostringstream text;
  text << toml::json_formatter(document_);
  return text.str();
}

ConfigTable::ConfigTable(const ConfigFile& file, const toml::table& table, std::string path)
    : file_(&file), table_(&table), path_(std::move(path)) {}

std::string ConfigTable::path_of(const std::string& key) const {
  return path_.empty() ? key : path_ + "." + key;
}

void ConfigTable::fail(const std::string& key, const std::string& problem) const {
  const std::string path = path_of(key);
  throw InputError(fmt::format("{}: {} {}", file_->origin(path), path, problem));
}

const toml::node& ConfigTable::node(const std::string& key) {
  known_.insert(key);
  const toml::node* found = table_->get(key);
  if (found == nullptr) fail(key, "is missing");
  return *found;
}

bool ConfigTable::has(const std::string& key) {
  known_.insert(key);
  return table_->contains(key);
}

bool ConfigTable::is_text(const std::string& key) const {
  const toml::node* found = table_->get(key);
  return found != nullptr && found->is_string();
}

bool ConfigTable::is_boolean(const std::string& key) const {
  const toml::node* found = table_->get(key);
  return found != nullptr && found->is_boolean();
}

bool ConfigTable::is_integer(const std::string& key) const {
  const toml::node* found = table_->get(key);
  return found != nullptr && found->is_integer();
}

std::vector<std::string> ConfigTable::keys() const {
  std::vector<std::string> names;
  for (const auto& [key, value] : *table_) names.emplace_back(key.str());
  return names;
}

std::int64_t ConfigTable::integer(const std::string& key, std::int64_t from, std::int64_t to) {
  const toml::node& found = node(key);
  const auto value = found.value_exact<std::int64_t>();
  if (!value) fail(key, fmt::format("is {}, must be an integer", shown(found)));
  if (*value < from || *value > to) {
    fail(key, fmt::format("is {}, must be {}..{}", *value, from, to));
  }
  return *value;
}

double ConfigTable::number(const std::string& key, NumberRange range) {
  const toml::node& found = node(key);
  if (!found.is_number()) fail(key, fmt::format("is {}, must be a number", shown(found)));
  const double value = as_double(found);
  const bool low = range.above ? value <= range.from : value < range.from;
  if (!std::isfinite(value) || low || value > range.to) {
    fail(key, fmt::format("is {}, must be {}", shown(found), describe(range)));
  }
  return value;
}

std::string ConfigTable::text(const std::string& key) {
  const toml::node& found = node(key);
  const auto* value = found.as_string();
  if (value == nullptr) fail(key, fmt::format("is {}, must be text", shown(found)));
  return value->get();
}

std::vector<std::string> ConfigTable::texts(const std::string& key) {
  const toml::array* list = node(key).as_array();
  if (list == nullptr) fail(key, "must be a list of texts");
  std::vector<std::string> values;
  for (const toml::node& item : *list) {
    const auto* value = item.as_string();
    if (value == nullptr) fail(key, fmt::format("holds {}, must hold texts", shown(item)));
    values.push_back(value->get());
  }
  return values;
}

std::vector<double> ConfigTable::numbers(const std::string& key) {
  const toml::array* list = node(key).as_array();
  if (list == nullptr) fail(key, "must be a list of numbers");
  std::vector<double> values;
  for (const toml::node& item : *list) {
    const double value = as_double(item);
    if (!std::isfinite(value)) {
      fail(key, fmt::format("holds {}, must hold finite numbers", shown(item)));
    }
    values.push_back(value);
  }
  return values;
}

bool ConfigTable::boolean(const std::string& key) {
  const toml::node& found = node(key);
  const auto* value = found.as_boolean();
  if (value == nullptr) fail(key, fmt::format("is {}, must be true or false", shown(found)));
  return value->get();
}

std::string ConfigTable::toml(const std::string& key) { return shown(node(key)); }

std::vector<std::string> ConfigTable::toml_items(const std::string& key) {
  const toml::array* list = node(key).as_array();
  if (list == nullptr) fail(key, "must be a list");
  std::vector<std::string> values;
  for (const toml::node& item : *list) values.push_back(shown(item));
  return values;
}

ConfigTable ConfigTable::table(const std::string& key) {
  const toml::table* found = node(key).as_table();
  if (found == nullptr) fail(key, "must be a table");
  return {*file_, *found, path_of(key)};
}

std::vector<ConfigTable> ConfigTable::tables(const std::string& key) {
  const toml::array* list = node(key).as_array();
  if (list == nullptr) fail(key, "must be a list of tables");
  std::vector<ConfigTable> items;
  for (const toml::node& item : *list) {
    const toml::table* found = item.as_table();
    if (found == nullptr) fail(key, fmt::format("holds {}, must hold tables", shown(item)));
    items.emplace_back(*file_, *found, fmt::format("{}[{}]", path_of(key), items.size()));
  }
  return items;
}

void ConfigTable::finish() const {
  for (const auto& [key, value] : *table_) {
    const std::string name(key.str());
    if (known_.contains(name)) continue;
    const std::string known =
        known_.empty() ? "" : fmt::format(" (known: {})", fmt::join(known_, ", "));
    fail(name, "is an unknown key" + known);
  }
}

}  // namespace pipemoe
