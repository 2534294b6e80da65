// The entry point: whole layers at every level, and what a result says of itself.
#include "sim/simulate.hpp"

#include <array>
#include <catch2/catch.hpp>
#include <map>
#include <random>

#include "models/error.hpp"
#include "models/links.hpp"
#include "models/schedule.hpp"
#include "tests/sim/clusters.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;

namespace {

constexpr std::array kLevels{NetworkLevel::Fitted, NetworkLevel::Links, NetworkLevel::Node,
                             NetworkLevel::Gpu};

TaskGraph example(const Cluster& cluster, Degrees degrees) {
  return build_graph("pipemoe", shipped_layer("pipemoe-example"), cluster, degrees);
}

Fit<Bytes>& all_to_all_fit(Cluster& cluster) {
  return cluster.collectives.at({CollectiveKind::AllToAll, cluster.all_ranks()});
}

// A cluster on which the fitted time of every all-to-all is what it takes alone on the links.
Cluster fitted_as_links(Cluster cluster) {
  constexpr Bytes kMany{64'000'000'000};  // divides over all ranks
  const Collective exchange = all_to_all(cluster.num_ranks(), TrafficMatrix::uniform(kMany));
  const double slope = time_on_links(cluster, exchange).count() / kMany.amount();
  Fit<Bytes>& fit = all_to_all_fit(cluster);
  fit.model = AlphaBeta<Bytes>{fit.startup(), {slope}};
  return cluster;
}

}  // namespace

TEST_CASE("all levels agree within 2 % on a uniform all-to-all", "[sim][levels]") {
  for (const int ranks : {16, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    for (const std::int64_t megabytes : {1, 16, 256}) {
      const TaskGraph graph = one_exchange(ranks, TrafficMatrix::uniform({megabytes * 1'000'000}));
      const double fitted = makespan(graph, cluster, NetworkLevel::Fitted).count();
      for (const NetworkLevel level : kLevels) {
        CAPTURE(ranks, megabytes, to_string(level));
        CHECK(makespan(graph, cluster, level).count() == Approx(fitted).epsilon(0.02));
      }
    }
  }
}

TEST_CASE("all levels agree within 2 % on the example layer's makespan", "[sim][levels]") {
  for (const int ranks : {16, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    const TaskGraph graph = example(cluster, {2, 3});
    const double fitted = makespan(graph, cluster, NetworkLevel::Fitted).count();
    for (const NetworkLevel level : kLevels) {
      CAPTURE(ranks, to_string(level));
      CHECK(makespan(graph, cluster, level).count() == Approx(fitted).epsilon(0.02));
    }
  }
}

TEST_CASE("one NIC efficiency meets the published slopes within 2 % at 16, 32 and 64 GPUs",
          "[sim][levels]") {
  const double efficiency = authors_cluster(64).nic.efficiency;
  for (const int ranks : {16, 32, 64}) {
    Cluster cluster = authors_cluster(ranks);
    CHECK(cluster.nic.efficiency == efficiency);
    const double published = all_to_all_fit(cluster).line()->beta.value;
    for (const NetworkLevel level : {NetworkLevel::Links, NetworkLevel::Node, NetworkLevel::Gpu}) {
      const auto time = [&](std::int64_t bytes) {
        return makespan(one_exchange(ranks, TrafficMatrix::uniform({bytes})), cluster, level);
      };
      CAPTURE(ranks, to_string(level));
      CHECK((time(320'000'000) - time(64'000'000)).count() / 256e6 ==
            Approx(published).epsilon(0.02));
    }
  }
}

TEST_CASE("contention at level node equals the fitted loop with each collective's time alone",
          "[sim][contention]") {
  // One all-to-all is in flight at a time, so that its time on the links is known beforehand.
  std::mt19937_64 random(33);
  std::uniform_real_distribution<double> factor(1, 2);
  for (int i = 0; i < 12; ++i) {
    Cluster cluster = fitted_as_links(authors_cluster(i % 2 == 0 ? 16 : 64));
    const MoeLayer layer = shipped_layer("pipemoe-example");
    const auto drawn = [&] { return Slowdowns{factor(random), factor(random)}; };
    cluster.contention = Contention{{drawn(), drawn()}, "test"};
    if (i % 4 == 3) {
      cluster.contention->experts.push_back(
          {layer.expert_sizes(cluster.num_ranks()), {drawn(), drawn()}});
    }
    const char* name = i % 2 == 0 ? "pipemoe" : "pipemoe-deferred";
    const TaskGraph graph = build_graph(name, layer, cluster, {1 + i % 5, 1 + i % 7});
    const auto spans = [&](NetworkLevel level) {
      return sim::simulate(graph, cluster, level).timeline.spans;
    };
    const auto fitted = spans(NetworkLevel::Fitted), node = spans(NetworkLevel::Node);
    const double scale = makespan(graph, cluster, NetworkLevel::Fitted).count();
    Cluster plain = cluster;
    plain.contention.reset();
    if (i % 5 > 0) {  // else nothing overlaps forward
      CHECK(scale > 1.01 * makespan(graph, plain, NetworkLevel::Fitted).count());
    }
    REQUIRE(fitted.size() == node.size());
    for (std::size_t s = 0; s < fitted.size(); ++s) {
      CAPTURE(i, name, fitted[s].task.name());
      REQUIRE(std::abs((fitted[s].start - node[s].start).count()) <= 1e-9 * scale);
      REQUIRE(std::abs((fitted[s].end - node[s].end).count()) <= 1e-9 * scale);
    }
  }
}

TEST_CASE("a contention factor of exactly 1 changes nothing at any level", "[sim][contention]") {
  const Cluster plain = authors_cluster(16);
  Cluster unslowed = plain;
  unslowed.contention = Contention{{{1, 1}}, "test"};
  const TaskGraph graph = example(plain, {4, 3});
  for (const NetworkLevel level : {NetworkLevel::Fitted, NetworkLevel::Links}) {
    CHECK(makespan(graph, unslowed, level) == makespan(graph, plain, level));
  }
  // SimGrid's clock goes on between simulations, which costs last digits.
  for (const NetworkLevel level : {NetworkLevel::Node, NetworkLevel::Gpu}) {
    CHECK(makespan(graph, unslowed, level).count() ==
          Approx(makespan(graph, plain, level).count()).epsilon(1e-11));
  }
}

TEST_CASE("a simulation with contention leaves nothing slowed behind it", "[sim][contention]") {
  const Cluster plain = authors_cluster(16);
  Cluster slowed = plain;
  slowed.contention = Contention{{{2, 3}}, "test"};
  const TaskGraph graph = example(plain, {4, 4});
  for (const NetworkLevel level : kLevels) {
    const Seconds before = makespan(graph, plain, level);
    CHECK(makespan(graph, slowed, level) > before * 1.1);
    CHECK(makespan(graph, plain, level).count() == Approx(before.count()).epsilon(1e-11));
  }
}

TEST_CASE("groups of ranks that differ meet at every level", "[sim][groups]") {
  // Two nodes of two GPUs; ranks 0 and 1 compute for 1 s, ranks 2 and 3 for 3 s, then the ranks of
  // each node exchange: 2000 bytes each, of which 1000 cross its link in 1 s, start-up 1 s. Then
  // ranks 0 and 1 compute for 4 s. Fitted, groups are apart: 1 + 2 + 4 s. On a network they move at
  // once: 3 + 2 + 4 s.
  Cluster cluster = toy_cluster(2);
  const PerRank<Seconds> before({Seconds{1}, Seconds{1}, Seconds{3}, Seconds{3}});
  const PerRank<Seconds> after({Seconds{4}, Seconds{4}, Seconds{0}, Seconds{0}});
  TaskGraphBuilder builder("test", 4, compute_and_communication());
  const TaskId gate = builder.append({{.step = Step::Gate}, kComputeQueue, Timed{before}});
  const Collective exchange{CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::uniform({2000})};
  const TaskId dispatch = builder.append({{.step = Step::Dispatch}, kCommunicationQueue, exchange});
  builder.depend(gate, dispatch);
  builder.depend(dispatch, builder.append({{.step = Step::Expert}, kComputeQueue, Timed{after}}));
  const TaskGraph graph = std::move(builder).build();
  for (const NetworkLevel level : kLevels) {
    CAPTURE(to_string(level));
    CHECK(makespan(graph, cluster, level).count() ==
          Approx(level == NetworkLevel::Fitted ? 7 : 9).epsilon(1e-9));
  }
}

TEST_CASE("contention is with the collective of a rank's own group", "[sim][contention][groups]") {
  // The same exchange, at once with computing for 9 s on ranks 0 and 1 and 10 s on the others,
  // where it takes 2 times as long: while the exchange takes 2 s, 1 s of computing is done; the
  // other 9 s end at 11 s.
  Cluster cluster = toy_cluster(2);
  cluster.contention = Contention{{{2, 1}}, "test"};
  const PerRank<Seconds> times({Seconds{9}, Seconds{9}, Seconds{10}, Seconds{10}});
  const Collective exchange{CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::uniform({2000})};
  const TaskGraph graph = graph_of(4, {{Timed{times}}, {exchange}});
  for (const NetworkLevel level : kLevels) {
    CAPTURE(to_string(level));
    CHECK(makespan(graph, cluster, level).count() == Approx(11).epsilon(1e-9));
  }
}

TEST_CASE("a simulation repeats itself, whatever ran before it", "[sim]") {
  std::map<std::pair<int, NetworkLevel>, double> first;
  for (int round = 0; round < 50; ++round) {
    for (const int ranks : {64, 16, 32}) {
      const Cluster cluster = authors_cluster(ranks);
      const TaskGraph graph = example(cluster, {4, 3});
      for (const NetworkLevel level :
           {NetworkLevel::Node, NetworkLevel::Links, NetworkLevel::Fitted}) {
        const double now = makespan(graph, cluster, level).count();
        const auto [known, is_first] = first.try_emplace({ranks, level}, now);
        if (!is_first) REQUIRE(now == Approx(known->second).epsilon(1e-11));
      }
    }
  }
}

TEST_CASE("a platform is used again with another cluster's bandwidths", "[sim]") {
  // 2 nodes of 2 GPUs; 400 bytes leave each NIC: 4 s at 100 B/s, 2 s at 200 B/s; start-up 1 s.
  const TaskGraph graph = one_exchange(4, TrafficMatrix::uniform({400}));
  Cluster faster = toy_cluster(2);
  faster.nic.bandwidth.value = 200;
  for (int round = 0; round < 2; ++round) {
    CHECK(makespan(graph, toy_cluster(2), NetworkLevel::Node).count() == Approx(5).epsilon(1e-9));
    CHECK(makespan(graph, faster, NetworkLevel::Node).count() == Approx(3).epsilon(1e-9));
  }
}

TEST_CASE("more bandwidth is never slower", "[sim]") {
  for (const std::int64_t degree : {1, 3, 8}) {
    for (const NetworkLevel level :
         {NetworkLevel::Fitted, NetworkLevel::Links, NetworkLevel::Node}) {
      Seconds last = Seconds{1e9};
      for (const double factor : {0.25, 0.5, 1.0, 2.0, 8.0, 64.0}) {
        Cluster cluster = authors_cluster(64);
        cluster.nic.bandwidth.value *= factor;
        std::get<AlphaBeta<Bytes>>(all_to_all_fit(cluster).model).beta.value /= factor;
        const Seconds time = makespan(example(cluster, {degree, degree}), cluster, level);
        CAPTURE(degree, factor, to_string(level));
        CHECK(time <= last * (1 + 1e-12));
        last = time;
      }
    }
  }
}

TEST_CASE("on links, a makespan lies between the critical path and the serial sum", "[sim]") {
  std::mt19937_64 random(32);
  for (int i = 0; i < 100; ++i) {
    const Cluster cluster = fitted_as_links(authors_cluster(16));
    MoeLayer layer = random_layer(random, 16);
    layer.dtype = Dtype::Fp32;
    const std::int64_t degree = 1 + static_cast<std::int64_t>(random() % 16) % layer.slots();
    const TaskGraph graph = build_graph("pipemoe", layer, cluster, {degree, degree});
    const MakespanBounds bounds = makespan_bounds(Costs(graph, cluster));
    for (const NetworkLevel level : {NetworkLevel::Links, NetworkLevel::Node}) {
      // 1e-7: bytes on links are whole ones.
      CHECK(makespan(graph, cluster, level) >= bounds.critical_path * (1 - 1e-7));
      CHECK(makespan(graph, cluster, level) <= bounds.serial_sum * (1 + 1e-7));
    }
  }
}

TEST_CASE("tasks that cost nothing take no time and hold nothing up", "[sim]") {
  Cluster cluster = authors_cluster(16);
  all_to_all_fit(cluster).model = AlphaBeta<Bytes>{};
  std::get<AlphaBeta<Flops>>(cluster.gemm.at(Dtype::Fp32).model) = {};
  // Without other nodes or other GPUs nothing moves either.
  Cluster alone = cluster;
  alone.nodes = alone.gpus_per_node = 1;
  alone.collectives[{CollectiveKind::AllToAll, {1, 1}}] = {};
  CHECK(makespan(example(cluster, {8, 8}), cluster, NetworkLevel::Fitted) == Seconds{});
  for (const NetworkLevel level : kLevels) {
    CAPTURE(to_string(level));
    CHECK(makespan(example(alone, {8, 8}), alone, level) == Seconds{});
  }
}

TEST_CASE("a simulation says who made it and what it left out", "[sim]") {
  const Cluster cluster = authors_cluster(64);
  const TaskGraph graph = example(cluster, {2, 2});
  for (const NetworkLevel level : kLevels) {
    const Provenance provenance = sim::simulate(graph, cluster, level).timeline.provenance;
    REQUIRE(!provenance.notes.empty());
    CHECK(provenance.notes[0] ==
          "not modelled on this cluster, cost nothing here: activation, gate, permutation");
    const bool simulated = level == NetworkLevel::Node || level == NetworkLevel::Gpu;
    CHECK(provenance.made_by == (simulated ? "simulation" : "evaluation") +
                                    std::string(", network level ") + to_string(level));
    REQUIRE(provenance.versions.contains("simgrid") == simulated);
    if (simulated) CHECK(provenance.versions.at("simgrid").starts_with("3."));
  }
}

TEST_CASE("progress counts every task", "[sim]") {
  const Cluster cluster = authors_cluster(16);
  const TaskGraph graph = example(cluster, {2, 2});
  std::size_t last = 0;
  sim::simulate(graph, cluster, NetworkLevel::Node, [&](std::size_t done, std::size_t total) {
    CHECK(done == last + 1);
    CHECK(total == graph.size());
    last = done;
  });
  CHECK(last == graph.size());
}

TEST_CASE("a simulation that its progress callback ends leaves nothing behind", "[sim]") {
  const Cluster cluster = authors_cluster(16);
  const TaskGraph graph = example(cluster, {4, 4});
  const Seconds before = makespan(graph, cluster, NetworkLevel::Node);
  const auto give_up = [&](std::size_t done, std::size_t) {
    if (done == graph.size() / 3) throw RunError("enough");
  };
  CHECK_THROWS_AS(sim::simulate(graph, cluster, NetworkLevel::Node, give_up), RunError);
  CHECK(makespan(graph, cluster, NetworkLevel::Node).count() ==
        Approx(before.count()).epsilon(1e-11));
}

TEST_CASE("a search at level node times its candidates by simulation", "[sim][search]") {
  const Cluster cluster = authors_cluster(16);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const Plan plan = search(find_schedule("pipemoe"), layer, cluster, {.max_degree = 4},
                           sim::simulator_at(NetworkLevel::Node));
  CHECK(plan.level == NetworkLevel::Node);
  const TaskGraph graph = build_graph("pipemoe", layer, cluster, plan.degrees());
  CHECK(plan.iteration().count() ==
        Approx(makespan(graph, cluster, NetworkLevel::Node).count()).epsilon(1e-9));
}

TEST_CASE("a graph for other ranks or without a fit is refused", "[sim][errors]") {
  const Cluster cluster = authors_cluster(16);
  const TaskGraph graph = example(authors_cluster(64), {1, 1});
  MoeLayer bf16 = shipped_layer("pipemoe-example");
  bf16.dtype = Dtype::Bf16;
  for (const NetworkLevel level : kLevels) {
    CHECK_THROWS_AS(sim::simulate(graph, cluster, level), InputError);
    CHECK_THROWS_AS(sim::simulate(build_graph("pipemoe", bf16, cluster, {1, 1}), cluster, level),
                    InputError);
  }
}
