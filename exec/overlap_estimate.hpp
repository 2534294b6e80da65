// How much two streams slow each other, from what they did together and what they do alone.
#pragma once

#include <optional>
#include <vector>

#include "exec/execute.hpp"

namespace pipemoe::exec {

/// One stream's tasks in one iteration and the time each takes alone.
struct StreamTimes {
  std::vector<TaskTimes> tasks;  ///< in order, not overlapping each other
  Seconds alone{};               ///< sum of what they take alone
};

/// Time in which both streams ran a task.
Seconds both_busy(const StreamTimes& a, const StreamTimes& b);

/// The slowdown s under which `stream`, advancing at 1/s while the other is busy, takes as long as
/// it did: alone = (busy - both) + both / s. Null where the streams met for less than a quarter of
/// the stream's time, or where no s says so.
std::optional<double> slowdown(const StreamTimes& stream, const StreamTimes& other);

}  // namespace pipemoe::exec
