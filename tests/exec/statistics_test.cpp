#include "exec/statistics.hpp"

#include <catch2/catch.hpp>

using namespace pipemoe::exec;
using Indices = std::vector<std::size_t>;

TEST_CASE("a summary holds least, median and most", "[exec][statistics]") {
  const Summary odd = summarize({3, 1, 2});
  CHECK(odd.minimum == 1);
  CHECK(odd.median == 2);
  CHECK(odd.maximum == 3);
  CHECK(summarize({4, 1, 3, 2}).median == 2.5);
  const Summary one = summarize({7});
  CHECK(one.minimum == 7);
  CHECK(one.median == 7);
  CHECK(one.maximum == 7);
  CHECK(one.outliers.empty());
}

TEST_CASE("values beyond five median deviations are outliers", "[exec][statistics]") {
  // Median 10.5, deviations 2.5 1.5 0.5 0.5 1.5 7.5: median 1.5, so 7.5 is just within 5 of them.
  CHECK(summarize({8, 9, 10, 11, 12, 18}).outliers.empty());
  // Median 10.5, deviations 2.5 1.5 0.5 0.5 1.5 7.6: median 1.5, limit 7.5.
  CHECK(summarize({8, 9, 10, 11, 12, 18.1}).outliers == Indices{5});
  // Median 9.5, deviations 1.5 0.5 0.5 1.5 2.5 109.5: median 1.5 again, on the other side.
  CHECK(summarize({-100, 8, 9, 10, 11, 12}).outliers == Indices{0});
}

TEST_CASE("a tight series has no outliers within five percent", "[exec][statistics]") {
  // All but one equal: no deviation at the median, so the limit is 5 % of 100.
  CHECK(summarize({100, 100, 100, 100, 104.9}).outliers.empty());
  CHECK(summarize({100, 105.1, 100, 94.9, 100, 100, 100}).outliers == Indices{1, 3});
}

TEST_CASE("the median's index is that of a value that occurs", "[exec][statistics]") {
  CHECK(median_index({5}) == 0);
  CHECK(median_index({3, 1, 2}) == 2);
  CHECK(median_index({4, 1, 3, 2}) == 3);  // the lower of 2 and 3
  CHECK(median_index({2, 1, 2, 2}) == 0);  // the first of equals
}

TEST_CASE("statistics of nothing are refused", "[exec][statistics]") {
  CHECK_THROWS_AS(summarize({}), std::logic_error);
  CHECK_THROWS_AS(median_index({}), std::logic_error);
}
