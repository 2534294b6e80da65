#include "exec/calibration_rows.hpp"

#include <catch2/catch.hpp>

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
