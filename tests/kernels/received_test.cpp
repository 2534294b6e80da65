#include "kernels/received.hpp"

#include <catch2/catch.hpp>
#include <numeric>
#include <stdexcept>

#include "tests/kernels/whole_layer.hpp"

using namespace pipemoe::kernels;
using namespace pipemoe::test;
using Floats = std::vector<float>;

namespace {

// Two sources, two experts: source 0 sends 1 and 2 rows, source 1 sends 3 and none.
ReceivedRows uneven() { return {2, 2, {1, 2, 3, 0}}; }

Floats packed(const ReceivedRows& rows, const Floats& received) {
  Floats result = poisoned(rows.rows());
  for (std::int64_t expert = 0; expert < rows.local_experts(); ++expert) {
    pack_expert(rows, expert, 1, received, result);
  }
  return result;
}

}  // namespace

TEST_CASE("rows received by source are packed by expert", "[kernels][received]") {
  const ReceivedRows rows = uneven();
  CHECK(rows.rows() == 6);
  CHECK(rows.source_rows(0) == 3);
  CHECK(rows.source_rows(1) == 3);
  CHECK(rows.expert_rows(0) == 4);
  CHECK(rows.expert_rows(1) == 2);
  // Received: source 0 [1 | 2 3], source 1 [4 5 6 | ]. Packed: expert 0 [1 4 5 6], 1 [2 3].
  const Floats received{1, 2, 3, 4, 5, 6};
  CHECK(packed(rows, received) == Floats{1, 4, 5, 6, 2, 3});
  Floats back = poisoned(6);
  for (std::int64_t expert = 0; expert < 2; ++expert) {
    unpack_expert(rows, expert, 1, packed(rows, received), back);
  }
  CHECK(back == received);
}

TEST_CASE("packing one expert leaves the others alone", "[kernels][received]") {
  Floats to(6, -1);
  pack_expert(uneven(), 1, 1, Floats{1, 2, 3, 4, 5, 6}, to);
  CHECK(to == Floats{-1, -1, -1, -1, 2, 3});
}

TEST_CASE("a chunk of received rows is each block's part", "[kernels][received]") {
  // 1, 2, 3, 0 rows in 2 chunks: 1 1 2 0 and 0 1 1 0.
  const ReceivedRows first = uneven().chunk(2, 0), second = uneven().chunk(2, 1);
  CHECK(first.rows() == 4);
  CHECK(second.rows() == 2);
  CHECK(first.block_rows(1, 0) == 2);
  CHECK(second.block_rows(0, 0) == 0);
  CHECK(second.block_rows(1, 0) == 1);
}

TEST_CASE("regrouping to another degree equals packing at that degree", "[kernels][received]") {
  const ReceivedRows all{3, 2, {5, 0, 7, 1, 4, 11}};
  // Row r of block (source, expert) is 100 * source + 1000 * expert + r, wherever it lies.
  const auto packed_chunk = [&](std::int64_t degree, std::int64_t chunk) {
    Floats values;
    for (std::int64_t expert = 0; expert < 2; ++expert) {
      for (std::int64_t source = 0; source < 3; ++source) {
        std::int64_t before = 0;
        for (std::int64_t c = 0; c < chunk; ++c) {
          before += all.chunk(degree, c).block_rows(source, expert);
        }
        for (std::int64_t r = 0; r < all.chunk(degree, chunk).block_rows(source, expert); ++r) {
          values.push_back(static_cast<float>(100 * source + 1000 * expert + before + r));
        }
      }
    }
    return values;
  };
  for (const std::int64_t from : {1, 2, 3, 5, 13}) {
    Floats saved;
    for (std::int64_t chunk = 0; chunk < from; ++chunk) {
      const Floats part = packed_chunk(from, chunk);
      saved.insert(saved.end(), part.begin(), part.end());
    }
    for (const std::int64_t to : {1, 2, 3, 5, 13}) {
      for (std::int64_t chunk = 0; chunk < to; ++chunk) {
        Floats result = poisoned(all.chunk(to, chunk).rows());
        regroup(all, {1, from, to, chunk, saved, result});
        CAPTURE(from, to, chunk);
        REQUIRE(result == packed_chunk(to, chunk));
      }
    }
  }
}

TEST_CASE("a number for each block is needed", "[kernels][received]") {
  CHECK_THROWS_AS(ReceivedRows(2, 2, {1, 2, 3}), std::logic_error);
}

TEST_CASE("a rank that received no rows has nothing to pack", "[kernels][received]") {
  // Two empty vectors begin at one place, null: that once counted as one buffer of two orders.
  const ReceivedRows none(2, 2, {0, 0, 0, 0});
  Floats received, packed;
  CHECK_NOTHROW(pack_expert(none, 1, 3, received, packed));
  CHECK_NOTHROW(unpack_expert(none, 1, 3, packed, received));
}
