// Tests of the position of rows on a GPU. They need no GPU.
#include "kernels/row_placement.hpp"

#include <catch2/catch.hpp>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/device_layer_state.hpp"
#include "kernels/routing.hpp"

using namespace pipemoe;
using namespace pipemoe::cuda;
using kernels::ReceivedRows;

namespace {

constexpr std::int64_t kCapacity = 10;

// Two ranks with two experts each. Each rank sends ten rows to each expert.
DeviceLayerShape two_ranks(bool packs) {
  return {.tokens = 20,
          .model_dim = 16,
          .hidden_dim = 8,
          .num_experts = 4,
          .top_k = 2,
          .capacity = kCapacity,
          .num_ranks = 2,
          .forward_degree = 2,
          .backward_degree = 3,
          .packs = packs};
}

RowPlacement placed(const DeviceLayerShape& of) {
  const ReceivedRows received(2, 2, std::vector<std::int64_t>(4, kCapacity));
  return place(of, std::vector<std::int64_t>(4, kCapacity), received);
}

// Returns for each received row how many groups of all chunks contain it.
std::vector<int> times_covered(const std::vector<ChunkPlacement>& chunks, std::int64_t rows) {
  std::vector<int> covered(static_cast<std::size_t>(rows));
  for (const ChunkPlacement& chunk : chunks) {
    for (const ExpertGroup& group : chunk.groups) {
      for (std::int64_t e = 0; e < group.experts; ++e) {
        for (std::int64_t row = 0; row < group.rows; ++row) {
          ++covered.at(static_cast<std::size_t>(group.first_row + e * group.stride + row));
        }
      }
    }
  }
  return covered;
}

}  // namespace

TEST_CASE("experts may read rows as the ranks sent them", "[cuda][placement]") {
  // Three chunks of ten rows have 4, 3 and 3 rows.
  REQUIRE(received_order(two_ranks(false)) == ReceivedOrder::BySource);
  const RowPlacement placement = placed(two_ranks(false));
  for (const auto* chunks : {&placement.forward, &placement.backward}) {
    CHECK(times_covered(*chunks, placement.received_rows) ==
          std::vector<int>(static_cast<std::size_t>(placement.received_rows), 1));
    for (const ChunkPlacement& chunk : *chunks) {
      REQUIRE(chunk.groups.size() == 2);
      CHECK(chunk.groups[0].first_row == chunk.received_begin);
      CHECK_FALSE(chunk.groups[0].continues);
      CHECK(chunk.groups[1].continues);  // its weight gradients are added to the first group's
      CHECK(chunk.pack.count == 0);
      CHECK(chunk.unpack.count == 0);
    }
  }
}

TEST_CASE("rows regrouped between degrees keep their expert and source", "[cuda][placement]") {
  // Each forward chunk has [source][expert] blocks of 5 rows; the backward chunks have blocks of 4,
  // 3 and 3. Row i of all rows of one source and expert is in forward chunk i / 5, and in backward
  // chunk 0, 1 or 2 from row 0, 4 or 7 on.
  const RowPlacement placement = placed(two_ranks(false));
  std::vector<std::int64_t> from(40, -1);
  for (const ChunkPlacement& chunk : placement.backward) {
    for (std::int64_t m = chunk.regroup.begin; m < chunk.regroup.begin + chunk.regroup.count; ++m) {
      const RowMove& move = placement.moves[static_cast<std::size_t>(m)];
      for (std::int64_t row = 0; row < move.rows; ++row) {
        from.at(static_cast<std::size_t>(move.to + row)) = move.from + row;
      }
    }
  }
  const std::int64_t begins[] = {0, 4, 7, 10};
  for (std::int64_t block = 0; block < 4; ++block) {  // source * 2 + expert
    for (std::int64_t row = 0; row < kCapacity; ++row) {
      const std::int64_t chunk = row < 4 ? 0 : row < 7 ? 1 : 2;
      const std::int64_t size = begins[chunk + 1] - begins[chunk];
      const std::int64_t to = 4 * begins[chunk] + block * size + row - begins[chunk];
      CAPTURE(block, row);
      CHECK(from[static_cast<std::size_t>(to)] == row / 5 * 20 + block * 5 + row % 5);
    }
  }
}

TEST_CASE("rows may be moved together first, and a dropless layer's are", "[cuda][placement]") {
  CHECK(received_order(two_ranks(true)) == ReceivedOrder::Packed);
  // The segments have 4, 1, 2 and 3 slots. The middle backward chunk consists of two.
  const RowPlacement placement = placed(two_ranks(true));
  const std::int64_t segments[] = {1, 2, 1};
  for (std::size_t c = 0; c < 3; ++c) {
    REQUIRE(placement.backward[c].groups.size() == 1);
    CHECK(placement.backward[c].pack.count == 4 * segments[c]);
    CHECK(placement.backward[c].regroup.count == 0);
  }
  DeviceLayerShape dropless = two_ranks(false);
  dropless.capacity = -1;
  CHECK(received_order(dropless) == ReceivedOrder::Packed);
  DeviceLayerShape by_expert = two_ranks(true);
  by_expert.exchanges_by_expert = true;
  CHECK(received_order(by_expert) == ReceivedOrder::AsPacked);
  DeviceLayerShape one_expert = two_ranks(true);
  one_expert.num_experts = 2;
  CHECK(received_order(one_expert) == ReceivedOrder::AsPacked);
}

TEST_CASE("rows that are moved together are moved back", "[cuda][placement]") {
  const RowPlacement placement = placed(two_ranks(true));
  for (const ChunkPlacement& chunk : placement.backward) {
    REQUIRE(chunk.unpack.count == chunk.pack.count);
    CHECK(chunk.unpack.most_rows == chunk.pack.most_rows);
    for (std::int64_t m = 0; m < chunk.pack.count; ++m) {
      const RowMove& there = placement.moves.at(static_cast<std::size_t>(chunk.pack.begin + m));
      const RowMove& back = placement.moves.at(static_cast<std::size_t>(chunk.unpack.begin + m));
      CHECK(back.from == there.to);
      CHECK(back.to == there.from);
      CHECK(back.rows == there.rows);
    }
  }
}

TEST_CASE("a direct layer's rows are ordered by expert, whatever its degree", "[cuda][placement]") {
  DeviceLayerShape direct = two_ranks(false);
  direct.num_ranks = 1;
  direct.direct = true;
  const std::vector<std::int64_t> rows(4, kCapacity);
  const RowPlacement placement = place(direct, rows, ReceivedRows(1, 4, rows));
  CHECK(capacity_blocks(direct, placement, placement.forward) ==
        std::vector<std::int32_t>{0, 10, 20, 30});
}

TEST_CASE("expert-major order cuts an expert's slots where either pass does", "[cuda][placement]") {
  const ExpertMajor order(2, 10, 2, 3);
  CHECK(order.bounds() == std::vector<std::int64_t>{0, 4, 5, 7, 10});
  CHECK(order.of_chunk(2, 0) == std::vector<std::int64_t>{0, 1});
  CHECK(order.of_chunk(3, 1) == std::vector<std::int64_t>{1, 2});
  // The second expert begins at row 20. Its segment 2 has slots 5 and 6 of source 0, then of 1.
  CHECK(order.begin(0, 1, 2) == 20 + 10);
  CHECK(order.begin(1, 1, 2) == 20 + 12);
  const ExpertMajor few(2, 2, 5, 1);  // a chunk without slots has no segment
  CHECK(few.bounds() == std::vector<std::int64_t>{0, 1, 2});
  CHECK(few.of_chunk(5, 3).empty());
}

TEST_CASE("chunks of both passes are ranges of each expert's rows", "[cuda][placement]") {
  DeviceLayerShape of = two_ranks(GENERATE(false, true));
  of.exchanges_by_expert = !of.packs.value();
  REQUIRE(is_expert_major(of));
  const RowPlacement placement = placed(of);
  for (const auto* chunks : {&placement.forward, &placement.backward}) {
    CHECK(times_covered(*chunks, placement.received_rows) ==
          std::vector<int>(static_cast<std::size_t>(placement.received_rows), 1));
    std::int64_t next = 0;
    for (const ChunkPlacement& chunk : *chunks) {
      REQUIRE(chunk.groups.size() == 1);
      CHECK(chunk.groups[0].first_row == next);
      CHECK(chunk.groups[0].stride == 2 * kCapacity);
      CHECK(chunk.regroup.count == 0);
      next += chunk.groups[0].rows;
    }
    CHECK(next == 2 * kCapacity);
  }
  DeviceLayerShape by_source = two_ranks(false);
  CHECK_FALSE(is_expert_major(by_source));
}

TEST_CASE("kept rows of expert-major order have a block for each segment", "[cuda][placement]") {
  DeviceLayerShape rank_1 = two_ranks(true);
  rank_1.keeps_own = 1;
  const RowPlacement placement = placed(rank_1);
  const ExpertMajor& order = placement.expert_major.value();
  for (const auto* chunks : {&placement.forward, &placement.backward}) {
    const auto degree = static_cast<std::int64_t>(chunks->size());
    const auto begins = capacity_blocks(rank_1, placement, *chunks);
    REQUIRE(begins.size() == 4 * 4);
    for (std::int64_t segment = 0; segment < 4; ++segment) {
      const std::int64_t slot = order.first_slot(segment);
      const std::int64_t c = kernels::chunk_of_row(slot, kCapacity, degree);
      const std::int64_t before = kernels::rows_before_chunk(kCapacity, degree, c);
      for (std::int64_t e = 0; e < 4; ++e) {
        const std::int64_t sent = 4 * before + e * kernels::rows_in_chunk(kCapacity, degree, c);
        CAPTURE(degree, segment, e);
        CHECK(
            begins[static_cast<std::size_t>(4 * segment + e)] ==
            (e < 2 ? sent + slot - before : placement.sent_rows + order.begin(1, e - 2, segment)));
      }
    }
    for (const ChunkPlacement& chunk : *chunks) CHECK(chunk.unpack.count == chunk.pack.count);
  }
}

TEST_CASE("copies of blocks bring each piece to where the experts read it", "[cuda][placement]") {
  // Two blocks of 5 bytes, in pieces of 2 and 3. On the experts' side, blocks are 40 bytes apart.
  DeviceExchange exchange{.send_bytes = {10, 10}, .receive_bytes = {10, 10}};
  exchange.blocks = ExchangeBlocks{.count = 2, .pitch = 40, .pieces = {{8, 2}, {12, 3}}};
  const auto to_experts = exchange.copies(0, 1);
  REQUIRE(to_experts.size() == 2);
  CHECK(to_experts[1].from == 10 + 2);  // rank 1's part, after the first piece
  CHECK(to_experts[1].from_pitch == 5);
  CHECK(to_experts[1].to == 12);
  CHECK(to_experts[1].to_pitch == 40);
  CHECK(to_experts[1].bytes == 3);
  CHECK(to_experts[1].blocks == 2);
  CHECK(exchange.copies(1, 0)[1].to == 12 + 3);  // after rank 0's piece
  exchange.blocks->to_experts = false;
  const auto back = exchange.copies(1, 0);
  CHECK(back[1].from == 12);
  CHECK(back[1].from_pitch == 40);
  CHECK(back[1].to == 10 + 2);
  exchange.blocks.reset();
  REQUIRE(exchange.copies(0, 1).size() == 1);
  CHECK(exchange.copies(0, 1)[0].from == 10);
  CHECK(exchange.copies(0, 1)[0].to == 0);
}

TEST_CASE("rows for a rank's own experts are in the experts' order", "[cuda][placement]") {
  DeviceLayerShape rank_1 = two_ranks(false);
  rank_1.keeps_own = 1;
  const RowPlacement placement = placed(rank_1);
  for (const auto* chunks : {&placement.forward, &placement.backward}) {
    const auto degree = static_cast<std::int64_t>(chunks->size());
    const std::vector<std::int32_t> begins = capacity_blocks(rank_1, placement, *chunks);
    REQUIRE(begins.size() == chunks->size() * 4);
    std::int64_t sent = 0;
    for (std::int64_t c = 0; c < degree; ++c) {
      const ChunkPlacement& chunk = (*chunks)[static_cast<std::size_t>(c)];
      const std::int64_t rows = kernels::rows_in_chunk(kCapacity, degree, c);
      const auto begin = [&](std::int64_t e) {
        return begins[static_cast<std::size_t>(4 * c + e)];
      };
      CHECK(begin(0) == sent);
      CHECK(begin(1) == sent + rows);
      // Experts 2 and 3 are its own. The rows of source 1 follow those of source 0.
      const std::int64_t first = placement.sent_rows + chunk.received_begin;
      CHECK(begin(2) == first + 2 * rows);
      CHECK(begin(3) == first + 3 * rows);
      sent += 4 * rows;
    }
  }
}

TEST_CASE("rows are moved where that costs less", "[cuda][placement]") {
  const auto order = [](std::int64_t capacity, std::int64_t model_dim, std::int64_t hidden_dim,
                        std::int64_t degree, std::int64_t ranks = 2) {
    return received_order({.tokens = 1,
                           .model_dim = model_dim,
                           .hidden_dim = hidden_dim,
                           .num_experts = 4 * ranks,
                           .top_k = 1,
                           .capacity = capacity,
                           .num_ranks = ranks,
                           .forward_degree = degree,
                           .backward_degree = degree});
  };
  // Packing moves 8 * 2 * 2048 rows. Not packing adds 2 * degree * 2 * 2048 rows of weights.
  CHECK(order(2048, 7168, 2048, 4) == ReceivedOrder::BySource);
  CHECK(order(2048, 7168, 2048, 5) == ReceivedOrder::Packed);  // 409 rows in a chunk
  CHECK(order(4096, 4096, 14336, 1) == ReceivedOrder::BySource);
  CHECK(order(4096, 4096, 14336, 2) == ReceivedOrder::Packed);  // 65,536 < 114,688
  CHECK(order(512, 4096, 128, 1, 64) == ReceivedOrder::BySource);
  CHECK(order(511, 4096, 128, 1, 64) == ReceivedOrder::Packed);
}

TEST_CASE("products beside exchanges leave multiprocessors to them", "[cuda][placement]") {
  DeviceLayerShape of = two_ranks(false);
  of.multiprocessors_beside_exchanges = 100;
  const ExpertGroup group{.experts = 2, .rows = 4, .stride = 10};
  const auto multiprocessors = [&](std::int64_t forward, std::int64_t backward, bool defers) {
    of.forward_degree = forward;
    of.backward_degree = backward;
    of.defers_weight_gradients = defers;
    const ExpertProducts products(of, {});
    const int rows = products.first(group).multiprocessors;
    const int gradients = products.input_gradient(group).multiprocessors;
    CHECK(products.second(group).multiprocessors == rows);
    CHECK(products.hidden_gradient(group).multiprocessors == gradients);
    const int weights = products.first_weight(group, false).multiprocessors;
    CHECK(products.second_weight(group, false).multiprocessors == weights);
    return std::vector{rows, gradients, weights};
  };
  CHECK(multiprocessors(1, 1, false) == std::vector{0, 0, 0});
  CHECK(multiprocessors(2, 1, false) == std::vector{100, 0, 0});
  CHECK(multiprocessors(1, 2, false) == std::vector{0, 100, 100});
  CHECK(multiprocessors(1, 1, true) == std::vector{0, 0, 100});
}
