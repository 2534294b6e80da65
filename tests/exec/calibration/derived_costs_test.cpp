#include "exec/calibration/derived_costs.hpp"

#include <catch2/catch.hpp>
#include <vector>

#include "exec/calibration/measured_graphs.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;

namespace {

MoeLayer small_layer() {
  return {.tokens_per_rank = 512, .model_dim = 64, .hidden_dim = 32, .num_experts = 8, .top_k = 2};
}

TaskTimes from_to(double start, double end) { return {Seconds{start}, Seconds{end}}; }

}  // namespace

TEST_CASE("queues are both busy where their tasks overlap", "[exec][contention]") {
  CHECK(both_busy({from_to(1, 3), from_to(4, 6)}, {from_to(2, 5)}) == Seconds{2});
}

TEST_CASE("a slowdown is what explains the time that a queue took", "[exec][contention]") {
  // 4 s of work alone: 2 s apart from the other queue and 6 s beside it, at a third of the speed.
  const auto found = slowdown({Seconds{4}, Seconds{8}, Seconds{6}});
  REQUIRE(found.has_value());
  CHECK(*found == Approx(3));
  CHECK(*slowdown({Seconds{6}, Seconds{6}, Seconds{6}}) == Approx(1));
}

TEST_CASE("queues that hardly met tell no slowdown", "[exec][contention]") {
  CHECK_FALSE(slowdown({Seconds{8}, Seconds{8}, Seconds{0.1}}).has_value());
  // Alone it would have taken less than what it ran apart: no factor says so.
  CHECK_FALSE(slowdown({Seconds{3}, Seconds{8}, Seconds{4}}).has_value());
  // It did almost nothing beside the other: a slowdown of 100 would rest on a difference of 1 %.
  CHECK_FALSE(slowdown({Seconds{4.04}, Seconds{8}, Seconds{4}}).has_value());
  CHECK(slowdown({Seconds{4.4}, Seconds{8}, Seconds{4}}).has_value());
}

namespace {

// Every task takes 1 s alone.
ContentionGraphs graphs_of_ones() {
  ContentionGraphs graphs{{2, experts_then_exchanges(small_layer(), 4, 2), {}},
                          {2, experts_under_exchanges(small_layer(), 4, 2), {}}};
  graphs.alone.measured.iterations.emplace_back(graphs.alone.graph.size(),
                                                TaskTimes{Seconds{0}, Seconds{1}});
  return graphs;
}

// From 10 on, forward experts one behind another, each so long, and the exchanges beside them, each
// so long, together or, where they do not meet, far apart; from 1000 on the same of gradients,
// which take three times as long as forward experts, beside exchanges that take as long as the
// others.
void add_iteration(ContentionGraphs& graphs, double expert, double exchange, bool meet) {
  auto& tasks = graphs.beside.measured.iterations.emplace_back();
  double forward = 10, gradients = 1000;
  double beside_forward = meet ? 10 : 100, beside_gradients = meet ? 1000 : 2000;
  const auto next = [](double& time, double duration) {
    time += duration;
    return TaskTimes{Seconds{time - duration}, Seconds{time}};
  };
  for (const Task& task : graphs.beside.graph.tasks()) {
    const bool backward = task.key.pass == Pass::Backward;
    if (products_of(task.work) != nullptr) {
      tasks.push_back(backward ? next(gradients, 3 * expert) : next(forward, expert));
    } else if (collective_of(task.work) != nullptr) {
      tasks.push_back(next(backward ? beside_forward : beside_gradients, exchange));
    } else {
      tasks.push_back({Seconds{0}, Seconds{5}});  // what comes before does not count
    }
  }
}

}  // namespace

TEST_CASE("contention is what experts and exchanges beside each other take longer than alone",
          "[exec][calibrate]") {
  auto together = graphs_of_ones();
  add_iteration(together, 2, 2, true);
  CHECK(*contention_of(together, Pass::Forward).compute == Approx(2));
  CHECK(*contention_of(together, Pass::Forward).communication == Approx(2));

  auto apart = graphs_of_ones();
  add_iteration(apart, 1, 1, false);
  for (const Pass pass : {Pass::Forward, Pass::Backward}) {
    CHECK_FALSE(contention_of(apart, pass).compute.has_value());
    CHECK_FALSE(contention_of(apart, pass).communication.has_value());
  }

  // Experts take 1.5 each, all of it beside exchanges of 2: these are alone for 1 of their 4.
  auto longer = graphs_of_ones();
  add_iteration(longer, 1.5, 2, true);
  CHECK(*contention_of(longer, Pass::Forward).compute == Approx(1.5));
  CHECK(*contention_of(longer, Pass::Forward).communication == Approx(3));
  CHECK(largest_exchange(longer.beside.graph).count == 512 * 2 * 64 * 4 / 2);
}

TEST_CASE("contention of both gradients is a number of its own", "[exec][calibrate]") {
  // Gradients take 12 seconds, 8 of them beside exchanges. Alone they take 4, less than the 8, so
  // no slowdown explains these times.
  auto graphs = graphs_of_ones();
  add_iteration(graphs, 1, 2, true);
  CHECK_FALSE(contention_of(graphs, Pass::Backward).compute.has_value());
  CHECK(*contention_of(graphs, Pass::Backward).communication == Approx(2));
  // All 6 seconds of the gradients stand beside exchanges of 20.
  auto longer = graphs_of_ones();
  add_iteration(longer, 0.5, 5, true);
  CHECK(*contention_of(longer, Pass::Backward).compute == Approx(1.5));
}

TEST_CASE("one iteration that was disturbed does not change contention", "[exec][calibrate]") {
  auto graphs = graphs_of_ones();
  for (int i = 0; i < 4; ++i) add_iteration(graphs, 2, 2, true);
  add_iteration(graphs, 20, 2, true);
  CHECK(*contention_of(graphs, Pass::Forward).compute == Approx(2));
}

namespace {

Fit<Bytes> always(double seconds) {
  Fit<Bytes> fit;
  fit.model = AlphaBeta<Bytes>{Seconds{seconds}, {0}};
  return fit;
}

// A layer whose makespan grew to `stamped` by a stamp after each task.
LayerMeasurements stamped_layer(double makespan, double stamped) {
  LayerMeasurements measured;
  measured.computations.emplace(MeasuredChunks{1, computations_only(small_layer(), 4, 1), {}});
  measured.computations->measured.makespans = {Seconds{makespan}};
  measured.computations->measured.disturbance = {Seconds{stamped - makespan}};
  return measured;
}

}  // namespace

TEST_CASE("what one costs is what explains the excess, long wholes least", "[exec][calibrate]") {
  CHECK(cost_of_each({}) == 0);
  CHECK(cost_of_each({{4, 12, 100}, {8, 24, 300}}) == Approx(3));
  CHECK(cost_of_each({{4, -12, 100}}) == Approx(-3));
  // 3 by a whole of 1, 5 by one that is 10 times as long: weights 1 and 1/100.
  CHECK(cost_of_each({{1, 3, 1}, {1, 5, 10}}) == Approx((3 + 5 / 100.0) / (1 + 1 / 100.0)));
}

TEST_CASE("what exchanges take longer in a chain is what its makespan has beyond its parts",
          "[exec][calibrate]") {
  constexpr double kAlone = 5, kQueued = 3, kJoin = 0.5, kComputing = 100;
  ChainParts parts{kComputing, kJoin, always(kAlone), always(kQueued)};
  // In three chunks D E C D E C D E C twice: of 12 exchanges 4 follow another one. Computations
  // wait for 3 dispatches, 3 combines' gradients and the last exchange of each pass.
  const TaskGraph serial = serial_chunks(small_layer(), 4, 3);
  const double serial_parts = kComputing + 8 * kJoin + 8 * kAlone + 4 * kQueued;
  const ExtraTime alone = handoff_time(serial, serial_parts + 8 * 0.7, parts, ExchangePlace::Alone);
  CHECK(alone.count == 8);
  CHECK(alone.whole == Approx(serial_parts + 8 * 0.7));
  CHECK(cost_of_each({alone}) == Approx(0.7));
  // All 12 behind each other, and one computation that waits for the last of them.
  parts.handoff_alone = 0.7;
  const TaskGraph grouped = grouped_chunks(small_layer(), 4, 3);
  const double grouped_parts = kComputing + kJoin + kAlone + 0.7 + 11 * kQueued;
  const ExtraTime queued =
      handoff_time(grouped, grouped_parts - 11 * 0.2, parts, ExchangePlace::Queued);
  CHECK(queued.count == 11);
  CHECK(cost_of_each({queued}) == Approx(-0.2));
  // In a layer where exchanges take twice as long, that much is no excess.
  parts.in_layer = 2;
  const double slower = kComputing + kJoin + 2 * kAlone + 0.7 + 11 * 2 * kQueued;
  CHECK(cost_of_each({handoff_time(grouped, slower - 11 * 0.2, parts, ExchangePlace::Queued)}) ==
        Approx(-0.2));
}

TEST_CASE("exchanges' stamps are what computations' leave of the disturbance",
          "[exec][calibrate]") {
  std::vector<LayerMeasurements> layers(1);
  MeasuredChunks chunks{3, grouped_chunks(small_layer(), 4, 3), {}};
  const double exchanges = 4 * 3, computations = static_cast<double>(chunks.graph.size()) - 12;
  chunks.measured.makespans = {Seconds{100}};
  chunks.measured.disturbance = {Seconds{0.25 * computations + 0.5 * exchanges}};
  layers.front().grouped.push_back(chunks);
  CHECK(exchange_stamp(layers, {0.25}) == Approx(0.5));
  CHECK(exchange_stamp(layers, {10}) == 0);
}

TEST_CASE("layers at the power limit compute for long and near the fastest rate",
          "[exec][calibrate]") {
  // Rates of 10, 9, 7 and 10; the last is over at once.
  CHECK(at_power_limit({{1, 10}, {1, 9}, {1, 7}, {0.001, 0.01}}) ==
        std::vector<bool>{true, true, false, false});
}

TEST_CASE("a time stamp costs each layer its own, but no long one far more than the others",
          "[exec][calibrate]") {
  const double tasks = static_cast<double>(computations_only(small_layer(), 4, 1).size());
  std::vector<LayerMeasurements> layers;
  layers.push_back(stamped_layer(100, 100 + 2 * tasks));
  layers.push_back(stamped_layer(100, 100 + 4 * tasks));
  layers.push_back(stamped_layer(1e6, 1e6 + 1000 * tasks));
  layers.push_back(stamped_layer(1e6, 1e6));
  layers.emplace_back();  // not measured
  const std::vector<double> stamps = time_stamps(layers);
  REQUIRE(stamps.size() == 5);
  CHECK(stamps[0] == Approx(2));
  CHECK(stamps[1] == Approx(4));
  CHECK(stamps[2] == Approx(6).epsilon(1e-3));  // twice the mean of the short ones
  CHECK(stamps[3] == 0);
  CHECK(stamps[4] == 0);
}
