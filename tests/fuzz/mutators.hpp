// Mutations that know the structure of TOML and JSON, so that readers get past the syntax.
#pragma once

#include <random>
#include <string>

namespace pipemoe::fuzz {

class Random {
 public:
  explicit Random(unsigned int seed) : engine_(seed) {}
  /// 0 .. end - 1; 0 where there is none.
  std::size_t below(std::size_t end) { return end == 0 ? 0 : engine_() % end; }
  template <class List>
  const auto& one_of(const List& list) {
    return list[below(std::size(list))];
  }

 private:
  std::minstd_rand engine_;
};

/// Mutates lines: values and keys, order and number of lines, tables. Also good for other text of
/// lines KEY=VALUE.
std::string mutate_toml(const std::string& text, Random& random);
/// Puts a table, or a line, of `from` into the text.
std::string splice_toml(const std::string& text, const std::string& from, Random& random);

/// Mutates values, members and items of the JSON text; where it is no JSON, of one of its lines.
std::string mutate_json(const std::string& text, Random& random);
/// Puts a value of `from` in the place of one of the text's, or beside it.
std::string splice_json(const std::string& text, const std::string& from, Random& random);

}  // namespace pipemoe::fuzz
