#include "exec/calibration/measurements.hpp"

#include <catch2/catch.hpp>

#include "exec/calibration/profile.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;

TEST_CASE("a recorded series is its median, and its row has the rest", "[exec][calibrate]") {
  std::vector<CalibrationRow> rows;
  const MeasuredPoint point = record({"gate", "one", 2, 64, "byte"}, {3, 1, 2, 2, 9}, rows);
  CHECK(point.amount == 64);
  CHECK(point.seconds == 2);
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].operation == "gate");
  CHECK(rows[0].repeats == 5);
  CHECK(rows[0].minimum_s == 1);
  CHECK(rows[0].maximum_s == 9);
  CHECK(rows[0].outliers == 1);
}

TEST_CASE("the note of outliers names the series with the worst one", "[exec][calibrate]") {
  std::vector<CalibrationRow> rows;
  record({"gate", "one", 2, 64, "byte"}, {2, 2, 2}, rows);
  CHECK_FALSE(outliers_note(rows).has_value());
  record({"permute", "two", 2, 64, "byte"}, {2, 2, 2, 2, 9}, rows);
  record({"expert", "three", 2, 64, "flop"}, {1, 1, 1, 1, 7}, rows);
  const auto note = outliers_note(rows);
  REQUIRE(note.has_value());
  CHECK_THAT(*note, Catch::StartsWith("2 of 3 series") && Catch::Contains("three expert") &&
                        Catch::Contains("7.0 times"));
}

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
