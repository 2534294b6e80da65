// The one entry of JSON: depth, keys that are there twice, text that is no UTF-8.
#include "models/json_reader.hpp"
#include "models/limits.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::json_target {

int depth_of(const nlohmann::ordered_json& json) {
  int deepest = 0;
  for (const auto& item : json) {
    if (item.is_structured()) deepest = std::max(deepest, depth_of(item));
  }
  return 1 + deepest;
}

bool run(std::string_view text) {
  nlohmann::ordered_json json;
  if (!accepts([&] { json = parse_json(text, "text.json"); })) return false;
  require(!json.is_structured() || depth_of(json) <= kDeepestJson, "nested too deeply");
  nlohmann::ordered_json again;
  require(accepts([&] { again = parse_json(json.dump(), "written.json"); }),
          "written JSON is refused");
  require(again == json, "JSON reads back as another one: " + json.dump());
  return true;
}

std::vector<std::string> seeds() {
  return {R"({"a":[1,2.5,-3e9,null,true],"b":{"c":"text \u00e9","d":[]}})", "[[[[[[[[]]]]]]]]",
          std::string(60, '[') + std::string(60, ']'), R"([{"a":{"a":{"a":{}}}}])"};
}

const Registration registration({"json", Syntax::Json, run, seeds});

}  // namespace pipemoe::fuzz::json_target
