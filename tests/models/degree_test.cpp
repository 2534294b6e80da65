#include "models/degree.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "models/analytic.hpp"
#include "models/schedule.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;

namespace {

constexpr std::array<int, 3> kClusterSizes{16, 32, 64};

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

TEST_CASE("the degree's time is the closed form", "[models][degree]") {
  // d(r) = 1 + 4/r, e(r) = 0.5 + 6/r, nothing fixed.
  const PipelineCost cost{{}, Seconds{1}, Seconds{4}, Seconds{0.5}, Seconds{6}};
  CHECK(pipelined_time(cost, 1) == Seconds{2 * 5 + 6.5});
  // r = 2: max(2*2*3, 2*3 + 2*3.5) = max(12, 13).
  CHECK(pipelined_time(cost, 2) == Seconds{13});
  // r = 4: max(2*4*2, 2*2 + 4*2) = max(16, 12).
  CHECK(pipelined_time(cost, 4) == Seconds{16});
}

TEST_CASE("what does not pipeline is added to every degree", "[models][degree]") {
  const PipelineCost cost{Seconds{100}, Seconds{1}, Seconds{4}, Seconds{0.5}, Seconds{6}};
  CHECK(pipelined_time(cost, 1) == Seconds{116.5});
  CHECK(pipelined_time(cost, 2) == Seconds{113});
}

TEST_CASE("the choice equals exhaustive search in 100,000 random cost models", "[models][degree]") {
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

TEST_CASE("the choice equals exhaustive search under any limit", "[models][degree]") {
  std::mt19937_64 random(20232);
  for (int i = 0; i < 20'000; ++i) check_equals_exhaustive(random_cost(random), 1 + i % 70);
}

TEST_CASE("the choice is as fast as exhaustive search where start-ups or work are zero",
          "[models][degree]") {
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

TEST_CASE("with no start-up costs the largest degree is as good as any", "[models][degree]") {
  // Communication 2 * 1 s can hide all but the first and last chunk of 10 s of experts.
  const PipelineCost cost{{}, {}, Seconds{1}, {}, Seconds{10}};
  CHECK(choose_degree(cost, 512).degree == 512);
}

TEST_CASE("the choice equals exhaustive search on the study's grid", "[models][degree]") {
  for (const int ranks : kClusterSizes) {
    const Cluster cluster = authors_cluster(ranks);
    for (const MoeLayer& layer : study_grid(ranks)) {
      for (const Phase phase : {Phase::Forward, Phase::Backward}) {
        check_equals_exhaustive(pipeline_cost(layer, cluster, phase), 512);
      }
    }
  }
}

TEST_CASE("a phase's costs are the authors' model", "[models][degree]") {
  // B=8, L=1024, M=H=4096, k=2: n_d = 2*8192*4096*4 bytes, n_e = 2*8192*4096*4096*4 "bytes".
  const MoeLayer layer = shipped_layer("pipemoe-example");
  const Cluster cluster = authors_cluster(64);
  const double n_d = 2.0 * 8192 * 4096 * 4, n_e = n_d * 4096;
  const PipelineCost forward = pipeline_cost(layer, cluster, Phase::Forward);
  CHECK(forward.fixed == Seconds{});
  CHECK(forward.all_to_all_startup == Seconds{7.83e-4});
  CHECK(forward.all_to_all_transfer.count() == Approx(3.84e-10 * n_d).epsilon(1e-12));
  CHECK(forward.expert_startup.count() == Approx(2 * 1.5e-4).epsilon(1e-12));
  CHECK(forward.expert_work.count() == Approx(2 * 3.73e-14 * n_e).epsilon(1e-12));
  // Backward computes two gradients: four GEMMs of the same size.
  const PipelineCost backward = pipeline_cost(layer, cluster, Phase::Backward);
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
  REQUIRE(time.count() == Approx(pipelined_time(cost, degree).count()).epsilon(1e-9));
}

}  // namespace

namespace {

// Both phases at one degree, by graph and by formula.
void check_degree(const MoeLayer& layer, const Cluster& cluster, const CostModel& cost,
                  std::int64_t degree) {
  const PhaseTimes times =
      analytic_times(schedule("pipemoe", layer, cluster, {degree, degree}), cost);
  check_against_closed_form(times.forward, pipeline_cost(layer, cluster, Phase::Forward), degree,
                            layer);
  check_against_closed_form(times.backward, pipeline_cost(layer, cluster, Phase::Backward), degree,
                            layer);
}

}  // namespace

TEST_CASE(
    "the analytic schedule equals the closed form for degrees that divide, on the study's grid",
    "[models][degree][analytic]") {
  for (const int ranks : kClusterSizes) {
    const Cluster cluster = authors_cluster(ranks);
    const CostModel cost(cluster);
    for (const MoeLayer& layer : study_grid(ranks)) {
      for (std::int64_t r = 1; r <= std::min<std::int64_t>(64, layer.slots()); ++r) {
        if (layer.slots() % r == 0) check_degree(layer, cluster, cost, r);
      }
    }
  }
}

TEST_CASE("for other degrees it differs by what the uneven chunks explain",
          "[models][degree][analytic]") {
  std::size_t index = 0;
  for (const int ranks : kClusterSizes) {
    const Cluster cluster = authors_cluster(ranks);
    const CostModel cost(cluster);
    for (const MoeLayer& layer : study_grid(ranks)) {
      // Every fourth degree of each layer, another fourth for the next layer: all appear, quickly.
      const std::int64_t first = 2 + static_cast<std::int64_t>(index++ % 4);
      for (std::int64_t r = first; r <= std::min<std::int64_t>(64, layer.slots()); r += 4) {
        if (layer.slots() % r != 0) check_degree(layer, cluster, cost, r);
      }
    }
  }
}

TEST_CASE("of pairs of degrees those of the fewest chunks within a tolerance are chosen",
          "[models][degree]") {
  const auto times = [](double one, double two, double three) {
    return std::vector<DegreeChoice>{{1, Seconds{one}}, {2, Seconds{two}}, {3, Seconds{three}}};
  };
  const auto forward = times(10, 8, 7.95), backward = times(20, 19.9, 19);
  const DegreeRule fastest, one{.tolerance = 0.01}, four{.tolerance = 0.04};
  CHECK(choose_degrees(forward, backward, fastest) == Degrees{3, 3});
  CHECK(choose_degrees(forward, backward, one) == Degrees{2, 3});
  CHECK(choose_degrees(forward, backward, four) == Degrees{2, 1});
  CHECK(choose_degrees(forward, backward, {.equal = true, .tolerance = 0.01}) == Degrees{3, 3});
  CHECK(choose_degrees(forward, backward, {.equal = true, .tolerance = 0.04}) == Degrees{2, 2});
  // As few chunks either way: the faster.
  const DegreeRule quarter{.tolerance = 0.25};
  CHECK(choose_degrees(times(4, 2, 3), times(4, 3, 3), quarter) == Degrees{2, 1});
  CHECK(choose_degrees(times(4, 3, 3), times(4, 2, 3), quarter) == Degrees{1, 2});
  // Among equals the fewest.
  CHECK(choose_degrees(times(1, 1, 1), times(1, 1, 1), fastest) == Degrees{1, 1});
  CHECK(choose_degrees(times(1, 1, 1), times(1, 1, 1), {.equal = true}) == Degrees{1, 1});
}

TEST_CASE("unequal degrees are chosen where they gain enough", "[models][degree]") {
  const std::vector<TimedDegrees> candidates{
      {{1, 1}, Seconds{10}}, {{2, 2}, Seconds{9}}, {{2, 1}, Seconds{8.8}}};
  CHECK(choose_degrees(candidates, {}) == Degrees{2, 1});
  CHECK(choose_degrees(candidates, {.unequal_gain = 0.02}) == Degrees{2, 1});
  CHECK(choose_degrees(candidates, {.unequal_gain = 0.03}) == Degrees{2, 2});
  // As far from the equal ones that would be chosen, not from the fastest equal ones.
  CHECK(choose_degrees(candidates, {.tolerance = 0.2, .unequal_gain = 0.03}) == Degrees{1, 1});
  CHECK(choose_degrees(candidates, {.equal = true}) == Degrees{2, 2});
}
