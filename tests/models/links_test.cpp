#include "models/links.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <random>

#include "models/evaluate.hpp"
#include "models/schedule.hpp"
#include "tests/models/by_hand.hpp"
#include "tests/support/random_layers.hpp"

namespace pipemoe::links_test {

using namespace test;

namespace {

Collective all_to_all(const Cluster& cluster, std::int64_t bytes) {
  return {CollectiveKind::AllToAll, cluster.all_ranks(), TrafficMatrix::uniform({bytes})};
}
Collective ring(CollectiveKind kind, Group group, std::int64_t bytes) {
  return {kind, group, TrafficMatrix::uniform({bytes})};
}

// The same traffic, a number for each pair of ranks.
Collective in_pairs(Collective collective, std::int64_t ranks) {
  std::vector<Bytes> pairs;
  for (std::int64_t sender = 0; sender < ranks; ++sender) {
    for (std::int64_t receiver = 0; receiver < ranks; ++receiver) {
      const double bytes = collective.traffic.between(sender, receiver, ranks);
      pairs.push_back({static_cast<std::int64_t>(bytes)});
    }
  }
  collective.traffic = TrafficMatrix::of_pairs(ranks, std::move(pairs));
  return collective;
}

// When collectives end that begin after `starts` seconds, each on a queue of its own. With
// `beside`, the graph ends with that collective, too late to share a link with them.
std::vector<double> ends(const Cluster& cluster, const std::vector<Collective>& collectives,
                         const std::vector<double>& starts = {},
                         const Collective* beside = nullptr) {
  std::vector<Queue> queues =
      queues_of(std::vector<Resource>(collectives.size(), Resource::Network));
  for (const Queue& queue : queues_of(std::vector<Resource>(starts.size() + 1, Resource::Host))) {
    queues.push_back({"wait " + queue.name, queue.resource, 0});
  }
  TaskGraphBuilder builder("by hand", cluster.num_ranks(), queues);
  std::vector<TaskId> ids;
  for (std::size_t i = 0; i < collectives.size(); ++i) {
    const auto chunk = static_cast<int>(i);
    ids.push_back(builder.append(
        {{.step = Step::Dispatch, .chunk = chunk}, static_cast<QueueId>(i), collectives[i]}));
  }
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const auto queue = static_cast<QueueId>(collectives.size() + i);
    builder.depend(builder.append(compute(starts[i], static_cast<int>(i), queue)), ids[i]);
  }
  if (beside != nullptr) {
    const TaskId last = builder.append({{.step = Step::Combine}, 0, *beside});
    for (const TaskId id : ids) builder.depend(id, last);
  }
  const TaskGraph graph = std::move(builder).build();
  const Costs costs(graph, cluster);
  const auto spans = evaluation_at(NetworkLevel::Links, costs).timeline.spans;
  std::vector<double> all;
  for (const TaskId id : ids) all.push_back(spans[id].end.count());
  return all;
}

// Two nodes of two GPUs; a NIC carries 1 byte/s each way, a GPU's own link 4.
Cluster two_by_two() {
  Cluster cluster = second_a_unit(2, 2);
  cluster.nic = {{2}, 0.5};
  cluster.gpu_link = {{4}, 1};
  return cluster;
}

}  // namespace

TEST_CASE("an all-to-all on a star takes as long as its busiest link", "[models][links]") {
  // 16 bytes a rank, 4 for each: a node sends 2 * 2 * 4 = 16 bytes through its NIC, a GPU 12
  // through its own link. 16 s and 3 s.
  const Cluster cluster = two_by_two();
  CHECK(time_on_links(cluster, all_to_all(cluster, 16)) == Seconds{16});
  Cluster slow_gpus = cluster;
  slow_gpus.gpu_link = {{0.5}, 1};
  CHECK(time_on_links(slow_gpus, all_to_all(cluster, 16)) == Seconds{24});
}

TEST_CASE("a collective inside nodes uses no NIC", "[models][links]") {
  // 8 of 16 bytes for the other GPU of the node, at 4 bytes/s.
  const Cluster cluster = two_by_two();
  CHECK(time_on_links(cluster, ring(CollectiveKind::AllToAll, {2, 1}, 16)) == Seconds{2});
  // Ranks 0 and 2, 1 and 3: both of a node's send 8 bytes to the other node.
  CHECK(time_on_links(cluster, ring(CollectiveKind::AllToAll, {2, 2}, 16)) == Seconds{16});
}

TEST_CASE("an all-reduce is a ring of twice what an all-gather sends", "[models][links]") {
  // 4 ranks, 8 bytes: 3/4 of them to the next rank, for an all-reduce twice. Each node's NIC
  // carries one rank's part.
  for (const Cluster& cluster : {second_a_unit(4, 1), two_by_two()}) {
    CHECK(time_on_links(cluster, ring(CollectiveKind::AllReduce, {4, 1}, 8)) == Seconds{12});
    CHECK(time_on_links(cluster, ring(CollectiveKind::AllGather, {4, 1}, 8)) == Seconds{6});
    CHECK(time_on_links(cluster, ring(CollectiveKind::ReduceScatter, {4, 1}, 8)) == Seconds{6});
  }
  // Two rings, ranks 0 2 and 1 3: 2 * 1/2 of 8 bytes, both through the one NIC of a node.
  CHECK(time_on_links(two_by_two(), ring(CollectiveKind::AllReduce, {2, 2}, 8)) == Seconds{16});
}

TEST_CASE("traffic between blocks goes through the NICs of both", "[models][links]") {
  // Both ranks of a node send 16 bytes to the other node: 32 s. To their own: 8 of 16 to the other
  // GPU, at 4 bytes/s.
  const Cluster cluster = two_by_two();
  const auto between = [&](std::int64_t shift) {
    return Collective{
        CollectiveKind::AllToAll, {4, 1}, TrafficMatrix::between_blocks({16}, 2, shift)};
  };
  CHECK(time_on_links(cluster, between(1)) == Seconds{32});
  CHECK(time_on_links(cluster, between(0)) == Seconds{2});
}

TEST_CASE("a leaf's uplink carries what its nodes send to other leaves", "[models][links]") {
  // 4 nodes in leaves of 2: of 8 bytes a node sends 2 inside its leaf and 4 to the other one, whose
  // uplink carries 8 bytes at 2 / oversubscription. NICs: 6 bytes at 1 byte/s.
  Cluster cluster = second_a_unit(4, 1);
  cluster.fat_tree = FatTree{2, 1};
  CHECK(time_on_links(cluster, all_to_all(cluster, 8)).count() == Approx(6).epsilon(1e-12));
  cluster.fat_tree->oversubscription = 2;
  CHECK(time_on_links(cluster, all_to_all(cluster, 8)).count() == Approx(8).epsilon(1e-12));
  cluster.fat_tree->oversubscription = 4;
  CHECK(time_on_links(cluster, all_to_all(cluster, 8)).count() == Approx(16).epsilon(1e-12));
}

TEST_CASE("the busiest link of a matrix decides, whichever way it is turned", "[models][links]") {
  // Rank 0 sends 6 bytes to each of 3 others, through its NIC of 1 byte/s: 18 s. So it receives.
  const Cluster cluster = second_a_unit(4, 1);
  std::vector<Bytes> from_first(16), to_first(16);
  for (std::size_t rank = 1; rank < 4; ++rank) {
    from_first[rank] = to_first[4 * rank] = Bytes{6};
  }
  for (const auto& pairs : {from_first, to_first}) {
    const Collective one{CollectiveKind::AllToAll, {4, 1}, TrafficMatrix::of_pairs(4, pairs)};
    CHECK(time_on_links(cluster, one).count() == Approx(18).epsilon(1e-12));
  }
}

TEST_CASE("flows share a link evenly, and one that another link holds back leaves its share",
          "[models][links]") {
  // 0 -> 1 and 2 -> 1 share the way into node 1, 1/2 each; 0 -> 3 has the rest of the way out of
  // node 0. 8 bytes into node 1 from each take 16 s. 4 bytes of 0 -> 3 end at 8 s, which helps
  // nobody: the way into node 1 is full. Of 12 bytes 4 are left at 16 s, then alone: 20 s.
  const Cluster cluster = second_a_unit(4, 1);
  const auto time = [&](std::int64_t last) {
    std::vector<Bytes> pairs(16);
    pairs[0 * 4 + 1] = pairs[2 * 4 + 1] = {8};
    pairs[0 * 4 + 3] = {last};
    return time_on_links(
               cluster,
               {CollectiveKind::AllToAll, {4, 1}, TrafficMatrix::of_pairs(4, std::move(pairs))})
        .count();
  };
  CHECK(time(4) == Approx(16).epsilon(1e-12));
  CHECK(time(12) == Approx(16 + 4).epsilon(1e-12));
}

TEST_CASE("two collectives at once share the NICs", "[models][links]") {
  // 16 and 8 bytes through each NIC, at half its bandwidth: the second ends at 16. The first has 8
  // bytes left then and ends at 24.
  const Cluster cluster = two_by_two();
  CHECK(ends(cluster, {all_to_all(cluster, 16), all_to_all(cluster, 8)}) ==
        std::vector<double>{24, 16});
  // The second begins at 12, when the first has 4 bytes left: 12 + 8; the second has 4 left then.
  CHECK(ends(cluster, {all_to_all(cluster, 16), all_to_all(cluster, 8)}, {0, 12}) ==
        std::vector<double>{20, 24});
  // Beside one inside the nodes it shares a GPU's link alone: 2 s and 16 s.
  CHECK(ends(cluster, {ring(CollectiveKind::AllToAll, {2, 1}, 8), all_to_all(cluster, 16)})[1] ==
        16);
}

TEST_CASE("start-ups are paid before any byte moves, and what moves nothing ends then",
          "[models][links]") {
  Cluster cluster = two_by_two();
  cluster.collectives.begin()->second = line<Bytes>(3, 5);
  CHECK(ends(cluster, {all_to_all(cluster, 16)}) == std::vector<double>{3 + 16});
  CHECK(ends(cluster, {all_to_all(cluster, 0)}) == std::vector<double>{3});
  CHECK(ends(cluster, {ring(CollectiveKind::AllToAll, {1, 1}, 8)}) == std::vector<double>{3});
}

TEST_CASE("contention slows what is on links as it slows what is fitted", "[models][links]") {
  // 16 s on links, which 9 s of computation slow by 1.5: 6 s' worth are done at 9, 10 are left.
  Cluster cluster = two_by_two();
  cluster.contention = Contention{{{1, 1.5}}, "by hand"};
  const TaskGraph graph = graph_of({exchange(TrafficMatrix::uniform({16}), 4), compute(9)}, 4);
  const Costs costs(graph, cluster);
  CHECK(evaluate_at(NetworkLevel::Links, costs).makespan() == Seconds{19});
}

TEST_CASE("where a fit says what its links say, both levels take the same under any contention",
          "[models][links]") {
  std::mt19937_64 random(21);
  Cluster cluster = authors_cluster(64);
  // A node's 4 GPUs send 60/64 of their bytes through its one NIC.
  cluster.collectives.begin()->second =
      line<Bytes>(7.83e-4, 60.0 / 64 * 4 / cluster.nic.payload().value);
  for (int i = 0; i < 40; ++i) {
    const MoeLayer layer = random_fp32_layer(random, 64);
    cluster.contention.reset();
    if (i % 4 > 0) {
      cluster.contention = Contention{{{1.4, 1 + i / 40.0}, {1 + i / 30.0, 1.3}}, "drawn"};
    }
    const TaskGraph graph =
        build_graph("pipemoe", layer, cluster, random_degrees(random, layer, 8));
    const Costs costs(graph, cluster);
    const PassTimes fitted = evaluate_at(NetworkLevel::Fitted, costs);
    const PassTimes links = evaluate_at(NetworkLevel::Links, costs);
    CAPTURE(i);
    // Flows have whole bytes.
    REQUIRE(links.forward.count() == Approx(fitted.forward.count()).epsilon(1e-6));
    REQUIRE(links.makespan().count() == Approx(fitted.makespan().count()).epsilon(1e-6));
  }
}

namespace {

// A cluster and one to three collectives of it.
struct Drawn {
  Cluster cluster;
  std::vector<Collective> collectives;
  std::vector<double> starts;
};

Drawn draw_star(std::mt19937_64& random) {
  const auto draw = [&](std::int64_t from, std::int64_t to) {
    return std::uniform_int_distribution<std::int64_t>(from, to)(random);
  };
  const std::int64_t nodes = draw(2, 6), gpus = std::int64_t{1} << draw(0, 2);
  Drawn drawn{second_a_unit(nodes, gpus), {}, {}};
  drawn.cluster.gpu_link = {{static_cast<double>(draw(1, 4))}, 1};
  for (std::int64_t count = draw(1, 3); count > 0; --count) {
    const std::int64_t bytes = nodes * gpus * draw(1, 20);
    const std::vector<Collective> kinds{
        all_to_all(drawn.cluster, bytes),
        ring(CollectiveKind::AllToAll, {gpus, 1}, bytes),
        ring(CollectiveKind::AllToAll, {nodes, gpus}, bytes),
        ring(CollectiveKind::AllReduce, drawn.cluster.all_ranks(), bytes),
        ring(CollectiveKind::AllGather, {nodes, gpus}, bytes),
        {CollectiveKind::AllToAll, drawn.cluster.all_ranks(),
         TrafficMatrix::between_blocks({bytes}, gpus, draw(0, nodes - 1))}};
    drawn.collectives.push_back(kinds[static_cast<std::size_t>(draw(0, 5))]);
    drawn.starts.push_back(static_cast<double>(draw(0, 40)));
  }
  return drawn;
}

Drawn draw_fat_tree(std::mt19937_64& random) {
  Drawn drawn = draw_star(random);
  const auto draw = [&](std::int64_t from, std::int64_t to) {
    return std::uniform_int_distribution<std::int64_t>(from, to)(random);
  };
  drawn.cluster = second_a_unit(draw(2, 9), drawn.cluster.gpus_per_node);
  drawn.cluster.fat_tree = FatTree{draw(2, 4), static_cast<double>(draw(1, 3))};
  for (Collective& one : drawn.collectives) {
    one = all_to_all(drawn.cluster, drawn.cluster.num_ranks() * draw(1, 20));
  }
  return drawn;
}

void check_equal(const std::vector<double>& found, const std::vector<double>& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    REQUIRE(found[i] == Approx(expected[i]).epsilon(1e-9));
  }
}

}  // namespace

TEST_CASE("classes by colour end when the classes of equal nodes and equal leaves do",
          "[models][links]") {
  // A matrix of pairs anywhere in a graph leaves no two nodes equal in advance.
  std::mt19937_64 random(22);
  for (int i = 0; i < 120; ++i) {
    const Drawn drawn = i % 2 == 0 ? draw_star(random) : draw_fat_tree(random);
    const std::int64_t ranks = drawn.cluster.num_ranks();
    std::vector<Bytes> pairs(static_cast<std::size_t>(ranks * ranks));
    pairs[static_cast<std::size_t>(ranks - 1)] = {1};
    const Collective beside{CollectiveKind::AllToAll, drawn.cluster.all_ranks(),
                            TrafficMatrix::of_pairs(ranks, pairs)};
    CAPTURE(i, drawn.cluster.nodes, drawn.cluster.gpus_per_node, drawn.collectives.size());
    check_equal(ends(drawn.cluster, drawn.collectives, drawn.starts, &beside),
                ends(drawn.cluster, drawn.collectives, drawn.starts));
  }
}

TEST_CASE("traffic takes as long as the same traffic given pair by pair", "[models][links]") {
  std::mt19937_64 random(23);
  for (int i = 0; i < 80; ++i) {
    Drawn drawn = i % 2 == 0 ? draw_star(random) : draw_fat_tree(random);
    const std::int64_t ranks = drawn.cluster.num_ranks();
    std::vector<Collective> by_pair;
    for (Collective& one : drawn.collectives) {
      // Those of all ranks, and divisible: a rank's share of a block is whole.
      if (one.kind != CollectiveKind::AllToAll || one.group != drawn.cluster.all_ranks()) {
        one = all_to_all(drawn.cluster, ranks * 3);
      }
      by_pair.push_back(in_pairs(one, ranks));
    }
    CAPTURE(i, drawn.cluster.nodes, drawn.cluster.gpus_per_node);
    check_equal(ends(drawn.cluster, by_pair, drawn.starts),
                ends(drawn.cluster, drawn.collectives, drawn.starts));
  }
}

TEST_CASE("no link carries more than its bandwidth", "[models][links]") {
  // A matrix takes at least what its busiest NIC needs, and at most the sum of what all need.
  std::mt19937_64 random(24);
  for (int i = 0; i < 60; ++i) {
    const Cluster cluster = second_a_unit(3 + i % 4, 1);
    const auto ranks = static_cast<std::size_t>(cluster.num_ranks());
    std::vector<Bytes> pairs;
    for (std::size_t j = 0; j < ranks * ranks; ++j) {
      const bool to_itself = j / ranks == j % ranks;
      pairs.push_back({to_itself ? 0 : std::uniform_int_distribution<std::int64_t>(0, 50)(random)});
    }
    const std::int64_t all =
        std::accumulate(pairs.begin(), pairs.end(), std::int64_t{0},
                        [](std::int64_t sum, Bytes bytes) { return sum + bytes.count; });
    const Collective one{CollectiveKind::AllToAll, cluster.all_ranks(),
                         TrafficMatrix::of_pairs(cluster.num_ranks(), pairs)};
    const double time = time_on_links(cluster, one).count();
    REQUIRE(time >= one.bytes().amount() * (1 - 1e-12));
    REQUIRE(time <= static_cast<double>(all) * (1 + 1e-12));
  }
}

TEST_CASE("what ranks send adds up to what nodes send", "[models][links]") {
  std::mt19937_64 random(25);
  for (int i = 0; i < 60; ++i) {
    const Drawn drawn = i % 2 == 0 ? draw_star(random) : draw_fat_tree(random);
    for (const Collective& one : drawn.collectives) {
      double by_ranks = 0, by_nodes = 0;
      for (const RankFlow& flow : rank_traffic(one, drawn.cluster.num_ranks())) {
        const bool leaves =
            flow.from / drawn.cluster.gpus_per_node != flow.to / drawn.cluster.gpus_per_node;
        by_ranks += leaves ? flow.bytes : 0;
      }
      for (const NodeFlow& flow : node_traffic(drawn.cluster, one).between) by_nodes += flow.bytes;
      CAPTURE(i, to_string(one.kind), to_string(one.group));
      // Flows between nodes have whole bytes.
      REQUIRE(by_nodes ==
              Approx(by_ranks).epsilon(1e-9).margin(static_cast<double>(drawn.cluster.nodes)));
    }
  }
}

TEST_CASE("on the authors' clusters links and fits agree within 2 %", "[models][links]") {
  for (const int ranks : {16, 32, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    const TaskGraph graph =
        build_graph("pipemoe", shipped_layer("pipemoe-example"), cluster, {4, 4});
    const Costs costs(graph, cluster);
    const double fitted = evaluate_at(NetworkLevel::Fitted, costs).makespan().count();
    CHECK(evaluate_at(NetworkLevel::Links, costs).makespan().count() ==
          Approx(fitted).epsilon(0.02));
  }
}

}  // namespace pipemoe::links_test
