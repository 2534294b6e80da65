#include "exec/chunk_rows.hpp"

namespace pipemoe::exec {

std::vector<Chunk> chunks_of(const kernels::ChunkPlan& plan, const kernels::ReceivedRows& all,
                             std::int64_t model_dim) {
  const std::int64_t local = all.local_experts();
  std::vector<Chunk> chunks;
  std::int64_t received_begin = 0;
  for (std::int64_t index = 0; index < plan.degree; ++index) {
    Chunk chunk{plan.first_row(index, 0), plan.chunk_rows(index), received_begin,
                all.chunk(plan.degree, index)};
    for (std::int64_t rank = 0; rank < all.num_sources(); ++rank) {
      const std::int64_t sent =
          plan.first_row(index, (rank + 1) * local) - plan.first_row(index, rank * local);
      chunk.send_counts.push_back(sent * model_dim);
      chunk.receive_counts.push_back(chunk.received.source_rows(rank) * model_dim);
    }
    received_begin += chunk.received.rows();
    chunks.push_back(std::move(chunk));
  }
  return chunks;
}

}  // namespace pipemoe::exec
