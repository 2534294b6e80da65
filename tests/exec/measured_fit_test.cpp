#include "exec/measured_fit.hpp"

#include <catch2/catch.hpp>

using namespace pipemoe;
using namespace pipemoe::exec;

TEST_CASE("points of a line are that line", "[exec][calibrate]") {
  const MeasuredFit fit = fit_points({{300, 35}, {100, 15}, {200, 25}});
  CHECK(fit.alpha_s == Approx(5));
  CHECK(fit.beta_s_per_unit == Approx(0.1));
  CHECK(fit.largest_relative_error == Approx(0).margin(1e-12));
  CHECK(choose_model<Bytes>(fit, 0.01, "test").line() != nullptr);
}

TEST_CASE("points off every line are a table that does not fall", "[exec][calibrate]") {
  const MeasuredFit fit = fit_points({{100, 10}, {200, 30}, {300, 20}, {400, 90}});
  CHECK(choose_model<Bytes>(fit, 0.01, "test").line() == nullptr);
  CHECK(fit.table.points ==
        decltype(fit.table.points){
            {100, Seconds{10}}, {200, Seconds{25}}, {300, Seconds{25}}, {400, Seconds{90}}});
}

TEST_CASE("what one costs is what explains the excess, long wholes least", "[exec][calibrate]") {
  CHECK(cost_of_one({}) == 0);
  CHECK(cost_of_one({{4, 12, 100}, {8, 24, 300}}) == Approx(3));
  CHECK(cost_of_one({{4, -12, 100}}) == Approx(-3));
  // 3 by a whole of 1, 5 by one that is 10 times as long: weights 1 and 1/100.
  CHECK(cost_of_one({{1, 3, 1}, {1, 5, 10}}) == Approx((3 + 5 / 100.0) / (1 + 1 / 100.0)));
}
