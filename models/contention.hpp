// By how much tasks slow each other, as a function of how much is in flight.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/task_graph.hpp"
#include "models/units.hpp"

namespace pipemoe {

/// A factor of at least 1 on a task's time while a task of the other kind runs beside it. It
/// depends on the bytes that a rank has in flight in its collectives, since a collective of few
/// bytes takes fewer multiprocessors: linear in the logarithm of the bytes between the points,
/// constant outside them.
class Slowdown {
 public:
  using Points = std::vector<std::pair<double, double>>;  ///< bytes and factor

  /// The same whatever is in flight. Requires a finite factor >= 1.
  Slowdown(double factor = 1);  // NOLINT(google-explicit-constructor): a number is a slowdown
  /// Throws InputError ("needs ...") unless there are points, bytes rise from above 0 and factors
  /// are finite and at least 1.
  explicit Slowdown(Points points);

  double at(double bytes_in_flight) const;
  double at(Bytes in_flight) const { return at(in_flight.amount()); }
  bool is_constant() const { return points_.size() == 1; }
  const Points& points() const { return points_; }
  bool operator==(const Slowdown&) const = default;

 private:
  Points points_;
};

/// Slowdowns while experts of these sizes compute.
struct ExpertContention {
  ExpertSizes sizes;
  Slowdown compute;
  Slowdown communication;
  std::optional<Pass> pass = std::nullopt;  ///< absent: of both

  bool is_of(const ExpertSizes& experts, ProductKind kind) const;
  bool operator==(const ExpertContention&) const = default;
};

/// How much longer than by themselves all-to-alls take in layers with such experts, by their bytes,
/// whatever runs beside them: products that hold a GPU at its power limit lower the clocks at which
/// a collective's kernels run.
struct CollectivesInLayers {
  ExpertSizes sizes;
  Slowdown slowdown;
  bool operator==(const CollectivesInLayers&) const = default;
};

/// What a rank's queues cost each other: a collective's kernel takes multiprocessors from the
/// experts, which take memory bandwidth from it. While a rank computes and takes part in a
/// collective, the computation advances at 1/compute of its speed alone and the collective,
/// start-up included, at 1/communication.
struct Contention {
  Slowdown compute;
  Slowdown communication;
  std::string source;
  /// Entries for specific expert sizes; they override the general factors.
  std::vector<ExpertContention> experts = {};

  /// Null where no entry is of these experts.
  const ExpertContention* of(const ExpertSizes& sizes, ProductKind kind) const;
  bool operator==(const Contention&) const = default;
};

}  // namespace pipemoe
