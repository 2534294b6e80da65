#include "models/contention.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "models/error.hpp"

namespace pipemoe {

Slowdown::Slowdown(double factor) : points_{{1, factor}} {
  ensure(std::isfinite(factor) && factor >= 1, "a slowdown below 1");
}

Slowdown::Slowdown(Points points) : points_(std::move(points)) {
  if (points_.empty()) throw InputError("needs at least one point");
  double before = 0;
  for (const auto& [bytes, factor] : points_) {
    if (!(std::isfinite(bytes) && bytes > before)) {
      throw InputError("needs bytes that rise from above 0");
    }
    if (!(std::isfinite(factor) && factor >= 1)) {
      throw InputError(fmt::format("needs factors of at least 1, not {}", factor));
    }
    before = bytes;
  }
}

double Slowdown::at(double bytes) const {
  const auto above = std::find_if(points_.begin(), points_.end(),
                                  [&](const auto& point) { return point.first >= bytes; });
  if (above == points_.begin()) return above->second;
  if (above == points_.end()) return points_.back().second;
  const auto& [from, low] = *std::prev(above);
  const auto& [to, high] = *above;
  return std::lerp(low, high, std::log(bytes / from) / std::log(to / from));
}

bool ExpertContention::is_of(const ExpertSizes& experts, ProductKind kind) const {
  const Pass computed = kind == ProductKind::Forward ? Pass::Forward : Pass::Backward;
  return sizes == experts && (!pass || *pass == computed);
}

const ExpertContention* Contention::of(const ExpertSizes& sizes, ProductKind kind) const {
  const auto found = std::find_if(experts.begin(), experts.end(), [&](const ExpertContention& one) {
    return one.is_of(sizes, kind);
  });
  return found == experts.end() ? nullptr : &*found;
}

}  // namespace pipemoe
