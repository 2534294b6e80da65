#include "models/work.hpp"

#include <catch2/catch.hpp>
#include <set>

#include "models/error.hpp"

namespace pipemoe::work_test {

using Catch::Matchers::Contains;
using Catch::Matchers::Equals;

TEST_CASE("one value stands for all ranks until two differ", "[models][work]") {
  const PerRank<int> all(7);
  CHECK(all.is_uniform());
  CHECK(all[0] == 7);
  CHECK(all[1000] == 7);
  CHECK(all.each().empty());
  const PerRank<int> each(std::vector<int>{1, 2, 2});
  CHECK_FALSE(each.is_uniform());
  CHECK(each[0] == 1);
  CHECK(each[2] == 2);
  CHECK(each.each().size() == 3);
  CHECK(PerRank<int>(std::vector<int>{7, 7}) == all);
  CHECK_FALSE(each == PerRank<int>(1));
  CHECK(each == PerRank<int>(std::vector<int>{1, 2, 2}));
  CHECK_FALSE(each == PerRank<int>(std::vector<int>{1, 2, 3}));
}

TEST_CASE("uniform traffic sends every rank the same, itself included", "[models][work]") {
  const TrafficMatrix traffic = TrafficMatrix::uniform({10});
  CHECK(traffic.is_uniform());
  CHECK(traffic.is_balanced());
  CHECK(traffic.per_rank() == Bytes{10});
  CHECK(traffic.pairs().empty());
  CHECK(traffic.between(0, 0, 4) == 2.5);
  CHECK(traffic.between(3, 1, 4) == 2.5);
  CHECK(traffic.received_by(2, 4) == 10);
}

TEST_CASE("traffic between blocks goes to the block a shift further", "[models][work]") {
  // Blocks {0, 1}, {2, 3}, {4, 5}; each rank sends 4 bytes to each rank of the next but one block.
  const TrafficMatrix traffic = TrafficMatrix::between_blocks({8}, 2, 2);
  CHECK_FALSE(traffic.is_uniform());
  CHECK(traffic.is_balanced());
  CHECK(traffic.between(0, 4, 6) == 4);
  CHECK(traffic.between(1, 5, 6) == 4);
  CHECK(traffic.between(0, 2, 6) == 0);
  CHECK(traffic.between(2, 0, 6) == 4);
  CHECK(traffic.per_rank() == Bytes{8});
  CHECK(traffic.received_by(0, 6) == 8);
  CHECK_THROWS_AS(TrafficMatrix::between_blocks({8}, 0, 1), InputError);
  CHECK_THROWS_AS(TrafficMatrix::between_blocks({8}, 1, -1), InputError);
}

TEST_CASE("paired traffic is row-major by sender", "[models][work]") {
  // Rank 0 sends 1 + 2 = 3, rank 1 sends 30 + 4 = 34; rank 0 receives 31.
  const TrafficMatrix traffic = TrafficMatrix::of_pairs(2, {{1}, {2}, {30}, {4}});
  CHECK_FALSE(traffic.is_uniform());
  CHECK_FALSE(traffic.is_balanced());
  CHECK(traffic.between(0, 0, 2) == 1);
  CHECK(traffic.between(0, 1, 2) == 2);
  CHECK(traffic.between(1, 0, 2) == 30);
  CHECK(traffic.between(1, 1, 2) == 4);
  CHECK(traffic.per_rank() == Bytes{34});
  CHECK(traffic.received_by(0, 2) == 31);
}

TEST_CASE("the busiest rank may send or receive, and may be any one", "[models][work]") {
  CHECK(TrafficMatrix::of_pairs(2, {{9}, {9}, {1}, {1}}).per_rank() == Bytes{18});
  // Its transpose: rank 0 receives 18.
  CHECK(TrafficMatrix::of_pairs(2, {{9}, {1}, {9}, {1}}).per_rank() == Bytes{18});
  CHECK(TrafficMatrix::of_pairs(2, {{1}, {9}, {1}, {9}}).per_rank() == Bytes{18});
  CHECK(TrafficMatrix::of_pairs(1, {{5}}).per_rank() == Bytes{5});
  CHECK(TrafficMatrix::of_pairs(2, {{0}, {0}, {0}, {0}}).per_rank() == Bytes{0});
}

TEST_CASE("paired traffic needs one amount for each pair, none negative", "[models][work]") {
  CHECK_THROWS_WITH(TrafficMatrix::of_pairs(2, {{1}, {2}, {3}}),
                    Equals("traffic has 3 pairs, must have 4 for 2 ranks"));
  CHECK_THROWS_AS(TrafficMatrix::of_pairs(2, {}), InputError);
  CHECK_THROWS_AS(TrafficMatrix::of_pairs(1, {{1}, {2}}), InputError);
  CHECK_THROWS_AS(TrafficMatrix::of_pairs(0, {}), InputError);
  CHECK_THROWS_AS(TrafficMatrix::of_pairs(-1, {{1}}), InputError);
  CHECK_THROWS_WITH(TrafficMatrix::of_pairs(2, {{1}, {2}, {-3}, {4}}),
                    Equals("traffic from rank 1 to 0 is -3, must be at least 0"));
}

TEST_CASE("traffic whose sum exceeds 63 bits is refused, sent or received", "[models][work]") {
  const Bytes half{std::int64_t{1} << 62};
  CHECK_THROWS_WITH(TrafficMatrix::of_pairs(2, {half, half, {0}, {0}}),
                    Equals("traffic from rank 0 exceeds 2^63 bytes"));
  CHECK_THROWS_WITH(TrafficMatrix::of_pairs(2, {half, {0}, half, {0}}),
                    Equals("traffic to rank 0 exceeds 2^63 bytes"));
}

TEST_CASE("traffic compares by its amounts", "[models][work]") {
  const TrafficMatrix pairs = TrafficMatrix::of_pairs(2, {{1}, {1}, {1}, {1}});
  CHECK(pairs == TrafficMatrix::of_pairs(2, {{1}, {1}, {1}, {1}}));
  CHECK(pairs != TrafficMatrix::of_pairs(2, {{1}, {1}, {2}, {0}}));
  CHECK(pairs != TrafficMatrix::uniform({2}));
  CHECK(TrafficMatrix::uniform({2}) != TrafficMatrix::uniform({3}));
  CHECK(TrafficMatrix::between_blocks({2}, 1, 1) != TrafficMatrix::uniform({2}));
  CHECK(TrafficMatrix::between_blocks({2}, 1, 1) != TrafficMatrix::between_blocks({2}, 1, 0));
}

TEST_CASE("a group's ranks are a stride apart, and groups tile the ranks", "[models][work]") {
  // 12 ranks, groups of 3 that are 2 apart: {0 2 4} {1 3 5} {6 8 10} {7 9 11}.
  const Group group{3, 2};
  CHECK(group.rank(1, 0) == 1);
  CHECK(group.rank(1, 2) == 5);
  CHECK(group.rank(2, 1) == 8);
  CHECK(group.index_of(4) == 0);
  CHECK(group.index_of(9) == 3);
  std::set<std::int64_t> all;
  for (std::int64_t index = 0; index < 4; ++index) {
    for (std::int64_t member = 0; member < 3; ++member) {
      CHECK(group.index_of(group.rank(index, member)) == index);
      all.insert(group.rank(index, member));
    }
  }
  CHECK(all.size() == 12);
  CHECK(*all.rbegin() == 11);
}

TEST_CASE("groups have a short name that reads back", "[models][work]") {
  CHECK(to_string(Group{64, 1}) == "64");
  CHECK(to_string(Group{16, 4}) == "16x4");
  for (const Group group : {Group{1, 1}, Group{8, 1}, Group{2, 1000}}) {
    CHECK(group_from(to_string(group)) == group);
  }
  for (const char* bad :
       {"", "0", "-2", "two", "2x", "x2", "2x0", "2x3x4", "2 ", "+2", "99999999999999999999"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH(group_from(bad), Contains("must be a number of ranks, or COUNTxSTRIDE"));
    CHECK_THROWS_AS(group_from(bad), InputError);
  }
}

TEST_CASE("the words of work read back, and unknown ones name the known", "[models][work]") {
  for (const ProductKind kind : {ProductKind::Forward, ProductKind::InputGradient,
                                 ProductKind::WeightGradient, ProductKind::BothGradients}) {
    CHECK(product_kind_from(to_string(kind)) == kind);
  }
  for (std::size_t i = 0; i < kMemoryKernels; ++i) {
    const auto kernel = static_cast<MemoryKernel>(i);
    CHECK(memory_kernel_from(to_string(kernel)) == kernel);
  }
  for (const CollectiveKind kind : {CollectiveKind::AllToAll, CollectiveKind::AllReduce,
                                    CollectiveKind::AllGather, CollectiveKind::ReduceScatter}) {
    CHECK(collective_kind_from(to_string(kind)) == kind);
  }
  CHECK(to_string(ProductKind::InputGradient) == "input_gradient");
  CHECK_THROWS_WITH(product_kind_from("backward"),
                    Equals("is backward, must be one of forward, input_gradient, weight_gradient, "
                           "both_gradients"));
  CHECK_THROWS_WITH(collective_kind_from("shuffle"),
                    Equals("is shuffle, must be one of all_to_all, all_reduce, all_gather, "
                           "reduce_scatter"));
  CHECK_THROWS_AS(memory_kernel_from("input gradient"), InputError);
  CHECK_THROWS_AS(dtype_from("fp8"), InputError);
  CHECK_THROWS_AS(activation_from(""), InputError);
}

TEST_CASE("a kernel of one direction has a general one", "[models][work]") {
  CHECK(general_kernel(MemoryKernel::GateBackward) == MemoryKernel::Gate);
  CHECK(general_kernel(MemoryKernel::UnpermuteBackward) == MemoryKernel::Permutation);
  CHECK(general_kernel(MemoryKernel::Permute) == MemoryKernel::Permutation);
  CHECK(general_kernel(MemoryKernel::ActivationBackward) == MemoryKernel::Activation);
  for (const MemoryKernel kernel :
       {MemoryKernel::Gate, MemoryKernel::Permutation, MemoryKernel::Activation}) {
    CHECK(general_kernel(kernel) == kernel);
  }
}

TEST_CASE("only collectives move bytes between ranks, only products compute", "[models][work]") {
  const Work exchange = Collective{CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::uniform({12})};
  // 2 * 2*3*4 + 2 * 2*5*6 = 48 + 120 flops.
  const Work products =
      Products{.shapes = {{1, 0, 3, 4}, {1, 0, 5, 6}}, .rows = 2, .activation_bytes_per_row = {99}};
  CHECK(collective_bytes(exchange) == Bytes{12});
  CHECK(product_flops(exchange) == Flops{0});
  CHECK(collective_bytes(products) == Bytes{0});
  CHECK(product_flops(products) == Flops{168});
  for (const Work& other :
       {Work(MemoryTraffic{MemoryKernel::Gate, Bytes{7}}), Work(Timed{Seconds{7}})}) {
    CHECK(collective_bytes(other) == Bytes{0});
    CHECK(product_flops(other) == Flops{0});
    CHECK(products_of(other) == nullptr);
    CHECK(collective_of(other) == nullptr);
  }
  CHECK(products_of(products) == &std::get<Products>(products));
  CHECK(collective_of(exchange) == &std::get<Collective>(exchange));
}

TEST_CASE("products of ranks that have other rows are other work", "[models][work]") {
  // 2 * 3 * 4 flops, 5 and 7 bytes a row; 10 rows on rank 0, 20 on rank 1.
  const Products products{.shapes = {{1, 0, 3, 4}},
                          .rows = PerRank<std::int64_t>({10, 20}),
                          .activation_bytes_per_row = {5},
                          .layout_bytes_per_row = {7}};
  CHECK(products.flops(0) == Flops{240});
  CHECK(products.flops(1) == Flops{480});
  CHECK(products.activation_bytes(1) == Bytes{100});
  CHECK(products.layout_bytes(1) == Bytes{140});
  CHECK(products.gemms(1) == GemmShapes{{1, 20, 3, 4}});
  CHECK(differs_between_ranks(products));
  CHECK(differs_between_ranks(MemoryTraffic{MemoryKernel::Gate, PerRank<Bytes>({{1}, {2}})}));
  CHECK(differs_between_ranks(Timed{PerRank<Seconds>({Seconds{1}, Seconds{2}})}));
  CHECK_FALSE(differs_between_ranks(Products{.rows = 10}));
  // A collective ends on all its ranks, whatever each of them sends.
  CHECK_FALSE(differs_between_ranks(Collective{
      CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::of_pairs(2, {{1}, {2}, {3}, {4}})}));
}

}  // namespace pipemoe::work_test
