#include "kernels/row_placement.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

namespace pipemoe::cuda {
namespace {

using kernels::ReceivedRows;
using kernels::rows_before_chunk;
using kernels::rows_in_chunk;

// Returns the rows of one chunk that go to each rank.
std::vector<std::int64_t> sent_to_ranks(const DeviceLayerShape& shape,
                                        const std::vector<std::int64_t>& sent, std::int64_t degree,
                                        std::int64_t chunk) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(shape.num_ranks));
  for (std::int64_t e = 0; e < shape.num_experts; ++e) {
    rows[static_cast<std::size_t>(e / shape.local_experts())] +=
        rows_in_chunk(sent[static_cast<std::size_t>(e)], degree, chunk);
  }
  return rows;
}

// One group for each source: all experts over that source's rows.
std::vector<ExpertGroup> source_groups(const DeviceLayerShape& shape, const ReceivedRows& chunk,
                                       std::int64_t begin) {
  std::vector<ExpertGroup> groups;
  for (std::int64_t source = 0; source < chunk.num_sources(); ++source) {
    const std::int64_t rows = chunk.block_rows(source, 0);
    groups.push_back({.experts = shape.local_experts(),
                      .first_row = begin + chunk.received_begin(source, 0),
                      .rows = rows,
                      .stride = rows,
                      .continues = source > 0});
  }
  return groups;
}

// With a capacity, one group: all experts have equally many rows. Dropless, one group per expert.
std::vector<ExpertGroup> packed_groups(const DeviceLayerShape& shape, const ReceivedRows& chunk,
                                       std::int64_t begin) {
  const std::int64_t experts = shape.local_experts();
  if (shape.capacity >= 0) {
    const std::int64_t rows = chunk.expert_rows(0);
    return {{.experts = experts, .first_row = begin, .rows = rows, .stride = rows}};
  }
  std::vector<ExpertGroup> groups;
  for (std::int64_t e = 0; e < experts; ++e) {
    groups.push_back({.first_expert = e,
                      .experts = 1,
                      .first_row = begin + chunk.packed_begin(0, e),
                      .rows = chunk.expert_rows(e)});
  }
  return groups;
}

std::vector<ExpertGroup> expert_major_groups(const DeviceLayerShape& shape,
                                             const ExpertMajor& order, std::int64_t degree,
                                             std::int64_t chunk) {
  return {{.experts = shape.local_experts(),
           .first_row = order.row_of_slot(rows_before_chunk(shape.capacity, degree, chunk)),
           .rows = order.row_of_slot(rows_in_chunk(shape.capacity, degree, chunk)),
           .stride = order.expert_rows()}};
}

// For a direct dropless layer: one group for each expert. The chunks of an expert are contiguous.
std::vector<ExpertGroup> direct_groups(const DeviceLayerShape& shape, const ReceivedRows& all,
                                       std::int64_t degree, std::int64_t chunk) {
  std::vector<ExpertGroup> groups;
  for (std::int64_t e = 0; e < shape.num_experts; ++e) {
    const std::int64_t rows = all.expert_rows(e);
    groups.push_back({.first_expert = e,
                      .experts = 1,
                      .first_row = all.packed_begin(0, e) + rows_before_chunk(rows, degree, chunk),
                      .rows = rows_in_chunk(rows, degree, chunk)});
  }
  return groups;
}

// Appends moves to a list, and remembers their range.
class MoveList {
 public:
  explicit MoveList(std::vector<RowMove>& all)
      : all_(all), moves_{.begin = static_cast<std::int64_t>(all.size())} {}
  void add(const RowMove& move) {
    if (move.rows == 0) return;
    all_.push_back(move);
    ++moves_.count;
    moves_.most_rows = std::max(moves_.most_rows, move.rows);
  }
  const MoveRange& moves() const { return moves_; }

 private:
  std::vector<RowMove>& all_;
  MoveRange moves_;
};

template <class Visit>
void for_each_block(const ReceivedRows& rows, Visit visit) {
  for (std::int64_t e = 0; e < rows.local_experts(); ++e) {
    for (std::int64_t source = 0; source < rows.num_sources(); ++source) visit(source, e);
  }
}

// Returns the moves that pack one block of a chunk: into the chunk's packed order, or into
// expert-major order if `order` is given.
std::vector<RowMove> packing_of(const ReceivedRows& rows, const ExpertMajor* order,
                                const std::vector<std::int64_t>& segments, std::int64_t begin,
                                std::int64_t source, std::int64_t expert) {
  std::int64_t from = begin + rows.received_begin(source, expert);
  if (order == nullptr) {
    return {{from, begin + rows.packed_begin(source, expert), rows.block_rows(source, expert)}};
  }
  std::vector<RowMove> moves;
  for (const std::int64_t segment : segments) {
    moves.push_back({from, order->begin(source, expert, segment), order->slots(segment)});
    from += order->slots(segment);
  }
  return moves;
}

// Adds the moves that pack a chunk, and those that unpack it. The rows of source `kept`, if any,
// are already in the experts' buffers.
void add_packing(const ReceivedRows& rows, const ExpertMajor* order,
                 const std::vector<std::int64_t>& segments, std::optional<std::int64_t> kept,
                 ChunkPlacement& chunk, std::vector<RowMove>& all) {
  MoveList pack(all);
  for_each_block(rows, [&](std::int64_t source, std::int64_t e) {
    if (source == kept) return;
    for (const RowMove& move : packing_of(rows, order, segments, chunk.received_begin, source, e)) {
      pack.add(move);
    }
  });
  chunk.pack = pack.moves();
  MoveList unpack(all);
  for (std::int64_t m = chunk.pack.begin; m < chunk.pack.begin + chunk.pack.count; ++m) {
    const RowMove move = all[static_cast<std::size_t>(m)];
    unpack.add({move.to, move.from, move.rows});
  }
  chunk.unpack = unpack.moves();
}

// First row of a block in the order in which the products read it.
std::int64_t products_begin(const ReceivedRows& rows, ReceivedOrder order, std::int64_t source,
                            std::int64_t expert) {
  return order == ReceivedOrder::BySource ? rows.received_begin(source, expert)
                                          : rows.packed_begin(source, expert);
}

std::vector<ChunkPlacement> chunks_of(const DeviceLayerShape& shape,
                                      const std::vector<std::int64_t>& sent,
                                      const ReceivedRows& all, std::int64_t degree,
                                      RowPlacement& placement) {
  const ReceivedOrder order = received_order(shape);
  const ExpertMajor* expert_major = placement.expert_major ? &*placement.expert_major : nullptr;
  std::vector<ChunkPlacement> chunks;
  std::int64_t sent_begin = 0, received_begin = 0;
  for (std::int64_t c = 0; c < degree; ++c) {
    const ReceivedRows rows = all.chunk(degree, c);
    ChunkPlacement chunk{.sent_begin = sent_begin,
                         .received_begin = received_begin,
                         .sent_rows = sent_to_ranks(shape, sent, degree, c)};
    for (std::int64_t source = 0; source < shape.num_ranks; ++source) {
      chunk.received_rows.push_back(rows.source_rows(source));
    }
    chunk.groups = expert_major   ? expert_major_groups(shape, *expert_major, degree, c)
                   : shape.direct ? direct_groups(shape, all, degree, c)
                   : order == ReceivedOrder::BySource ? source_groups(shape, rows, received_begin)
                                                      : packed_groups(shape, rows, received_begin);
    if (order == ReceivedOrder::Packed) {
      const auto segments =
          expert_major ? expert_major->of_chunk(degree, c) : std::vector<std::int64_t>();
      add_packing(rows, expert_major, segments, shape.keeps_own, chunk, placement.moves);
    }
    const bool keeps = shape.keeps_own && expert_major == nullptr;
    for (std::int64_t e = 0; keeps && e < shape.local_experts(); ++e) {
      chunk.own_begin.push_back(received_begin + products_begin(rows, order, *shape.keeps_own, e));
    }
    for (const std::int64_t count : chunk.sent_rows) sent_begin += count;
    received_begin += rows.rows();
    chunks.push_back(std::move(chunk));
  }
  return chunks;
}

// Whether moving rows into packed order is expected to save time. It takes four passes over the
// rows in an iteration. Without it, each source needs its own products: these are inefficient if
// they have few rows, and each one reads and writes the weight gradients once more.
bool packing_pays(const DeviceLayerShape& shape) {
  constexpr std::int64_t kEfficientRows = 512;  // measured on two H100 with 16 and 32 experts each
  const std::int64_t most = std::max(shape.forward_degree, shape.backward_degree);
  if (shape.capacity / most < kEfficientRows) return true;
  const std::int64_t sources = shape.num_ranks - (shape.keeps_own ? 1 : 0);
  const std::int64_t moved = 8 * sources * shape.capacity;  // for one expert, in rows
  const std::int64_t added =
      2 * (shape.num_ranks - 1) * shape.backward_degree * (shape.first_width() + shape.hidden_dim);
  return moved < added;
}

// Adds the moves from the forward pass's chunks to one chunk of the backward pass, as
// kernels::regroup. Both sides are in the order of the products.
void add_regrouping(const DeviceLayerShape& shape, const ReceivedRows& all, std::int64_t index,
                    RowPlacement& placement) {
  const ReceivedOrder order = received_order(shape);
  const std::int64_t to_degree = shape.backward_degree, from_degree = shape.forward_degree;
  ChunkPlacement& chunk = placement.backward[static_cast<std::size_t>(index)];
  const ReceivedRows to = all.chunk(to_degree, index);
  MoveList list(placement.moves);
  for_each_block(all, [&](std::int64_t source, std::int64_t e) {
    const std::int64_t rows = all.block_rows(source, e);
    std::int64_t row = rows_before_chunk(rows, to_degree, index);
    const std::int64_t end = rows_before_chunk(rows, to_degree, index + 1);
    std::int64_t to_row = chunk.received_begin + products_begin(to, order, source, e);
    while (row < end) {
      const std::int64_t c = kernels::chunk_of_row(row, rows, from_degree);
      const std::int64_t before = rows_before_chunk(rows, from_degree, c);
      const std::int64_t last = rows_before_chunk(rows, from_degree, c + 1);
      const std::int64_t count = std::min(end, last) - row;
      const std::int64_t begin = placement.forward[static_cast<std::size_t>(c)].received_begin +
                                 products_begin(all.chunk(from_degree, c), order, source, e);
      list.add({begin + row - before, to_row, count});
      row += count;
      to_row += count;
    }
  });
  chunk.regroup = list.moves();
}

// Appends the first row of each block (segment and expert) of one chunk in expert-major order.
void add_segments(const DeviceLayerShape& shape, const RowPlacement& placement, std::int64_t degree,
                  std::int64_t index, const ChunkPlacement& chunk,
                  std::vector<std::int32_t>& begins) {
  const ExpertMajor& order = required(placement.expert_major, "segments of another order");
  const std::int64_t local = shape.local_experts();
  const std::int64_t rows = rows_in_chunk(shape.capacity, degree, index);
  const std::int64_t before = rows_before_chunk(shape.capacity, degree, index);
  for (const std::int64_t segment : order.of_chunk(degree, index)) {
    for (std::int64_t e = 0; e < shape.num_experts; ++e) {
      const bool kept = shape.keeps_own && e / local == *shape.keeps_own;
      const std::int64_t begin =
          kept ? placement.sent_rows + order.begin(*shape.keeps_own, e % local, segment)
               : chunk.sent_begin + e * rows + order.first_slot(segment) - before;
      begins.push_back(static_cast<std::int32_t>(begin));
    }
  }
}

}  // namespace

ExpertMajor::ExpertMajor(std::int64_t sources, std::int64_t capacity, std::int64_t forward_degree,
                         std::int64_t backward_degree)
    : sources_(sources) {
  std::set<std::int64_t> bounds{0, capacity};
  for (const std::int64_t degree : {forward_degree, backward_degree}) {
    for (std::int64_t chunk = 1; chunk < degree; ++chunk) {
      bounds.insert(rows_before_chunk(capacity, degree, chunk));
    }
  }
  bounds_.assign(bounds.begin(), bounds.end());
}

std::vector<std::int64_t> ExpertMajor::of_chunk(std::int64_t degree, std::int64_t chunk) const {
  const std::int64_t capacity = bounds_.back();
  const std::int64_t begin = rows_before_chunk(capacity, degree, chunk);
  const std::int64_t end = rows_before_chunk(capacity, degree, chunk + 1);
  std::vector<std::int64_t> all;
  for (std::int64_t segment = 0; segment < segments(); ++segment) {
    if (first_slot(segment) >= begin && first_slot(segment) < end) all.push_back(segment);
  }
  return all;
}

ReceivedOrder received_order(const DeviceLayerShape& shape) {
  if (shape.direct || shape.num_ranks == 1 || shape.local_experts() == 1 ||
      shape.exchanges_by_expert) {
    return ReceivedOrder::AsPacked;
  }
  const bool packs = shape.capacity < 0 || shape.packs.value_or(packing_pays(shape));
  return packs ? ReceivedOrder::Packed : ReceivedOrder::BySource;
}

bool is_expert_major(const DeviceLayerShape& shape) {
  return shape.capacity >= 0 && (shape.direct || shape.exchanges_by_expert ||
                                 received_order(shape) == ReceivedOrder::Packed);
}

std::vector<std::int32_t> capacity_blocks(const DeviceLayerShape& shape,
                                          const RowPlacement& placement,
                                          const std::vector<ChunkPlacement>& chunks) {
  ensure(placement.sent_rows + placement.received_rows <= std::numeric_limits<std::int32_t>::max(),
         "device layer: more than 2^31 - 1 rows");
  std::vector<std::int32_t> begins;
  const auto degree = static_cast<std::int64_t>(chunks.size());
  if (shape.direct) {  // an expert's rows are contiguous, whatever the degree
    for (std::int64_t e = 0; e < shape.num_experts; ++e) {
      begins.push_back(static_cast<std::int32_t>(e * shape.capacity));
    }
    return begins;
  }
  if (placement.expert_major) {
    for (std::int64_t c = 0; c < degree; ++c) {
      add_segments(shape, placement, degree, c, chunks[static_cast<std::size_t>(c)], begins);
    }
    return begins;
  }
  const std::int64_t local = shape.local_experts();
  for (std::int64_t c = 0; c < degree; ++c) {
    const ChunkPlacement& chunk = chunks[static_cast<std::size_t>(c)];
    std::int64_t sent = chunk.sent_begin;
    for (std::int64_t e = 0; e < shape.num_experts; ++e) {
      const bool kept = shape.keeps_own && e / local == *shape.keeps_own;
      const std::int64_t begin =
          kept ? placement.sent_rows + chunk.own_begin[static_cast<std::size_t>(e % local)] : sent;
      begins.push_back(static_cast<std::int32_t>(begin));
      sent += rows_in_chunk(shape.capacity, degree, c);
    }
  }
  return begins;
}

RowPlacement place(const DeviceLayerShape& shape, const std::vector<std::int64_t>& sent,
                   const ReceivedRows& received) {
  ensure(static_cast<std::int64_t>(sent.size()) == shape.num_experts,
         "place: one number of sent rows for each expert");
  ensure(received.num_sources() == shape.num_ranks &&
             received.local_experts() == shape.local_experts(),
         "place: received rows of other ranks or experts");
  RowPlacement placement{.received_rows = received.rows()};
  if (is_expert_major(shape)) {
    placement.expert_major.emplace(shape.num_ranks, shape.capacity,
                                   shape.direct ? 1 : shape.forward_degree,
                                   shape.direct ? 1 : shape.backward_degree);
  }
  for (const std::int64_t rows : sent) placement.sent_rows += rows;
  placement.forward = chunks_of(shape, sent, received, shape.forward_degree, placement);
  placement.backward = chunks_of(shape, sent, received, shape.backward_degree, placement);
  for (ChunkPlacement& chunk : placement.backward) {
    for (ExpertGroup& group : chunk.groups) {
      group.sums_begin = placement.first_bias_sums;
      placement.first_bias_sums +=
          partial_sums_size({.experts = group.experts, .rows = group.rows}, shape.first_width());
    }
  }
  const bool regroups =
      !shape.direct && !placement.expert_major && shape.forward_degree != shape.backward_degree;
  if (regroups) {
    for (std::int64_t c = 0; c < shape.backward_degree; ++c) {
      add_regrouping(shape, received, c, placement);
    }
  }
  return placement;
}

}  // namespace pipemoe::cuda
