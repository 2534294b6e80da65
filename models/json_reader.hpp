// Strict reading of JSON: one entry point with limits, then objects of which every member must be
// known and of the right type. Failures are InputErrors "<where>.<key> <problem>".
#pragma once

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

#include "models/error.hpp"

namespace pipemoe {

/// No list or object of a JSON text may be deeper inside others.
inline constexpr int kDeepestJson = 64;

/// The only way in which text from outside becomes JSON. Throws InputError "<origin>: <why>" if it
/// is no JSON, is nested too deeply, or has an object with the same key twice.
nlohmann::ordered_json parse_json(std::string_view text, const std::string& origin);

class JsonObject {
 public:
  using Json = nlohmann::ordered_json;

  JsonObject(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {
    if (!json.is_object()) throw InputError(where_ + " must be an object");
  }

  std::string path(const std::string& key) const { return where_ + "." + key; }
  [[noreturn]] void fail(const std::string& key, const std::string& problem) const {
    throw InputError(path(key) + " " + problem);
  }

  bool has(const char* key) {
    known_.insert(key);
    return json_->contains(key);
  }
  const Json& member(const char* key) {
    if (!has(key)) fail(key, "is missing");
    return json_->at(key);
  }
  std::int64_t integer(const char* key, std::int64_t from, std::int64_t to) {
    const Json& value = member(key);
    if (!value.is_number_integer()) fail(key, "must be an integer");
    const auto number = value.get<std::int64_t>();
    if (number < from || number > to) {
      fail(key, fmt::format("is {}, must be {}..{}", number, from, to));
    }
    return number;
  }
  double number(const char* key) {
    const Json& value = member(key);
    if (!value.is_number() || !std::isfinite(value.get<double>())) fail(key, "must be a number");
    return value.get<double>();
  }
  std::string text(const char* key) {
    const Json& value = member(key);
    if (!value.is_string()) fail(key, "must be text");
    std::string text = value.get<std::string>();
    if (!is_printable(text)) fail(key, "must have no control characters");
    return text;
  }
  bool boolean(const char* key) {
    const Json& value = member(key);
    if (!value.is_boolean()) fail(key, "must be true or false");
    return value.get<bool>();
  }
  const Json& array(const char* key) {
    const Json& value = member(key);
    if (!value.is_array()) fail(key, "must be a list");
    return value;
  }
  /// `parse` turns the text into an enumerator or throws InputError.
  template <class Parse>
  auto word(const char* key, Parse parse) {
    const std::string value = text(key);
    try {
      return parse(value);
    } catch (const InputError& error) {
      fail(key, error.what());
    }
  }

  /// Throws InputError for a member that nothing has read.
  void finish() const {
    for (const auto& [key, value] : json_->items()) {
      if (!known_.contains(key)) {
        fail(key, fmt::format("is an unknown key (known: {})", fmt::join(known_, ", ")));
      }
    }
  }

 private:
  const Json* json_;
  std::string where_;
  std::set<std::string> known_;
};

}  // namespace pipemoe
