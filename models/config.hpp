// Strict reading of TOML: every key must be known, of the right type and in range. All failures
// are InputErrors that name the file (or the --set that gave the value), key, value and range.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

// Header-only: a compiled toml++ would be a second library to install and find.
#include <toml++/toml.h>

namespace pipemoe {

/// One `--set`: the dotted key below the document's root, and the value as TOML or bare text.
struct Override {
  std::string key;
  std::string value;
};

/// Numbers allowed: from..to, `from` itself excluded when `above` is set.
struct NumberRange {
  double from = 0;
  double to = std::numeric_limits<double>::infinity();
  bool above = false;
};

class ConfigTable;

/// A TOML document with overrides applied.
class ConfigFile {
 public:
  /// `kind` ("layer", "cluster") is what --set keys begin with.
  static ConfigFile load(const std::filesystem::path& path, std::string kind,
                         std::vector<Override> overrides = {});
  static ConfigFile parse(std::string_view text, std::string name, std::string kind,
                          std::vector<Override> overrides = {});

  ConfigTable root() const;
  /// The document as JSON text, overrides included.
  std::string to_json() const;
  /// "layer.toml", or "--set layer.top_k=9" when an override gave `key`.
  std::string origin(const std::string& key) const;
  bool overrides(const std::string& key) const;
  const std::string& name() const { return name_; }
  void erase(const std::string& key) { document_.erase(key); }

 private:
  void apply(const Override& override_);
  void check_printable(const toml::node& node, const std::string& path) const;

  std::string name_;
  std::string kind_;
  toml::table document_;
  std::vector<Override> overrides_;
};

/// One table of a ConfigFile. Reading a key marks it known; `finish` rejects the others.
class ConfigTable {
 public:
  ConfigTable(const ConfigFile& file, const toml::table& table, std::string path);

  /// Whether an optional key is given; asking makes the key known.
  bool has(const std::string& key);
  bool is_text(const std::string& key) const;
  bool is_boolean(const std::string& key) const;
  bool is_integer(const std::string& key) const;
  std::vector<std::string> keys() const;

  std::int64_t integer(const std::string& key, std::int64_t from, std::int64_t to);
  double number(const std::string& key, NumberRange range);
  std::string text(const std::string& key);
  std::vector<std::string> texts(const std::string& key);
  std::vector<double> numbers(const std::string& key);
  bool boolean(const std::string& key);
  ConfigTable table(const std::string& key);
  std::vector<ConfigTable> tables(const std::string& key);  ///< a list of tables: [[key]]
  /// A value, or each value of a list, as TOML text: what an Override takes.
  std::string toml(const std::string& key);
  std::vector<std::string> toml_items(const std::string& key);

  /// Throws InputError for a key that nothing has read.
  void finish() const;
  /// Throws InputError "<origin>: <path.key> <problem>".
  [[noreturn]] void fail(const std::string& key, const std::string& problem) const;

 private:
  const toml::node& node(const std::string& key);
  std::string path_of(const std::string& key) const;

  const ConfigFile* file_;
  const toml::table* table_;
  std::string path_;
  std::set<std::string> known_;
};

}  // namespace pipemoe
