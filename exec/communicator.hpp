// Moves rows between CPU ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
#include <string>

#include "models/units.hpp"

namespace pipemoe::exec {

/// One rank's side of an all-to-all with uneven counts. Both buffers hold the parts of ranks 0, 1,
/// ... one after another. Counts are in floats, by rank, and include this rank's own part.
struct Exchange {
  std::span<const float> send;
  std::span<const std::int64_t> send_counts;
  std::span<float> receive;
  std::span<const std::int64_t> receive_counts;
};

/// Joins all ranks of a group, which call exchange() equally often and in the same order. Each
/// queue has its own communicator, so one thread at a time uses it.
class Communicator {
 public:
  virtual ~Communicator() = default;

  /// Returns when this rank has sent and received everything. Waits without occupying its core.
  /// Throws RunError when a rank fails, on `stop`, and on a time-out that the communicator sets.
  virtual void exchange(const Exchange& exchange, std::stop_token stop) = 0;
};

/// Copies, for a group of one rank.
std::unique_ptr<Communicator> copy_communicator();

/// A link slower than the real one. An exchange takes at least alpha + beta * n, where n is what
/// this rank sends or what it receives, whichever is more.
using Link = AlphaBeta<Bytes>;
/// Reads "alpha=1ms,beta=1e-9": a time with a unit (s, ms, us) and seconds per byte, both >= 0.
/// Throws InputError.
Link parse_link(const std::string& text);
std::string to_string(const Link& link);
std::unique_ptr<Communicator> emulate_link(Link link, std::unique_ptr<Communicator> real);

}  // namespace pipemoe::exec
