// How one phase's rows lie on one rank: those it sends, by its routing, and those its experts get,
// by everyone's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/received.hpp"
#include "kernels/routing.hpp"

namespace pipemoe::exec {

struct Chunk {
  std::int64_t sent_begin = 0;  ///< first of the rows this rank sends, in its ChunkPlan's order
  std::int64_t sent_rows = 0;
  std::int64_t received_begin = 0;  ///< first of the rows its experts get, chunks in order
  kernels::ReceivedRows received;
  std::vector<std::int64_t> send_counts;     ///< floats to each rank
  std::vector<std::int64_t> receive_counts;  ///< floats from each rank
};

/// The chunks of a phase, as many as the plan has. `all`: what this rank's experts get in all of
/// them.
std::vector<Chunk> chunks_of(const kernels::ChunkPlan& plan, const kernels::ReceivedRows& all,
                             std::int64_t model_dim);

}  // namespace pipemoe::exec
