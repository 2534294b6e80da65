#include "exec/layer_excess.hpp"

#include <catch2/catch.hpp>
#include <vector>

#include "exec/calibration_graph.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;

namespace {

MoeLayer layer() {
  return {.tokens_per_rank = 512, .model_dim = 64, .hidden_dim = 32, .num_experts = 8, .top_k = 2};
}

Fit<Bytes> always(double seconds) {
  Fit<Bytes> fit;
  fit.model = AlphaBeta<Bytes>{Seconds{seconds}, {0}};
  return fit;
}

// A layer of that many tasks, whose makespan a stamp after each lengthened to `stamped`.
LayerMeasurements stamped_layer(double makespan, double stamped) {
  LayerMeasurements measured;
  measured.computations.emplace(MeasuredChunks{1, computations_only(layer(), 4, 1), {}});
  measured.computations->measured.makespans = {Seconds{makespan}};
  measured.computations->measured.disturbance = {Seconds{stamped - makespan}};
  return measured;
}

}  // namespace

TEST_CASE("what one costs is what explains the excess, long wholes least", "[exec][calibrate]") {
  CHECK(cost_of_one({}) == 0);
  CHECK(cost_of_one({{4, 12, 100}, {8, 24, 300}}) == Approx(3));
  CHECK(cost_of_one({{4, -12, 100}}) == Approx(-3));
  // 3 by a whole of 1, 5 by one that is 10 times as long: weights 1 and 1/100.
  CHECK(cost_of_one({{1, 3, 1}, {1, 5, 10}}) == Approx((3 + 5 / 100.0) / (1 + 1 / 100.0)));
}

TEST_CASE("what exchanges take longer in a chain is what its makespan has beyond its parts",
          "[exec][calibrate]") {
  constexpr double kAlone = 5, kQueued = 3, kJoin = 0.5, kComputing = 100;
  ChainParts parts{kComputing, kJoin, always(kAlone), always(kQueued)};
  // In three chunks D E C D E C D E C twice: of 12 exchanges 4 follow another one. Computations
  // wait for 3 dispatches, 3 combines' gradients and the last exchange of each phase.
  const TaskGraph serial = serial_chunks(layer(), 4, 3);
  const double serial_parts = kComputing + 8 * kJoin + 8 * kAlone + 4 * kQueued;
  const Excess alone = handoff_excess(serial, serial_parts + 8 * 0.7, parts, Exchanges::Alone);
  CHECK(alone.count == 8);
  CHECK(alone.whole == Approx(serial_parts + 8 * 0.7));
  CHECK(cost_of_one({alone}) == Approx(0.7));
  // All 12 behind each other, and one computation that waits for the last of them.
  parts.handoff_alone = 0.7;
  const TaskGraph grouped = grouped_chunks(layer(), 4, 3);
  const double grouped_parts = kComputing + kJoin + kAlone + 0.7 + 11 * kQueued;
  const Excess queued = handoff_excess(grouped, grouped_parts - 11 * 0.2, parts, Exchanges::Queued);
  CHECK(queued.count == 11);
  CHECK(cost_of_one({queued}) == Approx(-0.2));
  // In a layer where exchanges take twice as long, that much is no excess.
  parts.in_layer = 2;
  const double slower = kComputing + kJoin + 2 * kAlone + 0.7 + 11 * 2 * kQueued;
  CHECK(cost_of_one({handoff_excess(grouped, slower - 11 * 0.2, parts, Exchanges::Queued)}) ==
        Approx(-0.2));
}

TEST_CASE("exchanges' stamps are what computations' leave of the disturbance",
          "[exec][calibrate]") {
  std::vector<LayerMeasurements> layers(1);
  MeasuredChunks chunks{3, grouped_chunks(layer(), 4, 3), {}};
  const double exchanges = 4 * 3, computations = static_cast<double>(chunks.graph.size()) - 12;
  chunks.measured.makespans = {Seconds{100}};
  chunks.measured.disturbance = {Seconds{0.25 * computations + 0.5 * exchanges}};
  layers.front().grouped.push_back(chunks);
  CHECK(exchange_stamp(layers, {0.25}) == Approx(0.5));
  CHECK(exchange_stamp(layers, {10}) == 0);
}

TEST_CASE("a time stamp costs each layer its own, but no long one far more than the others",
          "[exec][calibrate]") {
  const double tasks = static_cast<double>(computations_only(layer(), 4, 1).size());
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
