// By how much tasks slow each other, as a function of how much is in flight.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/layer.hpp"
#include "models/units.hpp"

namespace pipemoe {

/// A factor of at least 1 on a task's time while a task of the other kind runs beside it. It
/// depends on the bytes a rank exchanges in the exchanges in flight, for a collective of few bytes
/// takes fewer multiprocessors than one of many: linear in their logarithm between the points,
/// constant outside them.
class Slowdown {
 public:
  using Points = std::vector<std::pair<double, double>>;  ///< bytes and factor

  /// The same whatever is in flight. Requires a finite factor >= 1.
  Slowdown(double factor = 1);  // NOLINT(google-explicit-constructor): a number is a slowdown
  /// Throws InputError ("needs ...") unless there are points, bytes rise from above 0 and factors
  /// are finite and at least 1.
  explicit Slowdown(Points points);

  double at(Bytes in_flight) const;
  bool is_constant() const { return points_.size() == 1; }
  const Points& points() const { return points_; }
  bool operator==(const Slowdown&) const = default;

 private:
  Points points_;
};

/// Slowdowns while experts of these sizes compute.
struct ExpertOverlap {
  ExpertSizes sizes;
  Slowdown compute;
  Slowdown communication;
  /// Forward, or Backward, which is either gradient too; absent: all.
  std::optional<Pass> pass = std::nullopt;

  bool is_of(const ExpertSizes& experts, Pass computed) const;
  bool operator==(const ExpertOverlap&) const = default;
};

/// How much longer than by themselves exchanges take in layers with such experts, by the bytes of
/// the exchange, whatever runs beside them: products that hold a GPU at its power limit leave it at
/// clocks at which a collective's kernels are slower.
struct ExchangesInLayers {
  ExpertSizes sizes;
  Slowdown slowdown;
  bool operator==(const ExchangesInLayers&) const = default;
};

/// What a rank's streams cost each other: a kernel of a collective takes multiprocessors from the
/// experts, which take memory bandwidth from it. While its compute stream and any of its
/// communication streams both run a task, the compute task advances at 1/compute of its speed alone
/// and each communication task, start-up included, at 1/communication.
struct Overlap {
  Slowdown compute;
  Slowdown communication;
  std::string source;
  /// In whose place these stand: small products leave a collective more multiprocessors and wait
  /// for more of its memory traffic than large ones do.
  std::vector<ExpertOverlap> experts = {};

  /// Null: none of these experts.
  const ExpertOverlap* of(const ExpertSizes& sizes, Pass pass) const;
  bool operator==(const Overlap&) const = default;
};

}  // namespace pipemoe
