#include "tests/fuzz/mutators.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

namespace pipemoe::fuzz {
namespace {

// Numbers at and beyond the ends of ranges, in the spelling of both syntaxes.
constexpr std::array kNumbers{"0",
                              "1",
                              "2",
                              "3",
                              "7",
                              "16",
                              "-1",
                              "0.5",
                              "-0.0",
                              "1.0000000000000002",
                              "1e-12",
                              "1e-3",
                              "1e3",
                              "1e9",
                              "1e12",
                              "1e15",
                              "1e16",
                              "1e100",
                              "1e300",
                              "1e308",
                              "-1e308",
                              "1e-300",
                              "1e-308",
                              "1.7976931348623157e308",
                              "2.2250738585072014e-308",
                              "5e-324",
                              "1e-320",
                              "9007199254740993",
                              "9223372036854775807",
                              "-9223372036854775808",
                              "4611686018427387904",
                              "2147483647",
                              "2147483648",
                              "-2147483648",
                              "4294967296",
                              "65535",
                              "65536",
                              "65537",
                              "131072",
                              "4096",
                              "4097",
                              "67108864",
                              "1125899906842624"};

// Texts in quotes with what must not reach a terminal or a file's name.
constexpr std::array kTexts{R"("")",          R"("a")",      R"("\u0000")",   R"("\n")",
                            R"("\u001b[2J")", R"("\u007f")", R"("\u009b")",   R"("\"")",
                            R"("\\")",        R"("é/ü")",    R"("a,b")",      R"("../x")",
                            R"("1")",         R"("1e999")",  R"("nan")",      R"("dropless")",
                            R"("fp16")",      R"("swiglu")", R"("backward")", R"("links")"};

// How many changes one mutation makes: mostly one, for most changes are refused.
std::size_t few(Random& random) { return random.below(2) == 0 ? 1 : 1 + random.below(3); }

std::string long_text(Random& random) {
  return "\"" + std::string(100 + random.below(2000), random.below(2) == 0 ? 'x' : ' ') + "\"";
}

// The place of a random number in the text; empty where there is none.
std::pair<std::size_t, std::size_t> number_in(const std::string& text, Random& random) {
  std::vector<std::pair<std::size_t, std::size_t>> places;
  const auto is_digit = [&](std::size_t i) {
    return std::isdigit(static_cast<unsigned char>(text[i])) != 0;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!is_digit(i)) continue;
    std::size_t end = i;
    while (end < text.size() && (is_digit(end) || std::string_view("._+-eE").find(text[end]) !=
                                                      std::string_view::npos)) {
      ++end;
    }
    places.emplace_back(i, end - i);
    i = end;
  }
  return places.empty() ? std::pair<std::size_t, std::size_t>{} : random.one_of(places);
}

// A whole number near this one, above 0; of other numbers one with another digit.
std::string nearby_number(std::string number, Random& random) {
  constexpr std::size_t kMostDigits = 15;
  if (number.size() <= kMostDigits && number.find_first_not_of("0123456789") == std::string::npos) {
    const long long value = std::stoll(number);
    return std::to_string(
        random.one_of(std::array{value + 1, std::max(1LL, value - 1), 2 * value, value / 2 + 1}));
  }
  const std::size_t at = number.find_first_of("0123456789", random.below(number.size()));
  if (at != std::string::npos) number[at] = static_cast<char>('1' + random.below(9));
  return number;
}

// The number, changed a little or by an order of magnitude.
std::string changed_number(const std::string& number, Random& random) {
  if (random.below(2) == 0) return nearby_number(number, random);
  switch (random.below(6)) {
    case 0:
      return "-" + number;
    case 1:
      return number + "0";
    case 2:
      return number.size() > 1 ? number.substr(0, number.size() - 1) : "9";
    case 3:
      return number + (number.find_first_of("eE") == std::string::npos ? "e-9" : "1");
    case 4: {
      std::string other = number;
      other[random.below(other.size())] = static_cast<char>('0' + random.below(10));
      return other;
    }
    default:
      return random.one_of(kNumbers);
  }
}

std::string with_changed_number(std::string text, Random& random) {
  const auto [at, size] = number_in(text, random);
  if (size == 0) return text;
  return text.replace(at, size, changed_number(text.substr(at, size), random));
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

// ---- TOML ----

// Values of TOML alone.
constexpr std::array kTomlValues{"nan",
                                 "inf",
                                 "-inf",
                                 "true",
                                 "false",
                                 "[]",
                                 "{}",
                                 "[1]",
                                 "[1, 2]",
                                 "[2, 1]",
                                 "['a', 'b']",
                                 "[[]]",
                                 "{a=1}",
                                 "[{}]",
                                 "1979-05-27",
                                 "07:32:00",
                                 "0x7fffffffffffffff",
                                 "1_000",
                                 "'4/2'",
                                 "'1..4'",
                                 "'alpha=1ms,beta=1e-9'"};

// Keys of all files, so that one of another table comes in.
constexpr std::array kTomlKeys{"name",
                               "source",
                               "nodes",
                               "gpus_per_node",
                               "schema",
                               "efficiency",
                               "alpha_s",
                               "beta_s_per_byte",
                               "beta_s_per_flop",
                               "bytes",
                               "flops",
                               "seconds",
                               "r_squared",
                               "range_bytes",
                               "range_flops",
                               "queued_saving_s",
                               "topology",
                               "nodes_per_leaf",
                               "oversubscription",
                               "not_modelled",
                               "model_dim",
                               "hidden_dim",
                               "num_experts",
                               "experts_per_rank",
                               "top_k",
                               "capacity_factor",
                               "tokens_per_rank",
                               "batch_size",
                               "sequence_length",
                               "dtype",
                               "activation",
                               "kind",
                               "pass",
                               "layer",
                               "link",
                               "communicator",
                               "backend",
                               "degrees",
                               "regime",
                               "warm_up",
                               "repeats",
                               "exchange_ctas",
                               "pack_rows",
                               "cuda_graph",
                               "network",
                               "clusters",
                               "subject",
                               "variant",
                               "note",
                               "fits_memory",
                               "degree_tolerance",
                               "equal_degrees",
                               "unequal_degrees_gain",
                               "forward",
                               "gradients",
                               "\"fits.gemm.fp32.alpha_s\"",
                               "cluster.nodes",
                               "layer.name",
                               "\"\"",
                               "'a.b'",
                               "\"\\u0001\""};

constexpr std::array kTomlTables{"[gpu]",
                                 "[network]",
                                 "[conditions]",
                                 "[contention]",
                                 "[[contention.expert]]",
                                 "[fits]",
                                 "[fits.gate]",
                                 "[fits.permute]",
                                 "[fits.gemm.bf16]",
                                 "[fits.all_to_all.2]",
                                 "[fits.all_to_all.4x4]",
                                 "[fits.all_reduce.16]",
                                 "[[fits.expert]]",
                                 "[layer]",
                                 "[cluster]",
                                 "[grid.layer]",
                                 "[grid.cluster]",
                                 "[schedules]",
                                 "[[regime]]",
                                 "[[layer]]",
                                 "[x]",
                                 "[[x]]"};

using Lines = std::vector<std::string>;

// The place of the '=' behind the line's key; npos where it has none.
std::size_t equals_in(const std::string& line) {
  return line.empty() || line.front() == '[' ? std::string::npos : line.find('=');
}

// A random line with a key and a value; the number of lines where there is none.
std::size_t setting_in(const Lines& lines, Random& random) {
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (equals_in(lines[i]) != std::string::npos) places.push_back(i);
  }
  return places.empty() ? lines.size() : random.one_of(places);
}

// First and last line of a random table; the whole text where there is none.
std::pair<std::ptrdiff_t, std::ptrdiff_t> table_in(const Lines& lines, Random& random) {
  std::vector<std::size_t> heads{0};
  for (std::size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].starts_with('[')) heads.push_back(i);
  }
  const std::size_t at = random.below(heads.size());
  const std::size_t end = at + 1 < heads.size() ? heads[at + 1] : lines.size();
  return {static_cast<std::ptrdiff_t>(heads[at]), static_cast<std::ptrdiff_t>(end)};
}

std::string nested_toml(const std::string& value, Random& random) {
  const std::size_t depth = 1 + random.below(random.below(4) == 0 ? 300 : 4);
  std::string open, close;
  for (std::size_t i = 0; i < depth; ++i) {
    open += random.below(2) == 0 ? "[" : "{a=";
    close.insert(0, open.back() == '[' ? "]" : "}");
  }
  return open + value + close;
}

std::string toml_value(const std::string& old, Random& random) {
  switch (random.below(8)) {
    case 0:
    case 1:
      return random.one_of(kNumbers);
    case 2:
      return random.one_of(kTomlValues);
    case 3:
      return random.one_of(kTexts);
    case 4:
      return random.below(4) == 0 ? long_text(random) : nested_toml(old, random);
    default:
      return with_changed_number(old, random);
  }
}

// Takes an item of a list away, doubles it, or puts a number behind it.
std::string changed_list(std::string value, Random& random) {
  std::vector<std::size_t> commas;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (value[i] == ',') commas.push_back(i);
  }
  if (commas.empty()) return value;
  const std::size_t at = random.below(commas.size());
  const std::size_t end = at + 1 < commas.size() ? commas[at + 1] : value.find_last_of("]}");
  if (end == std::string::npos || end < commas[at]) return value;
  const std::string item = value.substr(commas[at], end - commas[at]);
  if (random.below(3) == 0) return value.erase(commas[at], item.size());
  if (random.below(2) == 0) return value.insert(end, item);
  return value.insert(end, std::string(", ") + random.one_of(kNumbers));
}

void change_setting(Lines& lines, Random& random) {
  const std::size_t at = setting_in(lines, random);
  if (at == lines.size()) return;
  std::string& line = lines[at];
  const std::size_t equals = equals_in(line);
  const std::string key = line.substr(0, equals), value = line.substr(equals + 1);
  switch (random.below(12)) {
    case 0:
      line = random.one_of(kTomlKeys) + ("=" + value);
      break;
    case 1: {
      const std::string& other = lines[setting_in(lines, random)];
      line = other.substr(0, equals_in(other)) + "=" + value;
      break;
    }
    case 2: {
      const std::string& other = lines[setting_in(lines, random)];
      line = key + other.substr(equals_in(other));
      break;
    }
    case 3:
      line = key + "=" + changed_list(value, random);
      break;
    case 4:
    case 5:
    case 6:
      line = key + "=" + toml_value(value, random);
      break;
    default:
      line = key + "=" + with_changed_number(value, random);
  }
}

void change_lines(Lines& lines, Random& random) {
  if (lines.empty()) return;
  const auto at = [&] {
    return lines.begin() + static_cast<std::ptrdiff_t>(random.below(lines.size()));
  };
  const auto from = at(), to = at();
  switch (random.below(5)) {
    case 0:
      lines.erase(from);
      break;
    case 1: {
      const std::string line = *from;
      lines.insert(to, line);
      break;
    }
    case 2:
      std::swap(*from, *to);
      break;
    case 3:
      lines.insert(to, random.one_of(kTomlTables));
      break;
    default:
      lines.insert(to, random.one_of(kTomlKeys) + std::string(" = ") + random.one_of(kNumbers));
  }
}

void change_tables(Lines& lines, Random& random) {
  const auto [first, last] = table_in(lines, random);
  if (first == last) return;
  const auto begin = lines.begin() + first, end = lines.begin() + last;
  if (random.below(4) == 0) {
    lines.erase(begin, end);
  } else if (random.below(2) == 0) {
    const Lines table(begin, end);
    lines.insert(lines.end(), table.begin(), table.end());
  } else if (begin->starts_with('[')) {
    *begin = random.one_of(kTomlTables);
  }
}

}  // namespace

std::string mutate_toml(const std::string& text, Random& random) {
  Lines lines = lines_of(text);
  for (std::size_t count = few(random); count > 0; --count) {
    const std::size_t kind = random.below(10);
    if (kind < 7) {
      change_setting(lines, random);
    } else if (kind < 9) {
      change_lines(lines, random);
    } else {
      change_tables(lines, random);
    }
  }
  return joined(lines);
}

std::string splice_toml(const std::string& text, const std::string& from, Random& random) {
  Lines lines = lines_of(text);
  const Lines others = lines_of(from);
  if (others.empty()) return text;
  if (random.below(2) == 0) {  // a whole table at the end
    const auto [first, last] = table_in(others, random);
    lines.insert(lines.end(), others.begin() + first, others.begin() + last);
  } else {
    const auto at = lines.begin() + static_cast<std::ptrdiff_t>(random.below(lines.size() + 1));
    lines.insert(at, random.one_of(others));
  }
  return joined(lines);
}

// ---- JSON ----

namespace {

using Json = nlohmann::ordered_json;

// What a parsed value cannot hold, or would be written in another way: written in the place of the
// text "raw:<index>".
constexpr std::array kRawJson{"1e999",
                              "-0",
                              "1E+2",
                              "1.0",
                              "18446744073709551615",
                              "18446744073709551616",
                              "-9223372036854775809",
                              "0.1e-400",
                              R"("\ud800")",
                              R"("\u0000")",
                              R"("\u009b")",
                              R"({"a":1,"a":2})",
                              "NaN",
                              "01",
                              R"("\u001b]0;x\u0007")"};

std::vector<Json*> values_of(Json& json) {
  std::vector<Json*> all{&json};
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!all[i]->is_structured()) continue;
    for (Json& item : *all[i]) all.push_back(&item);
  }
  return all;
}

Json nested_json(Json value, Random& random) {
  const std::size_t depth = 1 + random.below(random.below(4) == 0 ? 100 : 3);
  for (std::size_t i = 0; i < depth; ++i) {
    value = random.below(2) == 0 ? Json::array({std::move(value)}) : Json{{"a", std::move(value)}};
  }
  return value;
}

Json new_value(const Json& old, Random& random) {
  switch (random.below(10)) {
    case 0:
      return "raw:" + std::to_string(random.below(kRawJson.size()));
    case 1:
      return Json::parse(random.one_of(kTexts));
    case 2:
      return random.below(4) == 0 ? Json::parse(long_text(random)) : nested_json(old, random);
    case 3:
      return random.one_of(
          std::array<Json, 5>{nullptr, true, false, Json::array(), Json::object()});
    case 4:
      return Json::parse(random.one_of(kNumbers));
    default: {
      const Json changed =
          Json::parse(with_changed_number(old.dump(), random), nullptr, /*allow_exceptions=*/false);
      return changed.is_discarded() ? Json::parse(random.one_of(kNumbers)) : changed;
    }
  }
}

void change_list(Json& list, Random& random) {
  if (list.empty()) {
    list.push_back(1);
    return;
  }
  const std::size_t at = random.below(list.size());
  if (random.below(2) == 0) {
    list.erase(at);
  } else if (random.below(2) == 0) {
    const Json copy = list[at];
    list.insert(list.begin() + static_cast<std::ptrdiff_t>(random.below(list.size() + 1)), copy);
  } else {
    std::swap(list[at], list[random.below(list.size())]);
  }
}

// Drops, renames or adds a member; those of other objects are candidates for its name.
void change_object(Json& object, const std::vector<Json*>& all, Random& random) {
  const auto key_in = [&](const Json& from) {
    auto item = from.begin();
    std::advance(item, random.below(from.size()));
    return item.key();
  };
  if (object.empty()) {
    object["a"] = 1;
    return;
  }
  const std::string key = key_in(object);
  const Json* other = random.one_of(all);
  const std::string name = other->is_object() && !other->empty() ? key_in(*other) : "b";
  const Json value = object[key];
  if (random.below(3) > 0) object.erase(key);
  if (random.below(2) == 0) object[name] = value;
}

// Changes one of the numbers, which keeps what names and counts say; false where there is none.
bool change_number(const std::vector<Json*>& all, Random& random) {
  std::vector<Json*> numbers;
  std::copy_if(all.begin(), all.end(), std::back_inserter(numbers),
               [](const Json* value) { return value->is_number(); });
  if (numbers.empty()) return false;
  Json& value = *random.one_of(numbers);
  const Json changed = Json::parse(with_changed_number(value.dump(), random), nullptr,
                                   /*allow_exceptions=*/false);
  if (!changed.is_discarded()) value = changed;
  return true;
}

void change_json(Json& json, Random& random) {
  const std::vector<Json*> all = values_of(json);
  if (random.below(2) == 0 && change_number(all, random)) return;
  Json& value = *random.one_of(all);
  const std::size_t kind = random.below(6);
  if (value.is_array() && kind < 5) {
    change_list(value, random);
  } else if (value.is_object() && kind < 5) {
    change_object(value, all, random);
  } else if (kind == 0) {
    const Json copy = *random.one_of(all);
    value = copy;
  } else {
    value = new_value(value, random);
  }
}

std::string written(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  for (std::size_t i = kRawJson.size(); i-- > 0;) {
    const std::string mark = "\"raw:" + std::to_string(i) + "\"";
    const std::size_t at = text.find(mark);
    if (at != std::string::npos) text.replace(at, mark.size(), kRawJson[i]);
  }
  return text;
}

// Applies `change` to the JSON of the text or of one of its lines.
template <class Change>
std::string with_changed_json(const std::string& text, Random& random, Change change) {
  const auto changed = [&](const std::string& part) -> std::string {
    Json json = Json::parse(part, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) return part;
    change(json);
    return written(json);
  };
  std::vector<std::string> lines = lines_of(text);
  if (lines.size() < 2) return changed(text);
  std::string& line = lines[random.below(8) == 0 ? 0 : 1 + random.below(lines.size() - 1)];
  line = changed(line);
  if (random.below(8) == 0) lines.push_back(line);
  return joined(lines);
}

}  // namespace

std::string mutate_json(const std::string& text, Random& random) {
  const std::string mutated = with_changed_json(text, random, [&](Json& json) {
    for (std::size_t count = few(random); count > 0; --count) change_json(json, random);
  });
  return mutated == text ? with_changed_number(text, random) : mutated;
}

std::string splice_json(const std::string& text, const std::string& from, Random& random) {
  const std::vector<std::string> others = lines_of(from);
  if (others.empty()) return text;
  Json other = Json::parse(random.one_of(others), nullptr, /*allow_exceptions=*/false);
  if (other.is_discarded()) return text;
  const Json value = *random.one_of(values_of(other));
  return with_changed_json(text, random, [&](Json& json) {
    Json& place = *random.one_of(values_of(json));
    if (place.is_array() && random.below(2) == 0) {
      place.push_back(value);
    } else {
      place = value;
    }
  });
}

}  // namespace pipemoe::fuzz
