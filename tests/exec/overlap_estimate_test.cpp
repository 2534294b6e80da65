#include "exec/overlap_estimate.hpp"

#include <catch2/catch.hpp>

using namespace pipemoe;
using namespace pipemoe::exec;

namespace {

TaskTimes from_to(double start, double end) { return {Seconds{start}, Seconds{end}}; }

std::vector<SlowdownPoint> points(std::int64_t bytes, std::vector<double> factors) {
  std::vector<SlowdownPoint> all;
  for (const double factor : factors) all.push_back({{bytes}, factor});
  return all;
}

}  // namespace

TEST_CASE("streams are both busy where their tasks overlap", "[exec][overlap]") {
  const StreamTimes experts{{from_to(1, 3), from_to(4, 6)}, Seconds{4}};
  const StreamTimes exchanges{{from_to(2, 5)}, Seconds{3}};
  CHECK(both_busy(experts, exchanges) == Seconds{2});
}

TEST_CASE("a slowdown is what explains the time that a stream took", "[exec][overlap]") {
  // 4 s of work alone: 2 s apart from the other stream and 6 s beside it, at a third of the speed.
  const StreamTimes experts{{from_to(0, 8)}, Seconds{4}};
  const StreamTimes exchanges{{from_to(2, 8)}, Seconds{6}};
  REQUIRE(slowdown(experts, exchanges).has_value());
  CHECK(*slowdown(experts, exchanges) == Approx(3));
  CHECK(*slowdown(exchanges, experts) == Approx(1));
}

TEST_CASE("streams that hardly met tell no slowdown", "[exec][overlap]") {
  const StreamTimes experts{{from_to(0, 8)}, Seconds{8}};
  CHECK_FALSE(slowdown(experts, {{from_to(7.5, 9)}, Seconds{1.5}}).has_value());
  // Alone it would have taken less than what it ran apart: no factor says so.
  CHECK_FALSE(slowdown({{from_to(0, 8)}, Seconds{3}}, {{from_to(4, 8)}, Seconds{4}}).has_value());
}

TEST_CASE("few points are one slowdown, their median, not below 1", "[exec][overlap]") {
  CHECK(slowdown_by_bytes(points(1000, {1.5, 1.2, 1.3}), 6) == Slowdown(1.3));
  CHECK(slowdown_by_bytes(points(1000, {0.9}), 6) == Slowdown(1));
}

TEST_CASE("many points are medians of those of similar bytes", "[exec][overlap]") {
  auto all = points(1 << 20, {1.1, 1.2, 1.2, 1.2, 9, 1.3});
  const auto more = points(1 << 24, {2, 2, 2, 2, 2, 0.5});
  all.insert(all.begin(), more.begin(), more.end());
  const Slowdown found = slowdown_by_bytes(all, 6);
  CHECK(found.at({1 << 20}) == Approx(1.2));
  CHECK(found.at({1 << 24}) == Approx(2));
  CHECK(found.at({1 << 22}) == Approx(1.6));  // half way in the logarithm
  CHECK(slowdown_by_bytes(points(64, std::vector<double>(12, 1.5)), 6) == Slowdown(1.5));
}

TEST_CASE("two ranks' points of two sizes are two points", "[exec][overlap]") {
  auto all = points(1 << 20, {1.5, 1.7});
  const auto more = points(1 << 24, {1.1, 1.3});
  all.insert(all.end(), more.begin(), more.end());
  const Slowdown found = slowdown_by_bytes(all, 2);
  REQUIRE(found.points().size() == 2);
  CHECK(found.at({1 << 20}) == Approx(1.6));
  CHECK(found.at({1 << 24}) == Approx(1.2));
}
