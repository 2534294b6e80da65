#include "models/plan.hpp"

#include <catch2/catch.hpp>
#include <random>

#include "models/analytic.hpp"
#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;

namespace {

// The same cost as tables of two points: a line again, so every choice must be the same.
Cluster with_tables(Cluster cluster) {
  const auto table_of = [](const auto& fit, double most) {
    const auto& line = *fit.line();
    return TimeTable{{{0.0, line.alpha}, {most, line.alpha + Seconds{line.beta.value * most}}}};
  };
  for (auto& [ranks, fit] : cluster.all_to_all) fit.model = table_of(fit, 1e10);
  for (auto& [dtype, fit] : cluster.gemm) fit.model = table_of(fit, 1e14);
  return cluster;
}

}  // namespace

TEST_CASE("a plan lists every degree and chooses the fastest", "[models][plan]") {
  const Plan plan = make_plan(shipped_layer("pipemoe-example"), authors_cluster(64));
  for (const PhasePlan* phase : {&plan.forward, &plan.backward}) {
    REQUIRE(phase->by_degree.size() == 32);
    for (std::size_t i = 0; i < phase->by_degree.size(); ++i) {
      CHECK(phase->by_degree[i].degree == static_cast<std::int64_t>(i) + 1);
      CHECK(phase->by_degree[i].time >= phase->choice.time);
    }
  }
  CHECK(plan.iteration() == plan.forward.choice.time + plan.backward.choice.time);
}

TEST_CASE("a plan never offers a degree that the layer cannot have", "[models][plan]") {
  // 2 * 512 rows over 64 experts: a capacity of 16.
  const MoeLayer layer{
      .tokens_per_rank = 512, .model_dim = 8, .hidden_dim = 8, .num_experts = 64, .top_k = 2};
  CHECK(make_plan(layer, authors_cluster(64)).forward.by_degree.size() == 16);
  CHECK(make_plan(layer, authors_cluster(64), 5).forward.by_degree.size() == 5);
  CHECK_THROWS_AS(make_plan(layer, authors_cluster(64), 0), InputError);
}

TEST_CASE("a plan from tables of a line equals the plan from the line", "[models][plan]") {
  const Cluster lines = authors_cluster(64), tables = with_tables(lines);
  for (const MoeLayer& layer : study_grid(64)) {
    const Plan a = make_plan(layer, lines, 8), b = make_plan(layer, tables, 8);
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

TEST_CASE("a plan with fitted expert shapes is closed while those are lines", "[models][plan]") {
  Cluster cluster = with_tables(authors_cluster(64));
  cluster.all_to_all = authors_cluster(64).all_to_all;  // lines; the products stay tables
  const MoeLayer layer = shipped_layer("pipemoe-example");
  CHECK_FALSE(make_plan(layer, cluster).closed_form);
  for (const Pass pass : {Pass::Forward, Pass::Backward}) {
    ExpertFit fit{layer.dtype, layer.activation, pass, layer.gemms(pass, 0, 64), {}};
    fit.fit.model = AlphaBeta<Flops>{Seconds{3e-3}, {2e-13}};
    cluster.experts.push_back(fit);
  }
  const Plan plan = make_plan(layer, cluster);
  REQUIRE(plan.closed_form);
  const CostModel cost(cluster);
  for (const std::int64_t r : {1, 2, 4, 8, 16, 32}) {  // these divide the 256 slots
    CAPTURE(r);
    const PhaseTimes times = analytic_times(schedule("pipemoe", layer, cluster, {r, r}), cost);
    const auto at = static_cast<std::size_t>(r) - 1;
    CHECK(times.forward.count() == Approx(plan.forward.by_degree[at].time.count()).epsilon(1e-12));
    CHECK(times.backward.count() ==
          Approx(plan.backward.by_degree[at].time.count()).epsilon(1e-12));
  }
  cluster.experts[1].fit.model = TimeTable{{{0, Seconds{1e-3}}, {1e13, Seconds{3}}}};
  CHECK_FALSE(make_plan(layer, cluster).closed_form);
}

TEST_CASE("the breakdown adds up to the phase's time", "[models][plan]") {
  for (const MoeLayer& layer : study_grid(64)) {
    const Plan plan = make_plan(layer, authors_cluster(64));
    for (const PhasePlan* phase : {&plan.forward, &plan.backward}) {
      const PhaseBreakdown& parts = phase->chosen;
      // Nothing idles on both streams: compute, and the communication that shows.
      const Seconds sum = parts.compute + parts.communication - parts.hidden;
      REQUIRE(sum.count() == Approx(parts.time.count()).epsilon(1e-9));
      REQUIRE(parts.startup > Seconds{});
      REQUIRE(parts.startup < parts.time);
      REQUIRE(phase->next.time >= parts.time);
    }
  }
}

TEST_CASE("the breakdown agrees with the schedule's timeline", "[models][plan]") {
  const Cluster cluster = authors_cluster(64);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  // Degree 2 divides the 256 slots: the chunks are equal, as in the closed form.
  const Plan plan = make_plan(layer, cluster, 2);
  REQUIRE(plan.forward.choice.degree == 2);
  const Timeline timeline = analytic_timeline(schedule("pipemoe", layer, cluster, {2, 2}), cluster);
  const Seconds hidden = plan.forward.chosen.hidden + plan.backward.chosen.hidden;
  const Seconds communication =
      plan.forward.chosen.communication + plan.backward.chosen.communication;
  CHECK(timeline.communication().count() == Approx(communication.count()).epsilon(1e-9));
  CHECK((timeline.communication() - timeline.exposed_communication()).count() ==
        Approx(hidden.count()).epsilon(1e-9));
}

TEST_CASE("the binding term is the larger branch of the closed form", "[models][plan]") {
  using Binding = PhaseBreakdown::Binding;
  const Cluster cluster = authors_cluster(64);
  MoeLayer layer = shipped_layer("pipemoe-example");
  layer.hidden_dim = 256;  // hardly any computation
  CHECK(make_plan(layer, cluster).forward.chosen.binding != Binding::Compute);
  layer.hidden_dim = 65536;  // hardly any communication
  CHECK(make_plan(layer, cluster).forward.chosen.binding == Binding::Compute);
  CHECK(make_plan(layer, cluster, 1).forward.chosen.binding == Binding::Serial);
}

TEST_CASE("no degree undercuts the limit, which chunks without start-up reach", "[models][plan]") {
  std::mt19937_64 random(17);
  for (int i = 0; i < 200; ++i) {
    const MoeLayer layer = random_layer(random, 16);
    Cluster cluster = authors_cluster(16);
    cluster.gemm.emplace(layer.dtype, cluster.gemm_fit(Dtype::Fp32));
    const Seconds limit = makespan_limit(layer, cluster);
    const Plan plan = make_plan(layer, cluster);
    CAPTURE(i);
    REQUIRE(plan.iteration() >= limit * (1 - 1e-12));
    cluster.all_to_all[16].model = AlphaBeta<Bytes>{Seconds{0}, {1e-10}};
    cluster.gemm[layer.dtype].model = AlphaBeta<Flops>{Seconds{0}, {1e-13}};
    const Seconds free_chunks = makespan_limit(layer, cluster);
    const std::int64_t most = std::min<std::int64_t>(layer.slots(), 512);
    // T(r) = max(2t, 2t/r + w): at most 2t/r above the limit in each phase.
    const Seconds exchanges = pipeline_cost(layer, cluster, Phase::Forward).all_to_all_transfer;
    const Seconds off = 2 * (2.0 / static_cast<double>(most)) * exchanges;
    REQUIRE(make_plan(layer, cluster, most).iteration() >= free_chunks * (1 - 1e-12));
    if (most > 1) {
      REQUIRE(make_plan(layer, cluster, most).iteration() <= free_chunks + off * (1 + 1e-9));
    }
  }
}

TEST_CASE("a plan of deferred weight gradients compares their graphs", "[models][plan]") {
  const Cluster cluster = authors_cluster(64);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const Plan plan = make_plan(layer, cluster, 12, "pipemoe-deferred");
  CHECK_FALSE(plan.closed_form);
  CHECK(plan.backward.choice.degree == choose_deferred_degree(layer, cluster, 12).degree);
  CHECK(plan.backward.choice.time <= make_plan(layer, cluster, 12).backward.choice.time);
  // One chunk: the weight gradient hides one of the two exchanges, or as much as it lasts.
  const PhaseBreakdown one = make_plan(layer, cluster, 1, "pipemoe-deferred").backward.chosen;
  CHECK(one.hidden > Seconds{});
  CHECK((one.communication + one.compute - one.hidden).count() ==
        Approx(one.time.count()).epsilon(1e-9));
  CHECK_THROWS_WITH(make_plan(layer, cluster, 12, "tutel"),
                    "schedule is tutel: plan chooses the degrees of pipemoe and of "
                    "pipemoe-deferred");
}

TEST_CASE("a plan leaves out degrees whose chunks nobody measured", "[models][plan]") {
  Cluster cluster = authors_cluster(64);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const double bytes = layer.all_to_all_bytes().amount();
  CHECK(make_plan(layer, cluster).forward.by_degree.size() == 32);  // no range: nobody knows
  cluster.all_to_all[64].range = WorkRange{bytes / 4, bytes};
  const Plan plan = make_plan(layer, cluster);
  CHECK(plan.forward.by_degree.size() == 4);
  CHECK(plan.backward.choice.degree <= 4);
  REQUIRE(plan.not_tried.size() == 1);
  CHECK_THAT(plan.not_tried.front(), Catch::StartsWith("degrees above 4 are left out"));
  cluster.all_to_all[64].range = WorkRange{bytes * 2, bytes * 4};  // not of this layer at all
  CHECK(make_plan(layer, cluster).forward.by_degree.size() == 32);
}

TEST_CASE("a plan pipelines unless one chunk is best both ways", "[models][plan]") {
  Cluster cluster = authors_cluster(64);
  const MoeLayer layer = shipped_layer("pipemoe-example");
  CHECK(make_plan(layer, cluster).pipelines());
  CHECK_FALSE(make_plan(layer, cluster, 1).pipelines());
  cluster.all_to_all[64].model = AlphaBeta<Bytes>{Seconds{1}, {3.84e-10}};
  CHECK_FALSE(make_plan(layer, cluster).pipelines());
}

TEST_CASE("a plan takes the fewest chunks among times that the profile does not tell apart",
          "[models][plan]") {
  Cluster cluster = authors_cluster(64);
  std::mt19937_64 random(6);
  int fewer = 0;
  for (int i = 0; i < 100; ++i) {
    MoeLayer layer = random_layer(random, 64);
    layer.dtype = Dtype::Fp32;
    const std::string schedule_name = i % 2 == 0 ? "pipemoe" : "pipemoe-deferred";
    cluster.degrees.equal = i % 3 == 0;
    cluster.degrees.tolerance = 0;
    const Plan fastest = make_plan(layer, cluster, 8, schedule_name);
    cluster.degrees.tolerance = 0.02;
    const Plan plan = make_plan(layer, cluster, 8, schedule_name);
    REQUIRE(plan.iteration() <= 1.02 * (1 + 1e-12) * fastest.iteration());
    const auto chunks = [](const Plan& of) {
      return of.degrees().forward_degree + of.degrees().backward_degree;
    };
    REQUIRE(chunks(plan) <= chunks(fastest));
    fewer += chunks(plan) < chunks(fastest);
    REQUIRE(
        plan.forward.choice.time ==
        plan.forward.by_degree[static_cast<std::size_t>(plan.degrees().forward_degree - 1)].time);
    CHECK_THAT(plan.notes.back(), Catch::Contains("within 2 % of the fastest"));
  }
  CHECK(fewer > 10);
}

TEST_CASE("a plan says what its exchanges are limited to", "[models][plan]") {
  Cluster cluster = authors_cluster(64);
  const MoeLayer layer{
      .tokens_per_rank = 256, .model_dim = 64, .hidden_dim = 64, .num_experts = 64, .top_k = 1};
  const std::size_t others = make_plan(layer, cluster, 4).notes.size();
  cluster.exchange_ctas = 24;
  const Plan plan = make_plan(layer, cluster, 4);
  REQUIRE(plan.notes.size() == others + 1);
  CHECK_THAT(plan.notes.back(), Catch::Contains("limited to 24 multiprocessors"));
}

TEST_CASE("a plan keeps to one degree where the profile wants it", "[models][plan]") {
  Cluster cluster = authors_cluster(64);
  std::mt19937_64 random(5);
  int unequal = 0;
  for (int i = 0; i < 100; ++i) {
    MoeLayer layer = random_layer(random, 64);
    layer.dtype = Dtype::Fp32;  // the fit that the authors have
    for (const std::string schedule_name : {"pipemoe", "pipemoe-deferred"}) {
      cluster.degrees.equal = false;
      const Plan free = make_plan(layer, cluster, 8, schedule_name);
      cluster.degrees.equal = true;
      const Plan kept = make_plan(layer, cluster, 8, schedule_name);
      unequal += free.forward.choice.degree != free.backward.choice.degree;
      REQUIRE(kept.forward.choice.degree == kept.backward.choice.degree);
      for (std::size_t r = 0; r < kept.forward.by_degree.size(); ++r) {
        const Seconds both = kept.forward.by_degree[r].time + kept.backward.by_degree[r].time;
        REQUIRE(kept.iteration() <= both * (1 + 1e-12));
      }
      CHECK_THAT(kept.not_tried.front(), Catch::StartsWith("unequal degrees are left out"));
    }
  }
  CHECK(unequal > 10);
}
