#include "kernels/expert_major.hpp"

#include <set>

#include "kernels/routing.hpp"

namespace pipemoe::cuda {

ExpertMajor::ExpertMajor(std::int64_t sources, std::int64_t capacity, std::int64_t forward_degree,
                         std::int64_t backward_degree)
    : sources_(sources) {
  std::set<std::int64_t> bounds{0, capacity};
  for (const std::int64_t degree : {forward_degree, backward_degree}) {
    for (std::int64_t chunk = 1; chunk < degree; ++chunk) {
      bounds.insert(kernels::rows_before_chunk(capacity, degree, chunk));
    }
  }
  bounds_.assign(bounds.begin(), bounds.end());
}

std::vector<std::int64_t> ExpertMajor::of_chunk(std::int64_t degree, std::int64_t chunk) const {
  const std::int64_t capacity = bounds_.back();
  const std::int64_t begin = kernels::rows_before_chunk(capacity, degree, chunk);
  const std::int64_t end = kernels::rows_before_chunk(capacity, degree, chunk + 1);
  std::vector<std::int64_t> all;
  for (std::int64_t segment = 0; segment < segments(); ++segment) {
    if (first_slot(segment) >= begin && first_slot(segment) < end) all.push_back(segment);
  }
  return all;
}

}  // namespace pipemoe::cuda
