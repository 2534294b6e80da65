// Units as types: a time, a byte count and a flop count cannot be mixed up.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <type_traits>

namespace pipemoe {

using Seconds = std::chrono::duration<double>;  // accepts 2us and 1.5ms

struct Bytes {
  std::int64_t count = 0;

  /// The amount as a model's independent variable.
  constexpr double amount() const { return static_cast<double>(count); }
  constexpr auto operator<=>(const Bytes&) const = default;
  constexpr Bytes& operator+=(Bytes other) {
    count += other.count;
    return *this;
  }
  friend constexpr Bytes operator+(Bytes a, Bytes b) { return a += b; }
};

/// Floating-point operations; a multiply-accumulate counts as two.
struct Flops {
  double count = 0;

  constexpr double amount() const { return count; }
  constexpr auto operator<=>(const Flops&) const = default;
  constexpr Flops& operator+=(Flops other) {
    count += other.count;
    return *this;
  }
  friend constexpr Flops operator+(Flops a, Flops b) { return a += b; }
};

/// "byte" or "flop", as keys of files have it.
template <class Work>
constexpr const char* unit_name() {
  return std::is_same_v<Work, Bytes> ? "byte" : "flop";
}

struct BytesPerSecond {
  double value = 0;
  constexpr auto operator<=>(const BytesPerSecond&) const = default;
};

/// Inverse throughput: seconds per byte or per flop.
template <class Work>
struct SecondsPer {
  double value = 0;
  constexpr bool operator==(const SecondsPer&) const = default;
};

/// Time of one operation on an amount of work n: alpha + beta * n.
template <class Work>
struct AlphaBeta {
  Seconds alpha{};          ///< start-up, paid per operation
  SecondsPer<Work> beta{};  ///< inverse throughput

  constexpr Seconds operator()(Work n) const { return alpha + Seconds{beta.value * n.amount()}; }
  constexpr bool operator==(const AlphaBeta&) const = default;
};

}  // namespace pipemoe
