#include "sim/simulate.hpp"

#include <catch2/catch.hpp>
#include <random>

#include "models/analytic.hpp"
#include "models/degree.hpp"
#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;
using sim::Network;
using sim::simulated_times;

namespace {

constexpr std::array<Network, 3> kLevels{Network::Fitted, Network::Node, Network::Gpu};

TaskGraph one_exchange(std::int64_t ranks, TrafficMatrix traffic) {
  TaskGraphBuilder builder("test", ranks);
  builder.append(
      {0, 0, Phase::Forward, Stream::InterNode, AllToAll{Purpose::Dispatch, std::move(traffic)}});
  return std::move(builder).build();
}

// What an exchange takes beyond its start-up.
Seconds transfer_time(const TrafficMatrix& traffic, const Cluster& cluster, Network network) {
  return simulated_times(one_exchange(cluster.num_ranks(), traffic), cluster, network).makespan() -
         cluster.all_to_all_fit().startup();
}

TrafficMatrix as_matrix(Bytes per_rank, std::int64_t ranks) {
  return TrafficMatrix::of_pairs(ranks, std::vector<Bytes>(static_cast<std::size_t>(ranks * ranks),
                                                           Bytes{per_rank.count / ranks}));
}

// `nodes` nodes of two GPUs; NIC 100 B/s, GPU links 1000 B/s, start-up 1 s.
Cluster toy_cluster(std::int64_t nodes) {
  Cluster cluster = authors_cluster(16);
  cluster.nodes = nodes;
  cluster.gpus_per_node = 2;
  cluster.nic = {{100}, 1};
  cluster.gpu_link = {{1000}, 1};
  cluster.all_to_all = {{nodes * 2, {AlphaBeta<Bytes>{Seconds{1}, {0.01}}, {}, {}, "test"}}};
  return cluster;
}

}  // namespace

TEST_CASE("the fitted level equals the closed form on the study's grid", "[sim][fitted]") {
  for (const int ranks : {16, 32, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    for (const MoeLayer& layer : study_grid(ranks)) {
      const PipelineCost forward = pipeline_cost(layer, cluster, Phase::Forward);
      const PipelineCost backward = pipeline_cost(layer, cluster, Phase::Backward);
      for (std::int64_t r = 1; r <= 64; ++r) {
        if (r > layer.slots() || layer.slots() % r != 0) continue;
        CAPTURE(ranks, layer.tokens_per_rank, layer.model_dim, layer.hidden_dim, r);
        const PhaseTimes times =
            simulated_times(schedule("pipemoe", layer, cluster, {r, r}), cluster);
        REQUIRE(times.forward.count() == Approx(pipelined_time(forward, r).count()).epsilon(1e-9));
        REQUIRE(times.backward.count() ==
                Approx(pipelined_time(backward, r).count()).epsilon(1e-9));
      }
    }
  }
}

TEST_CASE("the fitted level equals the analytic schedule, span by span", "[sim][fitted]") {
  std::mt19937_64 random(31);
  for (int i = 0; i < 200; ++i) {
    const Cluster cluster = authors_cluster(16);
    MoeLayer layer = random_layer(random, 16);
    layer.dtype = Dtype::Fp32;
    const auto degree = [&] {
      return 1 + static_cast<std::int64_t>(random() % 40) % layer.slots();
    };
    const TaskGraph graph = schedule("pipemoe", layer, cluster, {degree(), degree()});
    const Timeline predicted = analytic_timeline(graph, cluster);
    const Timeline simulated = sim::simulate(graph, cluster);
    REQUIRE(simulated.spans.size() == predicted.spans.size());
    const double scale = predicted.makespan().count();
    for (std::size_t s = 0; s < predicted.spans.size(); ++s) {
      REQUIRE(simulated.spans[s].task == predicted.spans[s].task);
      REQUIRE(std::abs((simulated.spans[s].start - predicted.spans[s].start).count()) <=
              1e-9 * scale);
      REQUIRE(std::abs((simulated.spans[s].end - predicted.spans[s].end).count()) <= 1e-9 * scale);
    }
  }
}

TEST_CASE("the fitted level slows overlapping tasks as the analytic schedule does",
          "[sim][fitted][overlap]") {
  std::mt19937_64 random(33);
  std::uniform_real_distribution<double> slowdown(1, 3);
  for (int i = 0; i < 200; ++i) {
    Cluster cluster = authors_cluster(16);
    const auto by_bytes = [&] {
      return Slowdown(Slowdown::Points{{1e4, slowdown(random)}, {1e8, slowdown(random)}});
    };
    cluster.overlap = i % 2 == 0 ? Overlap{slowdown(random), slowdown(random), "test"}
                                 : Overlap{by_bytes(), by_bytes(), "test"};
    MoeLayer layer = random_layer(random, 16);
    layer.dtype = Dtype::Fp32;
    if (i % 5 == 0) {
      cluster.all_to_all_queued[16].model = AlphaBeta<Bytes>{Seconds{3e-4}, {2.9e-10}};
    }
    if (i % 3 == 0) {
      const ExpertSizes sizes{layer.num_experts / 16, layer.model_dim, layer.hidden_dim};
      cluster.overlap->experts.push_back({sizes, slowdown(random), by_bytes()});
    }
    const auto degree = [&] {
      return 1 + static_cast<std::int64_t>(random() % 40) % layer.slots();
    };
    const char* name = i % 4 == 0 ? "pipemoe-deferred" : "pipemoe";
    const TaskGraph graph = schedule(name, layer, cluster, {degree(), degree()});
    const Timeline predicted = analytic_timeline(graph, cluster);
    const Timeline simulated = sim::simulate(graph, cluster);
    const double scale = predicted.makespan().count();
    CAPTURE(i, name);
    for (std::size_t s = 0; s < predicted.spans.size(); ++s) {
      CAPTURE(predicted.spans[s].task.name());
      REQUIRE(std::abs((simulated.spans[s].start - predicted.spans[s].start).count()) <=
              1e-9 * scale);
      REQUIRE(std::abs((simulated.spans[s].end - predicted.spans[s].end).count()) <= 1e-9 * scale);
    }
  }
}

TEST_CASE("a simulation with slowdowns leaves nothing slowed behind it", "[sim][overlap]") {
  const Cluster plain = authors_cluster(16);
  Cluster slowed = plain;
  slowed.overlap = Overlap{2, 3, "test"};
  const TaskGraph graph = schedule("pipemoe", shipped_layer("pipemoe-example"), plain, {4, 4});
  const Seconds before = simulated_times(graph, plain).makespan();
  CHECK(simulated_times(graph, slowed).makespan() > before * 1.1);
  CHECK(simulated_times(graph, plain).makespan().count() == Approx(before.count()).epsilon(1e-11));
}

TEST_CASE("levels that do not apply slowdowns say so", "[sim][overlap]") {
  Cluster cluster = authors_cluster(16);
  const TaskGraph graph = schedule("pipemoe", shipped_layer("pipemoe-example"), cluster, {2, 2});
  const Seconds plain = simulated_times(graph, cluster, Network::Node).makespan();
  cluster.overlap = Overlap{2, 3, "test"};
  const Timeline node = sim::simulate(graph, cluster, Network::Node);
  CHECK(node.makespan().count() == Approx(plain.count()).epsilon(1e-11));
  REQUIRE(node.provenance.notes.size() == 2);
  CHECK(node.provenance.notes[1] == "overlap slowdowns are not applied at network level node");
  CHECK(sim::simulate(graph, cluster, Network::Fitted).provenance.notes.size() == 1);
}

TEST_CASE("the three levels agree within 2 % on a uniform all-to-all", "[sim][levels]") {
  for (const int ranks : {16, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    for (const std::int64_t megabytes : {1, 16, 256}) {
      const auto time = [&](Network network) {
        return simulated_times(one_exchange(ranks, TrafficMatrix::uniform({megabytes * 1'000'000})),
                               cluster, network)
            .makespan()
            .count();
      };
      CAPTURE(ranks, megabytes);
      CHECK(time(Network::Node) == Approx(time(Network::Fitted)).epsilon(0.02));
      CHECK(time(Network::Gpu) == Approx(time(Network::Fitted)).epsilon(0.02));
      // The same physics drawn coarser: the same time, but for bytes rounded to whole ones.
      CHECK(time(Network::Gpu) == Approx(time(Network::Node)).epsilon(1e-6));
    }
  }
}

TEST_CASE("the three levels agree within 2 % on the example layer's makespan", "[sim][levels]") {
  for (const int ranks : {16, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    const MoeLayer layer = shipped_layer("pipemoe-example");
    const TaskGraph graph = schedule("pipemoe", layer, cluster, {2, 3});
    const auto time = [&](Network network) {
      return simulated_times(graph, cluster, network).makespan().count();
    };
    CAPTURE(ranks);
    CHECK(time(Network::Node) == Approx(time(Network::Fitted)).epsilon(0.02));
    CHECK(time(Network::Gpu) == Approx(time(Network::Fitted)).epsilon(0.02));
  }
}

TEST_CASE("one NIC efficiency meets the published slopes within 2 % at 16, 32 and 64 GPUs",
          "[sim][levels]") {
  const double efficiency = authors_cluster(64).nic.efficiency;
  for (const int ranks : {16, 32, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    CHECK(cluster.nic.efficiency == efficiency);
    const double published = cluster.all_to_all_fit().line()->beta.value;
    for (const Network network : {Network::Node, Network::Gpu}) {
      const Seconds small = transfer_time(TrafficMatrix::uniform({64'000'000}), cluster, network);
      const Seconds large = transfer_time(TrafficMatrix::uniform({320'000'000}), cluster, network);
      CAPTURE(ranks, sim::to_string(network));
      CHECK((large - small).count() / 256e6 == Approx(published).epsilon(0.02));
    }
  }
}

TEST_CASE("a uniform exchange takes the same time drawn as a ring and as all node pairs",
          "[sim][node]") {
  for (const int ranks : {16, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    const Bytes per_rank{ranks * 4'000'000};
    const Seconds ring = transfer_time(TrafficMatrix::uniform(per_rank), cluster, Network::Node);
    const Seconds pairs = transfer_time(as_matrix(per_rank, ranks), cluster, Network::Node);
    CHECK(ring.count() == Approx(pairs.count()).epsilon(1e-9));
  }
}

TEST_CASE("exchanges at once share the network at every level", "[sim]") {
  // Two nodes of two GPUs; each rank sends 400 bytes, 100 to each: 400 bytes leave a node, 4 s
  // alone at 100 B/s. Both exchanges start up for 1 s, then share: 1 + 2 * 4 s.
  const Cluster cluster = toy_cluster(2);
  TaskGraphBuilder builder("test", 4);
  const AllToAll exchange{Purpose::Dispatch, TrafficMatrix::uniform({400})};
  builder.append({0, 0, Phase::Forward, Stream::InterNode, exchange});
  builder.append({0, 1, Phase::Forward, Stream::IntraNode, exchange});
  const TaskGraph graph = std::move(builder).build();
  for (const Network level : kLevels) {
    CAPTURE(sim::to_string(level));
    CHECK(simulated_times(graph, cluster, level).makespan().count() == Approx(9).epsilon(1e-9));
  }
}

TEST_CASE("a hot receiver's NIC sets the time of a skewed exchange", "[sim][skew]") {
  // Ranks 2 and 3 (node 1) each send 300 bytes to rank 0 on node 0: 600 bytes into node 0's NIC at
  // 100 B/s; through rank 0's own link at 1000 B/s they take 0.6 s, hidden behind the NIC.
  std::vector<Bytes> pairs(16);
  pairs[2 * 4 + 0] = pairs[3 * 4 + 0] = Bytes{300};
  const TrafficMatrix traffic = TrafficMatrix::of_pairs(4, pairs);
  for (const Network level : {Network::Node, Network::Gpu}) {
    CAPTURE(sim::to_string(level));
    CHECK(transfer_time(traffic, toy_cluster(2), level).count() == Approx(6).epsilon(1e-9));
  }
}

TEST_CASE("traffic inside a node uses the GPUs' links only", "[sim][skew]") {
  // Rank 0 sends 500 bytes to rank 1 beside it: 0.5 s at 1000 B/s, at any NIC speed.
  std::vector<Bytes> pairs(16);
  pairs[1] = Bytes{500};
  const TrafficMatrix traffic = TrafficMatrix::of_pairs(4, pairs);
  for (const Network level : {Network::Node, Network::Gpu}) {
    CAPTURE(sim::to_string(level));
    CHECK(transfer_time(traffic, toy_cluster(2), level).count() == Approx(0.5).epsilon(1e-9));
  }
}

TEST_CASE("an exchange between groups uses the NICs unless it stays in the node", "[sim][groups]") {
  // Each rank sends 400 bytes to the two ranks of one node. In its own node: 200 cross its link,
  // 0.2 s at 1000 B/s. To another node: 2 * 400 leave each NIC, 8 s at 100 B/s.
  for (const Network level : {Network::Node, Network::Gpu}) {
    CAPTURE(sim::to_string(level));
    const auto time = [&](std::int64_t shift) {
      return transfer_time(TrafficMatrix::between_groups({400}, 2, shift), toy_cluster(3), level);
    };
    CHECK(time(0).count() == Approx(0.2).epsilon(1e-9));
    CHECK(time(1).count() == Approx(8).epsilon(1e-9));
    CHECK(time(2).count() == Approx(8).epsilon(1e-9));
  }
}

TEST_CASE("an oversubscribed fat tree is as slow as its uplinks", "[sim][fat_tree]") {
  // 4 nodes in 2 leaves; 8 ranks send 80 bytes each to each rank (640 in all). Out of a leaf go
  // 4 ranks * 4 ranks * 80 = 1280 bytes. An uplink is 2 * 100 / 4 = 50 B/s: 25.6 s. Not
  // oversubscribed, the NIC binds: 2 * 6 * 80 = 960 bytes at 100 B/s.
  Cluster cluster = toy_cluster(4);
  for (const Network level : {Network::Node, Network::Gpu}) {
    CAPTURE(sim::to_string(level));
    cluster.fat_tree = FatTree{2, 4};
    CHECK(transfer_time(TrafficMatrix::uniform({640}), cluster, level).count() ==
          Approx(25.6).epsilon(1e-9));
    cluster.fat_tree = FatTree{2, 1};
    CHECK(transfer_time(TrafficMatrix::uniform({640}), cluster, level).count() ==
          Approx(9.6).epsilon(1e-9));
  }
}

TEST_CASE("more bandwidth is never slower", "[sim]") {
  const MoeLayer layer = shipped_layer("pipemoe-example");
  for (const std::int64_t degree : {1, 3, 8}) {
    for (const Network level : {Network::Fitted, Network::Node}) {
      Seconds last = Seconds{1e9};
      for (const double factor : {0.25, 0.5, 1.0, 2.0, 8.0, 64.0}) {
        Cluster cluster = authors_cluster(64);
        cluster.nic.bandwidth.value *= factor;
        auto& line = std::get<AlphaBeta<Bytes>>(cluster.all_to_all.at(64).model);
        line.beta.value /= factor;
        const Seconds time =
            simulated_times(schedule("pipemoe", layer, cluster, {degree, degree}), cluster, level)
                .makespan();
        CAPTURE(degree, factor, sim::to_string(level));
        CHECK(time <= last * (1 + 1e-12));
        last = time;
      }
    }
  }
}

TEST_CASE("a simulation repeats itself, whatever ran before it", "[sim]") {
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const auto time = [&](int ranks, Network level) {
    const Cluster cluster = authors_cluster(ranks);
    return simulated_times(schedule("pipemoe", layer, cluster, {4, 3}), cluster, level)
        .makespan()
        .count();
  };
  std::map<std::pair<int, Network>, double> first;
  for (int round = 0; round < 50; ++round) {
    for (const int ranks : {64, 16, 32}) {
      for (const Network level : {Network::Node, Network::Fitted}) {
        const double now = time(ranks, level);
        const auto [known, is_first] = first.try_emplace({ranks, level}, now);
        if (!is_first) REQUIRE(now == Approx(known->second).epsilon(1e-11));
      }
    }
  }
}

TEST_CASE("a makespan lies between the critical path and the serial sum", "[sim]") {
  std::mt19937_64 random(32);
  for (int i = 0; i < 100; ++i) {
    const Cluster cluster = authors_cluster(16);
    MoeLayer layer = random_layer(random, 16);
    layer.dtype = Dtype::Fp32;
    const std::int64_t degree = 1 + static_cast<std::int64_t>(random() % 16) % layer.slots();
    const TaskGraph graph = schedule("pipemoe", layer, cluster, {degree, degree});
    const MakespanBounds bounds = makespan_bounds(graph, CostModel(cluster));
    const Seconds makespan = simulated_times(graph, cluster).makespan();
    CHECK(makespan >= bounds.critical_path * (1 - 1e-9));
    CHECK(makespan <= bounds.serial_sum * (1 + 1e-9));
  }
}

TEST_CASE("tasks that cost nothing take no time and hold nothing up", "[sim]") {
  Cluster cluster = authors_cluster(16);
  auto& line = std::get<AlphaBeta<Bytes>>(cluster.all_to_all.at(16).model);
  line = {};
  std::get<AlphaBeta<Flops>>(cluster.gemm.at(Dtype::Fp32).model) = {};
  const TaskGraph graph = schedule("pipemoe", shipped_layer("pipemoe-example"), cluster, {8, 8});
  CHECK(simulated_times(graph, cluster).makespan() == Seconds{});
}

TEST_CASE("a simulation says what it left out", "[sim]") {
  const Cluster cluster = authors_cluster(64);
  const Timeline timeline = sim::simulate(
      schedule("pipemoe", shipped_layer("pipemoe-example"), cluster, {2, 2}), cluster);
  REQUIRE(timeline.provenance.notes.size() == 1);
  CHECK(timeline.provenance.notes[0] ==
        "not modelled on this cluster, cost nothing here: activation, gate, permutation");
  CHECK(timeline.provenance.versions.at("simgrid").starts_with("3."));
}

TEST_CASE("progress counts every task", "[sim]") {
  const Cluster cluster = authors_cluster(16);
  const TaskGraph graph = schedule("pipemoe", shipped_layer("pipemoe-example"), cluster, {2, 2});
  std::size_t last = 0;
  sim::simulate(graph, cluster, Network::Node, [&](std::size_t done, std::size_t total) {
    CHECK(done == last + 1);
    CHECK(total == graph.size());
    last = done;
  });
  CHECK(last == graph.size());
}

TEST_CASE("a graph for other ranks or without a fit is refused", "[sim][errors]") {
  const Cluster cluster = authors_cluster(16);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const TaskGraph graph = schedule("pipemoe", layer, authors_cluster(64), {1, 1});
  CHECK_THROWS_AS(sim::simulate(graph, cluster), InputError);
  MoeLayer bf16 = layer;
  bf16.dtype = Dtype::Bf16;
  CHECK_THROWS_AS(sim::simulate(schedule("pipemoe", bf16, cluster, {1, 1}), cluster), InputError);
  CHECK_THROWS_AS(sim::network_from("packet"), InputError);
}
