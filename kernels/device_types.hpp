// What both sides of a launch agree on. Plain: device code includes it.
#pragma once

#include <cstdint>

namespace pipemoe::cuda {

/// Of tokens, rows and expert weights. Sums are in fp32 whatever it is.
enum class Element { Fp32, Bf16 };
constexpr std::int64_t size_of(Element element) { return element == Element::Fp32 ? 4 : 2; }

/// Kernels move 16 bytes at once: a row has a whole number of such units.
inline constexpr std::int64_t kUnitBytes = 16;

}  // namespace pipemoe::cuda
