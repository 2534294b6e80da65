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
