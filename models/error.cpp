#include "models/error.hpp"

#include <fmt/core.h>

namespace pipemoe {
namespace {

bool is_control(unsigned char byte) { return byte < 0x20 || byte == 0x7f; }

// The number of bytes of the UTF-8 character at the start of `text`; 0 if there is none or a
// control character, of which U+0080 to U+009F are some.
std::size_t printable_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return is_control(first) ? 0 : 1;
  const std::size_t length = first >= 0xf5   ? 0
                             : first >= 0xf0 ? 4
                             : first >= 0xe0 ? 3
                             : first >= 0xc2 ? 2
                                             : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = byte(1);
  const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  const bool surrogate_or_beyond =
      (first == 0xed && second > 0x9f) || (first == 0xf4 && second > 0x8f);
  const bool control = first == 0xc2 && second < 0xa0;
  return overlong || surrogate_or_beyond || control ? 0 : length;
}

std::string escaped(char c) {
  switch (c) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
}

}  // namespace

bool is_printable(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = printable_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string printable(const std::string& text) {
  constexpr std::size_t kLongest = 2000, kShownOfEachEnd = 900;
  if (text.size() > kLongest) {
    const std::size_t left_out = text.size() - 2 * kShownOfEachEnd;
    return printable(text.substr(0, kShownOfEachEnd)) +
           fmt::format(" ... ({} bytes left out) ... ", left_out) +
           printable(text.substr(text.size() - kShownOfEachEnd));
  }
  std::string line;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = printable_length(std::string_view(text).substr(i));
    if (length == 0) {
      line += escaped(text[i++]);
      continue;
    }
    line.append(text, i, length);
    i += length;
  }
  return line;
}

}  // namespace pipemoe
