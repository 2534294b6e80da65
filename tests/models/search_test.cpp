// Choosing degrees: the closed form (models/pipeline_model.hpp) and the search over a schedule's
// knobs (models/search.hpp).
#include "models/search.hpp"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"
#include "models/evaluate.hpp"
#include "models/files.hpp"
#include "models/schedule.hpp"
#include "models/timeline_io.hpp"
#include "tests/models/by_hand.hpp"
#include "tests/support/program.hpp"
#include "tests/support/random_layers.hpp"

namespace pipemoe::search_test {

using namespace test;

namespace {

constexpr std::array<int, 3> kClusterSizes{16, 32, 64};

PipelineCosts closed_form(const MoeLayer& layer, const Cluster& cluster) {
  return find_schedule("pipemoe").closed_form(layer, cluster).value();
}

// Start-ups 1 us .. 10 ms, work 1 us .. 10 s; either start-up may be the larger one.
PipelineCost random_cost(std::mt19937_64& random) {
  const auto draw = [&](double from, double to) {
    return Seconds{std::pow(10.0, std::uniform_real_distribution<double>(from, to)(random))};
  };
  return {draw(-6, -2), draw(-6, -2), draw(-6, 1), draw(-6, -2), draw(-6, 1)};
}

void check_equals_exhaustive(const PipelineCost& cost, std::int64_t max_degree) {
  const DegreeChoice exact = choose_degree_exhaustively(cost, max_degree);
  const DegreeChoice chosen = choose_degree(cost, max_degree);
  CAPTURE(cost.all_to_all_startup.count(), cost.all_to_all_transfer.count(),
          cost.expert_startup.count(), cost.expert_work.count(), max_degree);
  REQUIRE(chosen.degree == exact.degree);
  REQUIRE(chosen.time == exact.time);
}

}  // namespace

TEST_CASE("the degree's time is the closed form", "[models][search]") {
  // d(r) = 1 + 4/r, e(r) = 0.5 + 6/r, nothing fixed.
  const PipelineCost cost{{}, Seconds{1}, Seconds{4}, Seconds{0.5}, Seconds{6}};
  CHECK(pipelined_time(cost, 1) == Seconds{2 * 5 + 6.5});
  // r = 2: max(2*2*3, 2*3 + 2*3.5) = max(12, 13).
  CHECK(pipelined_time(cost, 2) == Seconds{13});
  // r = 4: max(2*4*2, 2*2 + 4*2) = max(16, 12).
  CHECK(pipelined_time(cost, 4) == Seconds{16});
}

TEST_CASE("what does not pipeline is added to every degree", "[models][search]") {
  const PipelineCost cost{Seconds{100}, Seconds{1}, Seconds{4}, Seconds{0.5}, Seconds{6}};
  CHECK(pipelined_time(cost, 1) == Seconds{116.5});
  CHECK(pipelined_time(cost, 2) == Seconds{113});
}

TEST_CASE("the choice equals exhaustive search in 100,000 random cost models", "[models][search]") {
  std::mt19937_64 random(20231);
  int all_to_all_starts_slower = 0;
  for (int i = 0; i < 100'000; ++i) {
    const PipelineCost cost = random_cost(random);
    all_to_all_starts_slower += cost.all_to_all_startup > cost.expert_startup;
    check_equals_exhaustive(cost, 512);
  }
  // Both signs of alpha_a - alpha_e, on which the authors' solver differs.
  CHECK(all_to_all_starts_slower > 40'000);
  CHECK(all_to_all_starts_slower < 60'000);
}

TEST_CASE("the choice equals exhaustive search under any limit", "[models][search]") {
  std::mt19937_64 random(20232);
  for (int i = 0; i < 20'000; ++i) check_equals_exhaustive(random_cost(random), 1 + i % 70);
}

TEST_CASE("the choice is as fast as exhaustive search where start-ups or work are zero",
          "[models][search]") {
  std::mt19937_64 random(20233);
  for (int i = 0; i < 16 * 500; ++i) {
    PipelineCost cost = random_cost(random);
    if (i & 1) cost.all_to_all_startup = {};
    if (i & 2) cost.all_to_all_transfer = {};
    if (i & 4) cost.expert_startup = {};
    if (i & 8) cost.expert_work = {};
    const Seconds exact = choose_degree_exhaustively(cost, 512).time;
    CAPTURE(i);
    REQUIRE(std::abs(choose_degree(cost, 512).time / exact - 1) < 1e-15);
  }
}

TEST_CASE("with no start-up costs the largest degree is as good as any", "[models][search]") {
  // Communication 2 * 1 s can hide all but the first and last chunk of 10 s of experts.
  const PipelineCost cost{{}, {}, Seconds{1}, {}, Seconds{10}};
  CHECK(choose_degree(cost, 512).degree == 512);
}

TEST_CASE("the choice equals exhaustive search on the study's grid", "[models][search]") {
  for (const int ranks : kClusterSizes) {
    const Cluster cluster = authors_cluster(ranks);
    for (const MoeLayer& layer : study_grid(ranks)) {
      const PipelineCosts costs = closed_form(layer, cluster);
      check_equals_exhaustive(costs.forward, 512);
      check_equals_exhaustive(costs.backward, 512);
    }
  }
}

TEST_CASE("a pass's costs are the authors' model", "[models][search]") {
  // B=8, L=1024, M=H=4096, k=2: n_d = 2*8192*4096*4 bytes, n_e = 2*8192*4096*4096*4 "bytes".
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const Cluster cluster = authors_cluster(64);
  const double n_d = 2.0 * 8192 * 4096 * 4, n_e = n_d * 4096;
  const auto [forward, backward] = closed_form(layer, cluster);
  CHECK(forward.fixed == Seconds{});
  CHECK(forward.all_to_all_startup == Seconds{7.83e-4});
  CHECK(forward.all_to_all_transfer.count() == Approx(3.84e-10 * n_d).epsilon(1e-12));
  CHECK(forward.expert_startup.count() == Approx(2 * 1.5e-4).epsilon(1e-12));
  CHECK(forward.expert_work.count() == Approx(2 * 3.73e-14 * n_e).epsilon(1e-12));
  // Backward computes two gradients: four GEMMs of the same size.
  CHECK(backward.expert_startup.count() == Approx(4 * 1.5e-4).epsilon(1e-12));
  CHECK(backward.expert_work.count() == Approx(4 * 3.73e-14 * n_e).epsilon(1e-12));
}

namespace {

// Equal chunks of `slots` capacity slots each.
Seconds time_of_equal_chunks(PipelineCost cost, std::int64_t degree, double slots,
                             std::int64_t all_slots) {
  const double scale = slots * static_cast<double>(degree) / static_cast<double>(all_slots);
  cost.all_to_all_transfer *= scale;
  cost.expert_work *= scale;
  return pipelined_time(cost, degree);
}

// Chunks differ by at most one slot. A makespan never falls when a task takes longer, so it lies
// between those of equal chunks of the smallest and of the largest size; so does the closed form,
// whose chunks are their mean.
void check_uneven(Seconds time, const PipelineCost& cost, std::int64_t degree, std::int64_t slots) {
  const double smallest = static_cast<double>(slots / degree);
  const Seconds low = time_of_equal_chunks(cost, degree, smallest, slots);
  const Seconds high = time_of_equal_chunks(cost, degree, smallest + 1, slots);
  REQUIRE(time >= low * (1 - 1e-12));
  REQUIRE(time <= high * (1 + 1e-12));
  REQUIRE(std::abs((time - pipelined_time(cost, degree)).count()) <= (high - low).count());
}

void check_against_closed_form(Seconds time, const PipelineCost& cost, std::int64_t degree,
                               const MoeLayer& layer) {
  CAPTURE(layer.tokens_per_rank, layer.model_dim, layer.hidden_dim, layer.num_experts, degree);
  if (layer.slots() % degree != 0) return check_uneven(time, cost, degree, layer.slots());
  REQUIRE(time.count() == Approx(pipelined_time(cost, degree).count()).epsilon(1e-12));
}

// Both passes at one degree, by graph and by formula.
void check_degree(const MoeLayer& layer, const Cluster& cluster, std::int64_t degree) {
  const TaskGraph graph = build_graph("pipemoe", layer, cluster, {degree, degree});
  const PassTimes times = evaluate(Costs(graph, cluster));
  const PipelineCosts costs = closed_form(layer, cluster);
  check_against_closed_form(times.forward, costs.forward, degree, layer);
  check_against_closed_form(times.backward, costs.backward, degree, layer);
}

}  // namespace

TEST_CASE("evaluation equals the closed form for degrees that divide, on the study's grid",
          "[models][search][evaluate]") {
  for (const int ranks : kClusterSizes) {
    const Cluster cluster = authors_cluster(ranks);
    for (const MoeLayer& layer : study_grid(ranks)) {
      for (std::int64_t r = 1; r <= std::min<std::int64_t>(64, layer.slots()); ++r) {
        if (layer.slots() % r == 0) check_degree(layer, cluster, r);
      }
    }
  }
}

TEST_CASE("for other degrees it differs by what the uneven chunks explain",
          "[models][search][evaluate]") {
  std::size_t index = 0;
  for (const int ranks : kClusterSizes) {
    const Cluster cluster = authors_cluster(ranks);
    for (const MoeLayer& layer : study_grid(ranks)) {
      // Every tenth degree of each layer, other ones for the next layer: all appear, quickly.
      const std::int64_t first = 2 + static_cast<std::int64_t>(index++ % 10);
      for (std::int64_t r = first; r <= std::min<std::int64_t>(64, layer.slots()); r += 10) {
        if (layer.slots() % r != 0) check_degree(layer, cluster, r);
      }
    }
  }
}

TEST_CASE("the fewest chunks among degrees within the tolerance are chosen", "[models][search]") {
  using Times = std::array<double, 3>;  // of degrees 1, 2 and 3
  const auto choose = [](const Times& forward, const Times& backward, const Preference& by) {
    std::vector<TimedDegrees> pairs;
    for (std::size_t i = 0; i < 9; ++i) {
      const auto f = static_cast<std::int64_t>(i / 3), b = static_cast<std::int64_t>(i % 3);
      pairs.push_back({{f + 1, b + 1}, Seconds{forward[i / 3] + backward[i % 3]}});
    }
    return choose_degrees(pairs, by);
  };
  const Times forward{10, 8, 7.95}, backward{20, 19.9, 19};
  const Preference fastest, one{.tolerance = 0.01}, four{.tolerance = 0.04};
  CHECK(choose(forward, backward, fastest) == Degrees{3, 3});
  CHECK(choose(forward, backward, one) == Degrees{2, 3});
  CHECK(choose(forward, backward, four) == Degrees{2, 1});
  CHECK(choose(forward, backward, {.equal_degrees = true, .tolerance = 0.01}) == Degrees{3, 3});
  CHECK(choose(forward, backward, {.equal_degrees = true, .tolerance = 0.04}) == Degrees{2, 2});
  // As few chunks either way: the faster.
  const Preference quarter{.tolerance = 0.25};
  CHECK(choose(Times{4, 2, 3}, Times{4, 3, 3}, quarter) == Degrees{2, 1});
  CHECK(choose(Times{4, 3, 3}, Times{4, 2, 3}, quarter) == Degrees{1, 2});
  // Among equals the fewest.
  CHECK(choose(Times{1, 1, 1}, Times{1, 1, 1}, fastest) == Degrees{1, 1});
  CHECK(choose(Times{1, 1, 1}, Times{1, 1, 1}, {.equal_degrees = true}) == Degrees{1, 1});
}

TEST_CASE("unequal degrees are chosen where they gain enough", "[models][search]") {
  const std::vector<TimedDegrees> candidates{
      {{1, 1}, Seconds{10}}, {{2, 2}, Seconds{9}}, {{2, 1}, Seconds{8.8}}};
  CHECK(choose_degrees(candidates, {}) == Degrees{2, 1});
  CHECK(choose_degrees(candidates, {.unequal_gain = 0.02}) == Degrees{2, 1});
  CHECK(choose_degrees(candidates, {.unequal_gain = 0.03}) == Degrees{2, 2});
  // As far from the equal ones that would be chosen, not from the fastest equal ones.
  CHECK(choose_degrees(candidates, {.tolerance = 0.2, .unequal_gain = 0.03}) == Degrees{1, 1});
  CHECK(choose_degrees(candidates, {.equal_degrees = true}) == Degrees{2, 2});
}

// ---- search ----

namespace {

// The same cost as tables of two points: a line again, so every choice must be the same.
Cluster with_tables(Cluster cluster) {
  const auto table_of = [](const auto& fit, double most) {
    const auto& line = *fit.line();
    return TimeTable{{{0.0, line.alpha}, {most, line.alpha + Seconds{line.beta.value * most}}}};
  };
  for (auto& [of, fit] : cluster.collectives) fit.model = table_of(fit, 1e10);
  for (auto& [dtype, fit] : cluster.gemm) fit.model = table_of(fit, 1e14);
  return cluster;
}

Fit<Bytes>& all_to_all_fit(Cluster& cluster) {
  return cluster.collectives.at({CollectiveKind::AllToAll, cluster.all_ranks()});
}

Plan plan_of(const MoeLayer& layer, const Cluster& cluster,
             std::int64_t max_degree = kDefaultMaxDegree, const std::string& schedule = "pipemoe") {
  return search(find_schedule(schedule), layer, cluster, {.max_degree = max_degree});
}
Plan plan_by(const Preference& preference, const MoeLayer& layer, const Cluster& cluster,
             const std::string& schedule) {
  return search(find_schedule(schedule), layer, cluster, preference);
}

PassTimes times_at(const MoeLayer& layer, const Cluster& cluster, Degrees degrees,
                   const std::string& schedule = "pipemoe") {
  const TaskGraph graph = build_graph(schedule, layer, cluster, degrees);
  return evaluate(Costs(graph, cluster));
}

}  // namespace

TEST_CASE("a plan lists every degree and chooses the fastest", "[models][search]") {
  const Plan plan = plan_of(shipped_layer("pipemoe-example"), authors_cluster(64));
  for (const PassPlan* pass : {&plan.forward, &plan.backward}) {
    REQUIRE(pass->by_degree.size() == 32);
    for (std::size_t i = 0; i < pass->by_degree.size(); ++i) {
      CHECK(pass->by_degree[i].degree == static_cast<std::int64_t>(i) + 1);
      CHECK(pass->by_degree[i].time >= pass->choice.time);
    }
  }
  CHECK(plan.iteration() == plan.forward.choice.time + plan.backward.choice.time);
}

TEST_CASE("a plan never offers a degree that the layer cannot have", "[models][search]") {
  // 2 * 512 rows over 64 experts: a capacity of 16.
  const MoeLayer layer{
      .tokens_per_rank = 512, .model_dim = 8, .hidden_dim = 8, .num_experts = 64, .top_k = 2};
  CHECK(plan_of(layer, authors_cluster(64)).forward.by_degree.size() == 16);
  CHECK(plan_of(layer, authors_cluster(64), 5).forward.by_degree.size() == 5);
  CHECK_THROWS_AS(plan_of(layer, authors_cluster(64), 0), InputError);
}

TEST_CASE("a plan from tables of a line equals the plan from the line", "[models][search]") {
  const Cluster lines = authors_cluster(64), tables = with_tables(lines);
  for (const MoeLayer& layer : study_grid(64)) {
    const Plan a = plan_of(layer, lines, 8), b = plan_of(layer, tables, 8);
    REQUIRE(a.closed_form);
    REQUIRE_FALSE(b.closed_form);
    for (const std::int64_t degree : {1, 2, 4, 8}) {  // these divide every capacity of the grid
      const auto at = static_cast<std::size_t>(degree) - 1;
      REQUIRE(b.forward.by_degree[at].time.count() ==
              Approx(a.forward.by_degree[at].time.count()).epsilon(1e-9));
      REQUIRE(b.backward.by_degree[at].time.count() ==
              Approx(a.backward.by_degree[at].time.count()).epsilon(1e-9));
    }
  }
}

TEST_CASE("a plan with fitted expert shapes is closed while those are lines", "[models][search]") {
  Cluster cluster = with_tables(authors_cluster(64));
  cluster.collectives = authors_cluster(64).collectives;  // lines; the products stay tables
  const MoeLayer layer = shipped_layer("pipemoe-example");
  CHECK_FALSE(plan_of(layer, cluster).closed_form);
  for (const ProductKind kind : {ProductKind::Forward, ProductKind::BothGradients}) {
    cluster.experts.push_back(
        {layer.dtype, layer.activation, kind, layer.gemms(kind, 64), line<Flops>(3e-3, 2e-13)});
  }
  const Plan plan = plan_of(layer, cluster);
  REQUIRE(plan.closed_form);
  for (const std::int64_t r : {1, 2, 4, 8, 16, 32}) {  // these divide the 256 slots
    CAPTURE(r);
    const PassTimes times = times_at(layer, cluster, {r, r});
    const auto at = static_cast<std::size_t>(r) - 1;
    CHECK(times.forward.count() == Approx(plan.forward.by_degree[at].time.count()).epsilon(1e-12));
    CHECK(times.backward.count() ==
          Approx(plan.backward.by_degree[at].time.count()).epsilon(1e-12));
  }
  cluster.experts[1].fit.model = TimeTable{{{0, Seconds{1e-3}}, {1e13, Seconds{3}}}};
  CHECK_FALSE(plan_of(layer, cluster).closed_form);
}

TEST_CASE("the closed form replaces only evaluations that it equals", "[models][search]") {
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const Cluster cluster = authors_cluster(64);
  REQUIRE(plan_of(layer, cluster).closed_form);
  CHECK_FALSE(plan_by({.closed_form = false}, layer, cluster, "pipemoe").closed_form);
  CHECK_FALSE(plan_of(layer, cluster, 8, "tutel").closed_form);
  const Plan on_links = search(find_schedule("pipemoe"), layer, cluster, {.max_degree = 8},
                               evaluator_at(NetworkLevel::Links));
  CHECK_FALSE(on_links.closed_form);
  CHECK(on_links.level == NetworkLevel::Links);
  Cluster other = cluster;
  other.contention = Contention{{{1, 1}}, "by hand"};
  CHECK_FALSE(plan_of(layer, other, 8).closed_form);
  other = cluster;
  other.collectives.begin()->second.queued_saving = Seconds{1e-6};
  CHECK_FALSE(plan_of(layer, other, 8).closed_form);
}

TEST_CASE("the closed form equals evaluation for random layers where the degree divides",
          "[models][search][evaluate]") {
  std::mt19937_64 random(18);
  const Cluster cluster = authors_cluster(16);
  int checked = 0;
  for (int i = 0; i < 200; ++i) {
    const MoeLayer layer = random_fp32_layer(random, 16);
    const PipelineCosts costs = closed_form(layer, cluster);
    for (const std::int64_t degree : {2, 3, 5, 8, 12}) {
      if (layer.slots() % degree != 0) continue;
      const PassTimes times = times_at(layer, cluster, {degree, degree});
      CAPTURE(i, degree);
      REQUIRE(times.forward.count() ==
              Approx(pipelined_time(costs.forward, degree).count()).epsilon(1e-12));
      REQUIRE(times.backward.count() ==
              Approx(pipelined_time(costs.backward, degree).count()).epsilon(1e-12));
      ++checked;
    }
  }
  CHECK(checked > 100);
}

TEST_CASE("the breakdown adds up to the pass's time", "[models][search]") {
  for (const MoeLayer& layer : study_grid(64)) {
    const Cluster cluster = authors_cluster(64);
    const Plan plan = plan_of(layer, cluster);
    const PassTimes evaluated = times_at(layer, cluster, plan.degrees());
    for (const PassPlan* pass : {&plan.forward, &plan.backward}) {
      const PassBreakdown& parts = pass->chosen;
      const bool is_forward = pass == &plan.forward;
      // Nothing idles on both queues: compute, and the communication that shows. The closed form
      // takes chunks as equal, which those of a degree that does not divide are not.
      const Seconds sum = parts.compute + parts.communication - parts.hidden;
      const Seconds time = is_forward ? evaluated.forward : evaluated.backward;
      REQUIRE(sum.count() == Approx(time.count()).epsilon(1e-9));
      if (layer.slots() % parts.degree == 0) {
        REQUIRE(sum.count() == Approx(parts.time.count()).epsilon(1e-9));
      }
      REQUIRE(parts.startup > Seconds{});
      REQUIRE(parts.startup < parts.time);
      REQUIRE(pass->next.time >= parts.time);
    }
  }
}

TEST_CASE("the breakdown is that of the schedule's timeline", "[models][search]") {
  const Cluster cluster = authors_cluster(64);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const Plan plan = plan_of(layer, cluster, 2);
  REQUIRE(plan.degrees() == Degrees{2, 2});
  const TaskGraph graph = build_graph("pipemoe", layer, cluster, {2, 2});
  const Timeline timeline = evaluation_at(NetworkLevel::Fitted, Costs(graph, cluster)).timeline;
  const Seconds hidden = plan.forward.chosen.hidden + plan.backward.chosen.hidden;
  const Seconds communication =
      plan.forward.chosen.communication + plan.backward.chosen.communication;
  CHECK(timeline.communication().count() == Approx(communication.count()).epsilon(1e-9));
  CHECK((timeline.communication() - timeline.exposed_communication()).count() ==
        Approx(hidden.count()).epsilon(1e-9));
  CHECK(plan.basis == timeline.basis.value());
  CHECK(plan.notes == timeline.provenance.notes);
}

TEST_CASE("the binding term is the larger branch of the closed form", "[models][search]") {
  using Binding = PassBreakdown::Binding;
  for (const bool contended : {false, true}) {
    Cluster cluster = authors_cluster(64);
    if (contended) cluster.contention = Contention{{{1.4, 1.2}}, "by hand"};
    CAPTURE(contended);
    MoeLayer layer = shipped_layer("pipemoe-example");
    layer.hidden_dim = 256;  // hardly any computation
    CHECK(plan_of(layer, cluster, 2).forward.chosen.binding != Binding::Compute);
    layer.hidden_dim = 65536;  // hardly any communication
    CHECK(plan_of(layer, cluster).forward.chosen.binding == Binding::Compute);
    CHECK(plan_of(layer, cluster, 1).forward.chosen.binding == Binding::Serial);
  }
  CHECK(to_string(Binding::Communication) == "communication");
}

TEST_CASE("with contention a plan compares the graphs", "[models][search][contention]") {
  Cluster cluster = authors_cluster(64);
  cluster.contention = Contention{{{1.4, 1.2}}, "by hand"};
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const Plan plan = plan_of(layer, cluster, 12);
  CHECK_FALSE(plan.closed_form);
  REQUIRE(plan.forward.by_degree.size() == 12);
  for (const std::int64_t r : {1, 2, 7}) {
    const auto at = static_cast<std::size_t>(r) - 1;
    const PassTimes times = times_at(layer, cluster, {r, r});
    CHECK(plan.forward.by_degree[at].time == times.forward);
    CHECK(plan.backward.by_degree[at].time == times.backward);
  }
  // What is around the chunks costs nothing here: something of the chunks always runs.
  for (const PassPlan* pass : {&plan.forward, &plan.backward}) {
    const PassBreakdown& parts = pass->chosen;
    for (const DegreeChoice& one : pass->by_degree) CHECK(one.time >= pass->choice.time);
    CHECK((parts.communication + parts.compute - parts.hidden).count() ==
          Approx(parts.time.count()).epsilon(1e-9));
    CHECK(parts.hidden > Seconds{});
  }
}

TEST_CASE("no degree undercuts the limit, which chunks without start-up reach",
          "[models][search]") {
  std::mt19937_64 random(17);
  for (int i = 0; i < 60; ++i) {
    const MoeLayer layer = random_layer(random, 16);
    Cluster cluster = authors_cluster(16);
    cluster.gemm.emplace(layer.dtype, cluster.gemm.at(Dtype::Fp32));
    const Seconds limit = makespan_limit(layer, cluster);
    const Plan plan = plan_of(layer, cluster);
    CAPTURE(i);
    REQUIRE(plan.iteration() >= limit * (1 - 1e-12));
    all_to_all_fit(cluster).model = AlphaBeta<Bytes>{Seconds{0}, {1e-10}};
    cluster.gemm[layer.dtype].model = AlphaBeta<Flops>{Seconds{0}, {1e-13}};
    const Seconds free_chunks = makespan_limit(layer, cluster);
    const std::int64_t most = std::min<std::int64_t>(layer.slots(), 64);
    // T(r) = max(2t, 2t/r + w): at most 2t/r above the limit in each pass.
    const Seconds transfer = closed_form(layer, cluster).forward.all_to_all_transfer;
    const Seconds off = 2 * (2.0 / static_cast<double>(most)) * transfer;
    const Seconds found = plan_of(layer, cluster, most).iteration();
    REQUIRE(found >= free_chunks * (1 - 1e-12));
    if (most > 1) REQUIRE(found <= free_chunks + off * (1 + 1e-9));
  }
}

TEST_CASE("a plan of deferred weight gradients compares their graphs", "[models][search]") {
  const Cluster cluster = authors_cluster(64);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const Plan plan = plan_of(layer, cluster, 12, "pipemoe-deferred");
  CHECK_FALSE(plan.closed_form);
  for (std::int64_t r = 1; r <= 12; ++r) {
    const PassTimes times = times_at(layer, cluster, {1, r}, "pipemoe-deferred");
    CHECK(plan.backward.by_degree[static_cast<std::size_t>(r) - 1].time.count() ==
          Approx(times.backward.count()).epsilon(1e-12));
    CHECK(plan.backward.choice.time <= times.backward * (1 + 1e-12));
  }
  CHECK(plan.backward.choice.time <= plan_of(layer, cluster, 12).backward.choice.time);
  // One chunk: the weight gradient hides one of the two all-to-alls, or as much as it lasts.
  const PassBreakdown one = plan_of(layer, cluster, 1, "pipemoe-deferred").backward.chosen;
  CHECK(one.hidden > Seconds{});
  CHECK((one.communication + one.compute - one.hidden).count() ==
        Approx(one.time.count()).epsilon(1e-9));
}

TEST_CASE("every schedule can be searched, by its own knobs", "[models][search]") {
  // A capacity of 24 slots.
  const MoeLayer layer{
      .tokens_per_rank = 384, .model_dim = 8, .hidden_dim = 8, .num_experts = 16, .top_k = 1};
  const Cluster cluster = authors_cluster(16);
  const auto degrees = [](const PassPlan& pass) {
    std::vector<std::int64_t> all;
    for (const DegreeChoice& one : pass.by_degree) all.push_back(one.degree);
    return all;
  };
  const std::vector<std::int64_t> one_to_eight{1, 2, 3, 4, 5, 6, 7, 8};
  const std::map<std::string, std::vector<std::int64_t>> expected{
      {"pipemoe", one_to_eight},
      {"pipemoe-deferred", one_to_eight},
      {"sequential", {1}},
      {"fastermoe", {cluster.nodes}},
      {"tutel", {1, 2, 3, 4, 6, 8}}};
  for (const Schedule& schedule : all_schedules()) {
    CAPTURE(schedule.name);
    const Plan plan = search(schedule, layer, cluster, {.max_degree = 8});
    CHECK(plan.schedule == schedule.name);
    CHECK(plan.choice == search_choice(schedule, layer, cluster, {.max_degree = 8}));
    CHECK(plan.iteration() > Seconds{});
    CHECK(degrees(plan.forward) == expected.at(schedule.name));
    CHECK(degrees(plan.backward) == expected.at(schedule.name));
    CHECK(plan.choice.size() == schedule.knobs(layer, cluster, 8).size());
    // The chosen knobs make a graph of the chosen degrees.
    CHECK(degrees_of(build_graph(schedule, layer, cluster, plan.choice)) == plan.degrees());
  }
}

TEST_CASE("a plan leaves out degrees whose chunks nobody measured", "[models][search]") {
  Cluster cluster = authors_cluster(64);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const double bytes = layer.all_to_all_bytes().amount();
  CHECK(plan_of(layer, cluster).forward.by_degree.size() == 32);  // no range: nobody knows
  all_to_all_fit(cluster).range = WorkRange{bytes / 4, bytes};
  const Plan plan = plan_of(layer, cluster);
  CHECK(plan.forward.by_degree.size() == 4);
  CHECK(plan.backward.choice.degree <= 4);
  REQUIRE(plan.not_tried.size() == 1);
  CHECK_THAT(plan.not_tried.front(), Catch::StartsWith("degrees above 4 are left out"));
  all_to_all_fit(cluster).range = WorkRange{bytes * 2, bytes * 4};  // not of this layer at all
  CHECK(plan_of(layer, cluster).forward.by_degree.size() == 32);
}

TEST_CASE("a plan pipelines unless one chunk is best both ways", "[models][search]") {
  Cluster cluster = authors_cluster(64);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  CHECK(plan_of(layer, cluster).pipelines());
  CHECK_FALSE(plan_of(layer, cluster, 1).pipelines());
  all_to_all_fit(cluster).model = AlphaBeta<Bytes>{Seconds{1}, {3.84e-10}};
  CHECK_FALSE(plan_of(layer, cluster).pipelines());
}

TEST_CASE("a plan takes the fewest chunks among times that are not to be told apart",
          "[models][search]") {
  const Cluster cluster = authors_cluster(64);
  std::mt19937_64 random(6);
  int fewer = 0;
  for (int i = 0; i < 100; ++i) {
    const MoeLayer layer = random_fp32_layer(random, 64);
    const std::string schedule = i % 2 == 0 ? "pipemoe" : "pipemoe-deferred";
    Preference preference{.max_degree = 8, .equal_degrees = i % 3 == 0};
    const Plan fastest = plan_by(preference, layer, cluster, schedule);
    preference.tolerance = 0.02;
    const Plan plan = plan_by(preference, layer, cluster, schedule);
    REQUIRE(plan.iteration() <= 1.02 * (1 + 1e-12) * fastest.iteration());
    const auto chunks = [](const Plan& of) {
      return of.degrees().forward_degree + of.degrees().backward_degree;
    };
    REQUIRE(chunks(plan) <= chunks(fastest));
    fewer += chunks(plan) < chunks(fastest);
    REQUIRE(
        plan.forward.choice.time ==
        plan.forward.by_degree[static_cast<std::size_t>(plan.degrees().forward_degree - 1)].time);
  }
  CHECK(fewer > 10);
}

TEST_CASE("a plan keeps to one degree where that is preferred", "[models][search]") {
  const Cluster cluster = authors_cluster(64);
  std::mt19937_64 random(5);
  int unequal = 0;
  for (int i = 0; i < 100; ++i) {
    const MoeLayer layer = random_fp32_layer(random, 64);
    for (const std::string schedule : {"pipemoe", "pipemoe-deferred"}) {
      const Plan free = plan_of(layer, cluster, 8, schedule);
      const Plan kept = plan_by({.max_degree = 8, .equal_degrees = true}, layer, cluster, schedule);
      unequal += free.forward.choice.degree != free.backward.choice.degree;
      REQUIRE(kept.forward.choice.degree == kept.backward.choice.degree);
      for (std::size_t r = 0; r < kept.forward.by_degree.size(); ++r) {
        const Seconds both = kept.forward.by_degree[r].time + kept.backward.by_degree[r].time;
        REQUIRE(kept.iteration() <= both * (1 + 1e-12));
      }
    }
  }
  CHECK(unequal > 10);
}

TEST_CASE("where degrees are preferred, only these are tried", "[models][search]") {
  const Cluster cluster = authors_cluster(64);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const Plan free = plan_of(layer, cluster);
  const auto tried = [&](const std::vector<std::int64_t>& degrees, const std::string& schedule) {
    std::vector<std::int64_t> all;
    const Plan plan = plan_by({.degrees = degrees}, layer, cluster, schedule);
    for (const DegreeChoice& one : plan.forward.by_degree) all.push_back(one.degree);
    CHECK(std::find(degrees.begin(), degrees.end(), plan.degrees().forward_degree) !=
          degrees.end());
    CHECK(std::find(degrees.begin(), degrees.end(), plan.degrees().backward_degree) !=
          degrees.end());
    return all;
  };
  using Some = std::vector<std::int64_t>;
  CHECK(tried({1, 7, 16}, "pipemoe") == Some{1, 7, 16});
  CHECK(tried({4, 8}, "tutel") == Some{4, 8});
  // Those that the layer's 256 slots cannot have in equal parts are left out.
  CHECK(tried({4, 7}, "tutel") == Some{4});
  CHECK_THROWS_WITH(tried({7}, "tutel"),
                    Catch::Contains("none of the degrees 7 is one that schedule tutel can have"));
  // The closed form's own choice, where it is among them, and else the best of them.
  const auto choice = [&](const std::vector<std::int64_t>& degrees) {
    return plan_by({.degrees = degrees}, layer, cluster, "pipemoe").degrees();
  };
  CHECK(choice({1, free.degrees().forward_degree, free.degrees().backward_degree, 32}) ==
        free.degrees());
  CHECK(choice({32}) == Degrees{32, 32});
}

TEST_CASE("the program of the README plans, predicts and writes", "[models][search]") {
  const std::string root = std::string(PIPEMOE_SOURCE_DIR) + "/experiments/";
  const TemporaryDirectory directory;
  ConfigFile file = ConfigFile::load(root + "layers/mixtral.toml", "layer");
  const MoeLayer layer = read_layer(file);
  const Cluster cluster =
      read_cluster(ConfigFile::load(root + "clusters/h200-x2-nccl.toml", "cluster"));
  const Schedule& schedule = find_schedule("pipemoe");
  const Plan plan = search(schedule, layer, cluster);
  const TaskGraph graph = build_graph(schedule, layer, cluster, plan.choice);
  const Costs costs(graph, cluster);
  const Timeline predicted = evaluation_at(NetworkLevel::Links, costs).timeline;
  write_file(directory.path("predicted.json"), to_json(predicted));
  CHECK(timeline_from_json(read_file(directory.path("predicted.json"), "timeline"), "t") ==
        predicted);
  CHECK(predicted.spans.size() == graph.size());
}

}  // namespace pipemoe::search_test
