// The kinds of failure. Bad input: InputError (exit code 2). Anything else that stops a run:
// RunError (exit code 1). A mistake of ours: ensure() throws std::logic_error, in release too.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace pipemoe {

/// What the user gave cannot be used; `what()` is one line that says what, where and why.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The input was fine and the run failed all the same (a library, the machine, another rank).
class RunError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The caller's file and line, as a default argument gives them.
struct Where {
  const char* file;
  int line;
  static constexpr Where here(const char* f = __builtin_FILE(), int l = __builtin_LINE()) {
    return {f, l};
  }
};

/// A device or one of its libraries failed; `what()` ends with where.
class DeviceError : public RunError {
 public:
  DeviceError(const std::string& what, Where at)
      : RunError(what + " (" + at.file + ":" + std::to_string(at.line) + ")") {}
};

/// Whether the text is one line that a terminal can show: UTF-8 without control characters.
bool is_printable(std::string_view text);
/// The text as one line that a terminal can show: control characters and bytes that are no UTF-8
/// become escapes such as \n or \x1b, and of a very long text the middle is left out.
std::string printable(const std::string& text);

/// What the optional holds. Throws std::logic_error where it holds nothing.
template <class Optional>
auto&& required(Optional&& value, const char* why) {
  if (!value.has_value()) throw std::logic_error(std::string("pipemoe bug: ") + why);
  return *std::forward<Optional>(value);
}

inline void ensure(bool condition, const char* why) {
  if (!condition) throw std::logic_error(std::string("pipemoe bug: ") + why);
}

}  // namespace pipemoe
