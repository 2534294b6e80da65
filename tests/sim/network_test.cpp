// The simulated network against hand-derived times, and against models' solver.
#include "sim/network.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <optional>
#include <random>

#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"
#include "models/links.hpp"
#include "models/schedule.hpp"
#include "sim/platform.hpp"
#include "sim/simulate.hpp"
#include "tests/sim/clusters.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;
using sim::SimulatedNetwork;

namespace {

constexpr std::array kSimulated{NetworkLevel::Node, NetworkLevel::Gpu};
constexpr std::array kWithLinks{NetworkLevel::Links, NetworkLevel::Node, NetworkLevel::Gpu};

// What an exchange takes beyond its start-up of 1 s.
double transfer_time(const TrafficMatrix& traffic, const Cluster& cluster, NetworkLevel level) {
  return makespan(one_exchange(cluster.num_ranks(), traffic), cluster, level).count() - 1;
}

bool equal(double a, double b) { return std::abs(a - b) <= 1e-9 * std::max(a, b); }

void require_equal_levels(const TaskGraph& graph, const Cluster& cluster) {
  const Seconds links = makespan(graph, cluster, NetworkLevel::Links);
  const Seconds node = makespan(graph, cluster, NetworkLevel::Node);
  CAPTURE(links.count(), node.count());
  REQUIRE(links > Seconds{});
  REQUIRE(equal(links.count(), node.count()));
}

// All schedules at degrees 1/1, 2/3 and 4/4. Returns how many graphs there were: three of each
// PipeMoE, Tutel's two with equal degrees, one without a choice of sequential and of FasterMoE.
constexpr int kGraphsOfALayer = 10;
int require_equal_levels_of_schedules(const MoeLayer& layer, const Cluster& cluster) {
  int compared = 0;
  for (const Schedule& schedule : all_schedules()) {
    for (const Degrees degrees : {Degrees{1, 1}, Degrees{2, 3}, Degrees{4, 4}}) {
      CAPTURE(cluster.name, schedule.name, to_string(degrees));
      std::optional<TaskGraph> graph;
      try {
        graph = build_graph(schedule.name, layer, cluster, degrees);
      } catch (const InputError&) {
        continue;  // a schedule without these degrees
      }
      require_equal_levels(*graph, cluster);
      ++compared;
    }
  }
  return compared;
}

// With a flow for each ordered pair of nodes, and each GPU's own link.
Seconds makespan_of_all_pairs(const TaskGraph& graph, const Cluster& cluster) {
  const auto& platform = sim::World::instance().cluster(cluster);
  const auto draw = [&](const Collective& collective) {
    const double per_rank = collective.bytes().amount() / static_cast<double>(cluster.num_ranks());
    const auto pair = static_cast<double>(cluster.gpus_per_node * cluster.gpus_per_node);
    const auto others = static_cast<double>(cluster.num_ranks() - 1);
    const auto whole = [](double bytes) { return static_cast<std::uint64_t>(std::llround(bytes)); };
    std::vector<sim::Flow> flows{{platform.gpus[0], platform.nodes[0], whole(per_rank * others)}};
    for (auto* from : platform.nodes) {
      for (auto* to : platform.nodes) {
        if (from != to) flows.push_back({from, to, whole(per_rank * pair)});
      }
    }
    return flows;
  };
  const Costs costs(graph, cluster);
  SimulatedNetwork network(costs, draw);
  return evaluate(costs, &network).makespan();
}

TrafficMatrix skewed_matrix(std::int64_t ranks, double bytes, std::mt19937_64& random) {
  std::lognormal_distribution<double> share(0, 1);
  std::vector<Bytes> pairs;
  for (std::int64_t i = 0; i < ranks * ranks; ++i) {
    pairs.push_back({static_cast<std::int64_t>(bytes * share(random))});
  }
  return TrafficMatrix::of_pairs(ranks, std::move(pairs));
}

TrafficMatrix transposed(const TrafficMatrix& traffic, std::int64_t ranks) {
  std::vector<Bytes> pairs(traffic.pairs().size());
  for (std::int64_t from = 0; from < ranks; ++from) {
    for (std::int64_t to = 0; to < ranks; ++to) {
      pairs[static_cast<std::size_t>(to * ranks + from)] =
          traffic.pairs()[static_cast<std::size_t>(from * ranks + to)];
    }
  }
  return TrafficMatrix::of_pairs(ranks, std::move(pairs));
}

// Two chunks of dispatch, an expert that takes as long as each rank receives bytes, and combine.
TaskGraph skewed_layer(std::int64_t ranks, double bytes, Seconds per_byte,
                       std::mt19937_64& random) {
  TaskGraphBuilder builder("test", ranks, compute_and_communication());
  std::vector<TaskId> experts;
  std::vector<TrafficMatrix> matrices;
  for (int chunk = 0; chunk < 2; ++chunk) {
    const TrafficMatrix traffic = skewed_matrix(ranks, bytes, random);
    matrices.push_back(traffic);
    std::vector<Seconds> times;
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      times.push_back(per_byte * traffic.received_by(rank, ranks));
    }
    const TaskId dispatch = builder.append({{.step = Step::Dispatch, .chunk = chunk},
                                            kCommunicationQueue,
                                            all_to_all(ranks, traffic)});
    experts.push_back(builder.append({{.step = Step::Expert, .chunk = chunk},
                                      kComputeQueue,
                                      Timed{PerRank<Seconds>(std::move(times))}}));
    builder.depend(dispatch, experts.back());
  }
  for (int chunk = 0; chunk < 2; ++chunk) {
    const auto index = static_cast<std::size_t>(chunk);
    builder.depend(experts[index],
                   builder.append({{.step = Step::Combine, .chunk = chunk},
                                   kCommunicationQueue,
                                   all_to_all(ranks, transposed(matrices[index], ranks))}));
  }
  return std::move(builder).build();
}

// When flows end, of a network that one collective has to itself; once for equal times.
std::vector<double> ends_of_flows(Network& network) {
  std::vector<double> times;
  std::vector<EndedPart> ended;
  REQUIRE(network.begin(0, Seconds{}));
  while (network.next_end() != kNever) {
    const double now = network.next_end().count();
    if (times.empty() || !equal(times.back(), now)) times.push_back(now);
    network.end_next(ended);
  }
  REQUIRE(!ended.empty());
  CHECK(ended.back().rank_class == EndedPart::kAllRanks);
  return times;
}

}  // namespace

// ---- by hand ----

TEST_CASE("exchanges at once share the network", "[sim][network]") {
  // Two nodes of two GPUs; each rank sends 400 bytes, 100 to each: 400 bytes leave a node, 4 s
  // alone at 100 B/s. Both exchanges start up for 1 s, then share: 1 + 2 * 4 s.
  const Work exchange = all_to_all(4, TrafficMatrix::uniform({400}));
  const TaskGraph graph = graph_of(4, {{}, {exchange}, {exchange}});
  for (const NetworkLevel level : kWithLinks) {
    CAPTURE(to_string(level));
    CHECK(makespan(graph, toy_cluster(2), level).count() == Approx(9).epsilon(1e-9));
  }
}

TEST_CASE("an exchange that begins while the network is idle begins at that time",
          "[sim][network]") {
  // The first starts up for 1 s and takes 4 s; 7 s of computing end the wait of the second, whose
  // start-up ends at 8 s: 12 s.
  TaskGraphBuilder builder("test", 4, compute_and_communication());
  const Collective exchange = all_to_all(4, TrafficMatrix::uniform({400}));
  builder.append({{.step = Step::Dispatch}, kCommunicationQueue, exchange});
  const TaskId wait = builder.append({{.step = Step::Gate}, kComputeQueue, Timed{Seconds{7}}});
  builder.depend(wait, builder.append({{.step = Step::Combine}, kCommunicationQueue, exchange}));
  const TaskGraph graph = std::move(builder).build();
  for (const NetworkLevel level : kWithLinks) {
    CAPTURE(to_string(level));
    CHECK(makespan(graph, toy_cluster(2), level).count() == Approx(12).epsilon(1e-9));
  }
}

TEST_CASE("a hot receiver's NIC sets the time of a skewed exchange", "[sim][network][skew]") {
  // Ranks 2 and 3 (node 1) each send 300 bytes to rank 0 on node 0: 600 bytes into node 0's NIC at
  // 100 B/s; through rank 0's own link at 1000 B/s they take 0.6 s, hidden behind the NIC.
  std::vector<Bytes> pairs(16);
  pairs[2 * 4 + 0] = pairs[3 * 4 + 0] = Bytes{300};
  const TrafficMatrix traffic = TrafficMatrix::of_pairs(4, pairs);
  for (const NetworkLevel level : kWithLinks) {
    CAPTURE(to_string(level));
    CHECK(transfer_time(traffic, toy_cluster(2), level) == Approx(6).epsilon(1e-9));
  }
}

TEST_CASE("traffic inside a node uses the GPUs' links only", "[sim][network][skew]") {
  // Rank 0 sends 500 bytes to rank 1 beside it: 0.5 s at 1000 B/s, at any NIC speed.
  std::vector<Bytes> pairs(16);
  pairs[1] = Bytes{500};
  const TrafficMatrix traffic = TrafficMatrix::of_pairs(4, pairs);
  for (const NetworkLevel level : kWithLinks) {
    CAPTURE(to_string(level));
    CHECK(transfer_time(traffic, toy_cluster(2), level) == Approx(0.5).epsilon(1e-9));
  }
}

TEST_CASE("ranks whose part of an exchange has ended go on before the others",
          "[sim][network][skew]") {
  // After 1 s of start-up, ranks 0 and 1 exchange 500 bytes inside their node until 1.5 s, ranks 2
  // and 3 1000 bytes until 2 s. Then the first two compute for 1 s, the others for 0.2 s: 2.5 s.
  // If all waited for the slowest, it would be 3 s.
  std::vector<Bytes> pairs(16);
  pairs[0 * 4 + 1] = pairs[1 * 4 + 0] = Bytes{500};
  pairs[2 * 4 + 3] = pairs[3 * 4 + 2] = Bytes{1000};
  TaskGraphBuilder builder("test", 4, compute_and_communication());
  const TaskId exchange = builder.append({{.step = Step::Dispatch},
                                          kCommunicationQueue,
                                          all_to_all(4, TrafficMatrix::of_pairs(4, pairs))});
  const PerRank<Seconds> times({Seconds{1}, Seconds{1}, Seconds{0.2}, Seconds{0.2}});
  builder.depend(exchange, builder.append({{.step = Step::Expert}, kComputeQueue, Timed{times}}));
  const TaskGraph graph = std::move(builder).build();
  for (const NetworkLevel level : kWithLinks) {
    CAPTURE(to_string(level));
    CHECK(makespan(graph, toy_cluster(2), level).count() == Approx(2.5).epsilon(1e-9));
  }
}

TEST_CASE("an exchange between blocks uses the NICs unless it stays in the node",
          "[sim][network]") {
  // Each rank sends 400 bytes to the two ranks of one node. In its own node: 200 cross its link,
  // 0.2 s at 1000 B/s. To another node: 2 * 400 leave each NIC, 8 s at 100 B/s.
  for (const NetworkLevel level : kWithLinks) {
    CAPTURE(to_string(level));
    const auto time = [&](std::int64_t shift) {
      return transfer_time(TrafficMatrix::between_blocks({400}, 2, shift), toy_cluster(3), level);
    };
    CHECK(time(0) == Approx(0.2).epsilon(1e-9));
    CHECK(time(1) == Approx(8).epsilon(1e-9));
    CHECK(time(2) == Approx(8).epsilon(1e-9));
  }
}

TEST_CASE("an oversubscribed fat tree is as slow as its uplinks", "[sim][network][fat_tree]") {
  // 4 nodes in 2 leaves; 8 ranks send 80 bytes each to each rank (640 in all). Out of a leaf go
  // 4 ranks * 4 ranks * 80 = 1280 bytes. An uplink is 2 * 100 / 4 = 50 B/s: 25.6 s. Not
  // oversubscribed, the NIC binds: 2 * 6 * 80 = 960 bytes at 100 B/s.
  Cluster cluster = toy_cluster(4);
  for (const NetworkLevel level : kWithLinks) {
    CAPTURE(to_string(level));
    cluster.fat_tree = FatTree{2, 4};
    CHECK(transfer_time(TrafficMatrix::uniform({640}), cluster, level) ==
          Approx(25.6).epsilon(1e-9));
    cluster.fat_tree = FatTree{2, 1};
    CHECK(transfer_time(TrafficMatrix::uniform({640}), cluster, level) ==
          Approx(9.6).epsilon(1e-9));
  }
}

TEST_CASE("flows drawn as one get as much of a link as they would apart",
          "[sim][network][fat_tree]") {
  // 6 nodes, 3 a leaf; 12 ranks send 10 bytes to each: 40 bytes for each pair of nodes. A node has
  // 2 flows inside its leaf, drawn as one, and 3 out of it, drawn as one; an uplink of 3 * 100 / 4
  // = 75 B/s carries 9 flows at 25/3 B/s each, 40 / (25/3) = 4.8 s. The 2 inside share the NIC's
  // other 75 B/s, 37.5 each, and end earlier: 40 / 37.5 = 16/15 s.
  Cluster cluster = toy_cluster(6);
  cluster.fat_tree = FatTree{3, 4};
  const TaskGraph graph = one_exchange(12, TrafficMatrix::uniform({120}));
  const Costs costs(graph, cluster);
  SimulatedNetwork node(costs, NetworkLevel::Node);
  LinkNetwork links(costs);
  for (Network* network : {static_cast<Network*>(&node), static_cast<Network*>(&links)}) {
    const std::vector<double> ends = ends_of_flows(*network);
    // GPU 0 sends 110 bytes through its own link at 1000 B/s.
    REQUIRE(ends.size() == 3);
    CHECK(ends[0] == Approx(0.11).epsilon(1e-9));
    CHECK(ends[1] == Approx(16.0 / 15).epsilon(1e-9));
    CHECK(ends[2] == Approx(4.8).epsilon(1e-9));
  }
}

// ---- against models' solver ----

TEST_CASE("level links equals level node for every schedule", "[sim][network][levels]") {
  const MoeLayer layer = shipped_layer("pipemoe-example");
  int compared = 0;
  for (const int ranks : {16, 64}) {
    for (const std::int64_t per_leaf : {0, 3, 4, 16}) {  // 3: the last leaf is not full
      for (const double oversubscription : {1.0, 1.5, 4.0}) {
        for (const bool contends : {false, true}) {
          if (per_leaf == 0 && oversubscription > 1) continue;
          Cluster cluster = authors_cluster(ranks);
          if (per_leaf > 0) cluster.fat_tree = FatTree{per_leaf, oversubscription};
          if (contends) cluster.contention = Contention{{{1.3, 1.7}}, "test"};
          CAPTURE(per_leaf, oversubscription, contends);
          compared += require_equal_levels_of_schedules(layer, cluster);
        }
      }
    }
  }
  CHECK(compared == 2 * 10 * 2 * kGraphsOfALayer);
}

TEST_CASE("level links equals level node on every shipped cluster", "[sim][network][levels]") {
  const std::filesystem::path folder = PIPEMOE_SOURCE_DIR "/experiments/clusters";
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() != ".toml") continue;
    const Cluster cluster = read_cluster(ConfigFile::load(file.path(), "cluster"));
    MoeLayer layer = shipped_layer("pipemoe-example");
    layer.dtype = cluster.gemm.begin()->first;
    CHECK(require_equal_levels_of_schedules(layer, cluster) == kGraphsOfALayer);
  }
}

TEST_CASE("level links equals level node for skewed matrices and ranks that differ",
          "[sim][network][levels][skew]") {
  std::mt19937_64 random(7);
  for (const std::int64_t nodes : {2, 5, 8}) {
    for (const std::int64_t per_leaf : {0, 2, 4}) {
      for (const bool contends : {false, true}) {
        Cluster cluster = larger_cluster(nodes, 2, per_leaf, 2);
        if (contends) cluster.contention = Contention{{{1.4, 1.2}}, "test"};
        const TaskGraph graph = skewed_layer(cluster.num_ranks(), 1e6, Seconds{1e-8}, random);
        CAPTURE(nodes, per_leaf, contends);
        const Costs costs(graph, cluster);
        REQUIRE(costs.num_classes() == static_cast<std::size_t>(cluster.num_ranks()));
        const auto spans = [&](NetworkLevel level) {
          return sim::simulate(graph, cluster, level).timeline.spans;
        };
        const auto links = spans(NetworkLevel::Links), node = spans(NetworkLevel::Node);
        REQUIRE(links.size() == node.size());
        for (std::size_t i = 0; i < links.size(); ++i) {
          CAPTURE(links[i].task.name(), links[i].rank);
          REQUIRE(links[i].rank == node[i].rank);
          REQUIRE(equal(links[i].end.count(), node[i].end.count()));
        }
      }
    }
  }
}

TEST_CASE("level links equals level node for collectives of groups and rings",
          "[sim][network][levels]") {
  // 8 nodes of 4 GPUs: inside a node, over whole nodes, between equal GPUs of nodes, and across.
  const std::vector<Group> groups{{32, 1}, {4, 1}, {2, 2}, {8, 1}, {8, 4}, {4, 8}, {8, 2}};
  for (const std::int64_t per_leaf : {0, 3, 4}) {
    const Cluster cluster = larger_cluster(8, 4, per_leaf, 2);
    for (const CollectiveKind kind : {CollectiveKind::AllToAll, CollectiveKind::AllReduce,
                                      CollectiveKind::AllGather, CollectiveKind::ReduceScatter}) {
      for (const Group group : groups) {
        CAPTURE(per_leaf, to_string(kind), to_string(group));
        const Collective one{kind, group, TrafficMatrix::uniform({48'000'000})};
        require_equal_levels(graph_of(32, {{}, {one}}), cluster);
        const Collective other = all_to_all(32, TrafficMatrix::uniform({32'000'000}));
        require_equal_levels(graph_of(32, {{}, {one, other}, {other, one}}), cluster);
      }
    }
  }
}

TEST_CASE("levels links and node equal a flow for each pair of nodes on fat trees",
          "[sim][network][levels][fat_tree]") {
  for (const std::int64_t nodes : {8, 9, 10, 14, 27, 30, 32}) {
    for (const std::int64_t per_leaf : {4, 8}) {
      for (const double oversubscription : {1.0, 1.5, 2.0, 4.0}) {
        const Cluster cluster = larger_cluster(nodes, 2, per_leaf, oversubscription);
        CAPTURE(nodes, per_leaf, oversubscription);
        const std::int64_t ranks = cluster.num_ranks();
        const auto exchange = [&](std::int64_t bytes_for_each) {
          return all_to_all(ranks, TrafficMatrix::uniform({bytes_for_each * ranks}));
        };
        // The second has two of unequal size at once, from different times on.
        for (const TaskGraph& graph :
             {graph_of(ranks, {{}, {exchange(100'000)}}),
              graph_of(ranks, {{}, {exchange(100'000)}, {exchange(30'000), exchange(50'000)}})}) {
          const double pairs = makespan_of_all_pairs(graph, cluster).count();
          REQUIRE(equal(makespan(graph, cluster, NetworkLevel::Links).count(), pairs));
          REQUIRE(equal(makespan(graph, cluster, NetworkLevel::Node).count(), pairs));
        }
      }
    }
  }
}

TEST_CASE("each flow of a skewed matrix ends at one time at levels links and node",
          "[sim][network][levels][skew]") {
  std::mt19937_64 random(11);
  for (const std::int64_t per_leaf : {0, 4}) {
    for (const std::int64_t nodes : {4, 6}) {
      const Cluster cluster = larger_cluster(nodes, 2, per_leaf, 3);
      const TaskGraph graph =
          one_exchange(cluster.num_ranks(), skewed_matrix(cluster.num_ranks(), 1e6, random));
      const Costs costs(graph, cluster);
      SimulatedNetwork node(costs, NetworkLevel::Node);
      LinkNetwork links(costs);
      const auto at_node = ends_of_flows(node), at_links = ends_of_flows(links);
      CAPTURE(per_leaf, nodes);
      // One for each pair of nodes, and each GPU's way out and in: none end together.
      CHECK(at_links.size() == static_cast<std::size_t>(nodes * (nodes - 1) + 2 * 2 * nodes));
      REQUIRE(at_node.size() == at_links.size());
      for (std::size_t i = 0; i < at_node.size(); ++i) REQUIRE(equal(at_node[i], at_links[i]));
    }
  }
}

TEST_CASE("a flow for each pair of GPUs takes as long as those between nodes",
          "[sim][network][levels]") {
  // The same physics drawn finer, where NICs bind; but for bytes rounded to whole ones.
  for (const std::int64_t per_leaf : {0, 3}) {
    const Cluster cluster = larger_cluster(8, 4, per_leaf, 2);
    const TaskGraph graph = one_exchange(32, TrafficMatrix::uniform({32'000'000}));
    CHECK(makespan(graph, cluster, NetworkLevel::Gpu).count() ==
          Approx(makespan(graph, cluster, NetworkLevel::Node).count()).epsilon(1e-6));
  }
}

// ---- what is left behind ----

TEST_CASE("flows of a simulation that was given up do not slow the next one", "[sim][network]") {
  const Cluster cluster = toy_cluster(2);
  const TaskGraph graph = one_exchange(4, TrafficMatrix::uniform({400}));
  for (const NetworkLevel level : kSimulated) {
    {
      const Costs costs(graph, cluster);
      SimulatedNetwork network(costs, level);
      network.begin(0, Seconds{});
    }
    CHECK(transfer_time(TrafficMatrix::uniform({400}), cluster, level) == Approx(4).epsilon(1e-9));
  }
}
