// Enumerators and their names, both ways, from one table.
#pragma once

#include <fmt/core.h>

#include <array>
#include <string>
#include <utility>

#include "models/error.hpp"

namespace pipemoe {

template <class Enum, std::size_t N>
using Names = std::array<std::pair<Enum, const char*>, N>;

template <class Enum, std::size_t N>
const char* name_of(const Names<Enum, N>& names, Enum value) {
  for (const auto& [candidate, name] : names) {
    if (candidate == value) return name;
  }
  throw std::logic_error("pipemoe bug: enumerator without a name");
}

/// Throws InputError "is <wanted>, must be one of <names>".
template <class Enum, std::size_t N>
Enum value_of(const Names<Enum, N>& names, const std::string& wanted) {
  std::string allowed;
  for (const auto& [value, name] : names) {
    if (wanted == name) return value;
    allowed += (allowed.empty() ? "" : ", ") + std::string(name);
  }
  throw InputError(fmt::format("is {}, must be one of {}", wanted, allowed));
}

}  // namespace pipemoe
