#include "models/timeline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "models/error.hpp"

namespace pipemoe {
namespace {

using Interval = std::pair<Seconds, Seconds>;

// Sorted, disjoint intervals in which a rank's chosen resources run something.
template <class Chosen>
std::vector<Interval> active(const Timeline& timeline, int rank, Chosen chosen) {
  std::vector<Interval> sorted;
  for (const Span& span : timeline.spans) {
    if (span.rank == rank && chosen(timeline.resource_of(span)) && span.end > span.start) {
      sorted.emplace_back(span.start, span.end);
    }
  }
  std::sort(sorted.begin(), sorted.end());
  std::vector<Interval> merged;
  for (const Interval& next : sorted) {
    if (!merged.empty() && next.first <= merged.back().second) {
      merged.back().second = std::max(merged.back().second, next.second);
    } else {
      merged.push_back(next);
    }
  }
  return merged;
}

Seconds length(const std::vector<Interval>& intervals) {
  Seconds sum{};
  for (const auto& [start, end] : intervals) sum += end - start;
  return sum;
}

Seconds common_length(const std::vector<Interval>& a, const std::vector<Interval>& b) {
  Seconds sum{};
  for (auto i = a.begin(), j = b.begin(); i != a.end() && j != b.end();) {
    const Seconds start = std::max(i->first, j->first), end = std::min(i->second, j->second);
    if (end > start) sum += end - start;
    (i->second < j->second ? i : j)++;
  }
  return sum;
}

}  // namespace

std::vector<std::pair<std::string, double>> named(const BasisShares& shares) {
  std::vector<std::pair<std::string, double>> all;
  for (const Basis basis : kBases) {
    all.emplace_back(to_string(basis), shares[static_cast<std::size_t>(basis)]);
  }
  return all;
}

BasisShares mean_of(const std::vector<BasisShares>& all) {
  ensure(!all.empty(), "the mean of no shares");
  BasisShares mean{};
  for (const BasisShares& one : all) {
    for (std::size_t i = 0; i < mean.size(); ++i) {
      mean[i] += one[i] / static_cast<double>(all.size());
    }
  }
  return mean;
}

std::string to_string(const BasisShares& shares) {
  std::string text;
  for (const auto& [basis, share] : named(shares)) {
    if (share < 5e-4) continue;
    text += fmt::format("{}{:.1f} % {}", text.empty() ? "" : ", ", 100 * share, basis);
  }
  return text;
}

std::vector<int> Timeline::ranks() const {
  std::set<int> found;
  for (const Span& span : spans) found.insert(span.rank);
  return {found.begin(), found.end()};
}

Seconds Timeline::makespan() const {
  Seconds last{};
  for (const Span& span : spans) last = std::max(last, span.end);
  return last;
}

Seconds Timeline::forward() const {
  Seconds last{};
  for (const Span& span : spans) {
    if (span.task.pass == Pass::Forward) last = std::max(last, span.end);
  }
  return last;
}

Seconds Timeline::busy(Resource resource, int rank) const {
  return length(active(*this, rank, [resource](Resource other) { return other == resource; }));
}

Seconds Timeline::communication(int rank) const {
  return length(active(*this, rank, is_communication));
}

Seconds Timeline::exposed_communication(int rank) const {
  const auto communicating = active(*this, rank, is_communication);
  const auto computing =
      active(*this, rank, [](Resource resource) { return resource == Resource::Compute; });
  return length(communicating) - common_length(communicating, computing);
}

double Timeline::overlap_ratio(int rank) const {
  const Seconds all = communication(rank);
  return all > Seconds{} ? 1 - exposed_communication(rank) / all : 0;
}

}  // namespace pipemoe
