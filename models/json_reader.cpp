#include "models/json_reader.hpp"

#include <vector>

namespace pipemoe {

nlohmann::ordered_json parse_json(std::string_view text, const std::string& origin) {
  using Json = nlohmann::ordered_json;
  std::vector<std::set<std::string>> keys;  // of the objects around the current place
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    const bool begins =
        event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (begins && depth >= kDeepestJson) {
      throw InputError(fmt::format("{}: is nested more than {} deep", origin, kDeepestJson));
    }
    if (event == Json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) {
        throw InputError(fmt::format("{}: has the key {} twice in one object", origin, key));
      }
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const nlohmann::json::exception& error) {
    throw InputError(fmt::format("{}: {}", origin, error.what()));
  }
}

}  // namespace pipemoe
