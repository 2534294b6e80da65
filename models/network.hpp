// What an evaluation needs of a network: collectives begin, and the network says when the next
// one ends.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "models/task_graph.hpp"
#include "models/units.hpp"

namespace pipemoe {

inline constexpr Seconds kNever{std::numeric_limits<double>::infinity()};

/// A collective's part on the ranks of one class has ended.
struct EndedPart {
  static constexpr std::uint32_t kAllRanks = ~std::uint32_t{0};
  TaskId task = 0;
  std::uint32_t rank_class = kAllRanks;  ///< of Costs
};

/// Times are of the network's own clock, which an evaluation dilates while collectives are slowed.
class Network {
 public:
  virtual ~Network() = default;
  /// Moves the clock to `now`, which is not after next_end(), and starts what the collective moves;
  /// its start-up is paid. False: it moves nothing, and has ended.
  virtual bool begin(TaskId task, Seconds now) = 0;
  /// When the next part ends if nothing else begins; kNever while nothing moves.
  virtual Seconds next_end() = 0;
  /// Moves the clock there; appends what ends then. Requires that something moves.
  virtual void end_next(std::vector<EndedPart>& ended) = 0;
};

}  // namespace pipemoe
