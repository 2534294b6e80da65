#include "models/schedules/deferred_order.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

using namespace pipemoe;
using namespace pipemoe::schedules;

namespace {

std::vector<DeferredChunk> equal_chunks(std::size_t count, double exchange, double input_gradient,
                                        double weight_gradient) {
  return {count,
          DeferredChunk{Seconds{exchange}, Seconds{input_gradient}, Seconds{weight_gradient}}};
}

// Every interleaving that keeps each kind in order and a weight gradient after its input gradient.
Seconds best_of_all_orders(const std::vector<DeferredChunk>& chunks) {
  Seconds best{std::numeric_limits<double>::infinity()};
  DeferredOrder order;
  const std::function<void(std::size_t, std::size_t)> extend = [&](std::size_t inputs,
                                                                   std::size_t weights) {
    if (weights == chunks.size()) best = std::min(best, deferred_makespan(chunks, order));
    if (inputs < chunks.size()) {
      order.push_back({inputs, false});
      extend(inputs + 1, weights);
      order.pop_back();
    }
    if (weights < inputs) {
      order.push_back({weights, true});
      extend(inputs, weights + 1);
      order.pop_back();
    }
  };
  extend(0, 0);
  return best;
}

// Durations 0.1 .. 10 s; every second case has equal gradients, as real layers do.
std::vector<DeferredChunk> random_chunks(std::mt19937_64& random, std::size_t count) {
  const auto draw = [&] {
    return std::pow(10.0, std::uniform_real_distribution<double>(-1, 1)(random));
  };
  const double exchange = draw(), input_gradient = draw(), weight_gradient = draw();
  return equal_chunks(count, exchange, input_gradient,
                      random() % 2 ? input_gradient : weight_gradient);
}

}  // namespace

TEST_CASE("weight gradients fill the gaps that communication leaves", "[models][deferred]") {
  // d = 2, g = 1, w = 1, r = 3. Communication: arrivals end at 2, 4, 6, returns at 8, 10, 12.
  // Compute: I0 2-3, W0 3-4, I1 4-5, W1 5-6, I2 6-7, W2 7-8: all hidden, 2rd = 12.
  const auto chunks = equal_chunks(3, 2, 1, 1);
  const DeferredOrder order = deferred_order(chunks);
  const DeferredOrder expected{{0, false}, {0, true}, {1, false}, {1, true}, {2, false}, {2, true}};
  CHECK(order == expected);
  CHECK(deferred_makespan(chunks, order) == Seconds{12});
}

TEST_CASE("weight gradients wait where input gradients are the bottleneck", "[models][deferred]") {
  // d = 1, g = 2, w = 2, r = 2: I0 1-3, I1 3-5, W0 5-7, W1 7-9; returns 3-4 and 5-6. d + r(g+w)
  // = 9.
  const auto chunks = equal_chunks(2, 1, 2, 2);
  const DeferredOrder expected{{0, false}, {1, false}, {0, true}, {1, true}};
  CHECK(deferred_order(chunks) == expected);
  CHECK(deferred_makespan(chunks, expected) == Seconds{9});
  CHECK(deferred_lower_bound(chunks) == Seconds{9});
}

TEST_CASE("the lower bound is each of its three terms", "[models][deferred]") {
  CHECK(deferred_lower_bound(equal_chunks(4, 5, 1, 1)) == Seconds{40});    // 2rd
  CHECK(deferred_lower_bound(equal_chunks(4, 1, 2, 3)) == Seconds{21});    // d + r(g + w)
  CHECK(deferred_lower_bound(equal_chunks(4, 3, 6, 0.5)) == Seconds{30});  // 2d + rg
}

TEST_CASE("no interleaving of equal chunks is better than the chosen order", "[models][deferred]") {
  std::mt19937_64 random(41);
  for (std::size_t count = 1; count <= 7; ++count) {
    const int cases = count <= 5 ? 1000 : 50;
    for (int i = 0; i < cases; ++i) {
      const auto chunks = random_chunks(random, count);
      const Seconds chosen = deferred_makespan(chunks, deferred_order(chunks));
      CAPTURE(count, i);
      REQUIRE(chosen.count() == Approx(best_of_all_orders(chunks).count()).epsilon(1e-12));
    }
  }
}

TEST_CASE("the chosen order meets the lower bound for any number of equal chunks but two",
          "[models][deferred]") {
  std::mt19937_64 random(42);
  int loose_at_two = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::size_t count = 1 + static_cast<std::size_t>(i) % 40;
    const auto chunks = random_chunks(random, count);
    const Seconds chosen = deferred_makespan(chunks, deferred_order(chunks));
    const Seconds bound = deferred_lower_bound(chunks);
    CAPTURE(count, i);
    REQUIRE(chosen >= bound * (1 - 1e-12));
    const bool tight = chosen <= bound * (1 + 1e-12);
    if (count == 2) {
      loose_at_two += !tight;
    } else {
      REQUIRE(tight);
    }
  }
  CHECK(loose_at_two > 0);  // the exception is real: see the header
}
