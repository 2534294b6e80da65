// An order of the rows that a rank's experts get in which every chunk, of forward and of backward,
// is a range of each expert's rows.
#pragma once

#include <cstdint>
#include <vector>

namespace pipemoe::cuda {

/// Of a layer with a capacity: [expert][segment][source][slot]. Segments are what the bounds of all
/// chunks of both directions cut an expert's slots into.
class ExpertMajor {
 public:
  ExpertMajor(std::int64_t sources, std::int64_t capacity, std::int64_t forward_degree,
              std::int64_t backward_degree);

  /// First slot of each segment, then the capacity.
  const std::vector<std::int64_t>& bounds() const { return bounds_; }
  std::int64_t segments() const { return static_cast<std::int64_t>(bounds_.size()) - 1; }
  std::int64_t first_slot(std::int64_t segment) const {
    return bounds_[static_cast<std::size_t>(segment)];
  }
  std::int64_t slots(std::int64_t segment) const {
    return first_slot(segment + 1) - first_slot(segment);
  }
  /// The segments of one chunk of forward's or backward's degree, in order.
  std::vector<std::int64_t> of_chunk(std::int64_t degree, std::int64_t chunk) const;
  /// Rows of one expert.
  std::int64_t expert_rows() const { return sources_ * bounds_.back(); }
  /// First row of all sources' slots from a bound on, in the first expert.
  std::int64_t row_of_slot(std::int64_t slot) const { return sources_ * slot; }
  /// First row of a segment of one source and expert.
  std::int64_t begin(std::int64_t source, std::int64_t expert, std::int64_t segment) const {
    return expert * expert_rows() + row_of_slot(first_slot(segment)) + source * slots(segment);
  }

 private:
  std::int64_t sources_;
  std::vector<std::int64_t> bounds_;
};

}  // namespace pipemoe::cuda
