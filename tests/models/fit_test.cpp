#include "models/fit.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <random>

#include "models/error.hpp"

namespace pipemoe::fit_test {

using Catch::Matchers::StartsWith;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Flat at 2 s below 10, then 0.1 s and 0.05 s a unit.
TimeTable bent_table() { return {{{10, Seconds{2}}, {20, Seconds{3}}, {40, Seconds{4}}}}; }

}  // namespace

TEST_CASE("least squares recover an exact line", "[models][fit]") {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> magnitude(-12, -2), amount(0, 1e9);
  for (int i = 0; i < 200; ++i) {
    const double alpha = std::pow(10, magnitude(random)), beta = std::pow(10, magnitude(random));
    CAPTURE(i, alpha, beta);
    std::vector<double> amounts, seconds;
    for (int point = 0; point < 10; ++point) {
      amounts.push_back(amount(random));
      seconds.push_back(alpha + beta * amounts.back());
    }
    const LineFit fit = fit_line(amounts, seconds);
    REQUIRE(fit.beta_s_per_unit == Approx(beta).epsilon(1e-12));
    // alpha is the small difference of two numbers of this size.
    REQUIRE(std::abs(fit.alpha_s - alpha) <= 1e-13 * beta * 1e9 + 1e-12 * alpha);
    REQUIRE(fit.r_squared == Approx(1).epsilon(1e-12));
  }
}

TEST_CASE("a fit reports r squared and residuals", "[models][fit]") {
  // Means 2.5 and 4. sxx = 5, sxy = 1.5*2 + 0.5*1 + 0.5*0 + 1.5*3 = 8, syy = 4 + 1 + 0 + 9 = 14.
  // beta = 1.6, alpha = 0; fitted 1.6 3.2 4.8 6.4; residuals squared .16 + .04 + .64 + .36 = 1.2.
  const LineFit fit = fit_line({1, 2, 3, 4}, {2, 3, 4, 7});
  CHECK(fit.beta_s_per_unit == Approx(1.6).epsilon(1e-12));
  CHECK(fit.alpha_s == Approx(0).margin(1e-12));
  CHECK(fit.r_squared == Approx(1 - 1.2 / 14).epsilon(1e-12));
  const std::vector<double> residuals{0.4, -0.2, -0.8, 0.6};
  REQUIRE(fit.residuals_s.size() == residuals.size());
  for (std::size_t i = 0; i < residuals.size(); ++i) {
    CAPTURE(i);
    CHECK(fit.residuals_s[i] == Approx(residuals[i]).epsilon(1e-12));
  }
}

TEST_CASE("residuals keep the order of the points", "[models][fit]") {
  // Amounts 3 1 2, times 1 0 2: means 2 and 1, sxx = 2, sxy = 1*0 + (-1)(-1) + 0*1 = 1, syy = 2.
  // beta = 1/2, alpha = 0; residuals 1 - 1.5, 0 - 0.5, 2 - 1; r squared 1 - 1.5/2.
  const LineFit fit = fit_line({3, 1, 2}, {1, 0, 2});
  CHECK(fit.residuals_s == std::vector<double>{-0.5, -0.5, 1});
  CHECK(fit.r_squared == 0.25);
}

TEST_CASE("equal times are a flat line that explains everything", "[models][fit]") {
  const LineFit fit = fit_line({1, 2, 4}, {3, 3, 3});
  CHECK(fit.alpha_s == 3);
  CHECK(fit.beta_s_per_unit == 0);
  CHECK(fit.r_squared == 1);
}

TEST_CASE("a fit refuses points that determine no line", "[models][fit]") {
  CHECK_THROWS_AS(fit_line({}, {}), InputError);
  CHECK_THROWS_AS(fit_line({1}, {1}), InputError);
  CHECK_THROWS_AS(fit_line({5, 5, 5}, {1, 2, 3}), InputError);
  CHECK_THROWS_AS(fit_line({1, 2}, {1}), InputError);
  CHECK_THROWS_AS(fit_line({1, kNan}, {1, 2}), InputError);
  CHECK_THROWS_AS(fit_line({1, 2}, {1, kNan}), InputError);
  CHECK_THROWS_AS(fit_line({1, kInfinity}, {1, 2}), InputError);
  CHECK_THROWS_AS(fit_line({1, 2}, {-kInfinity, 2}), InputError);
}

TEST_CASE("a fit refuses equal amounts whose mean rounds", "[models][fit]") {
  // 0.1 + 0.1 + 0.1 is 0.30000000000000004, so that the mean is not 0.1: centred sums are tiny, not
  // zero, and would make a slope out of rounding noise.
  CHECK_THROWS_AS(fit_line({0.1, 0.1, 0.1}, {1, 2, 3}), InputError);
}

TEST_CASE("a table is flat before its first point", "[models][fit]") {
  const TimeTable table = bent_table();
  CHECK(table(0) == Seconds{2});
  CHECK(table(9.999) == Seconds{2});
}

TEST_CASE("a table meets its points and interpolates between them", "[models][fit]") {
  const TimeTable table = bent_table();
  CHECK(table(10).count() == 2);
  CHECK(table(15).count() == 2.5);
  CHECK(table(20).count() == 3);
  CHECK(table(30).count() == 3.5);
  CHECK(table(40).count() == 4);
}

TEST_CASE("a table goes on with its last slope", "[models][fit]") {
  CHECK(bent_table()(60).count() == 5);     // 4 + 20 * 0.05
  CHECK(bent_table()(1040).count() == 54);  // 4 + 1000 * 0.05
  const TimeTable two_points{{{0, Seconds{1}}, {2, Seconds{2}}}};
  CHECK(two_points(1).count() == 1.5);
  CHECK(two_points(10).count() == 6);
}

TEST_CASE("a table must have increasing amounts and times that do not fall", "[models][fit]") {
  CHECK_NOTHROW(check_table(bent_table(), "table"));
  CHECK_NOTHROW(check_table({{{0, Seconds{1}}, {1, Seconds{1}}}}, "table"));
  const std::vector<TimeTable> invalid{
      {},
      {{{1, Seconds{1}}}},
      {{{1, Seconds{1}}, {1, Seconds{2}}}},
      {{{2, Seconds{1}}, {1, Seconds{2}}}},
      {{{1, Seconds{2}}, {2, Seconds{1}}}},
      {{{-1, Seconds{1}}, {2, Seconds{2}}}},
      {{{1, Seconds{-1}}, {2, Seconds{2}}}},
      {{{1, Seconds{1}}, {kNan, Seconds{2}}}},
      {{{1, Seconds{1}}, {2, Seconds{kNan}}}},
      {{{1, Seconds{1}}, {kInfinity, Seconds{2}}}},
      {{{1, Seconds{1}}, {1e19, Seconds{2}}}},
      {{{1, Seconds{1}}, {2, Seconds{2e9}}}},
  };
  for (std::size_t i = 0; i < invalid.size(); ++i) {
    CAPTURE(i);
    CHECK_THROWS_WITH(check_table(invalid[i], "here"), StartsWith("here "));
    CHECK_THROWS_AS(check_table(invalid[i], "here"), InputError);
  }
}

TEST_CASE("a table's start-up is its first time", "[models][fit]") {
  Fit<Bytes> fit;
  fit.model = bent_table();
  CHECK(fit.startup() == Seconds{2});
  CHECK(fit(Bytes{30}).count() == 3.5);
  CHECK(fit.line() == nullptr);
}

TEST_CASE("a line's start-up is its alpha", "[models][fit]") {
  Fit<Bytes> fit;
  fit.model = AlphaBeta<Bytes>{Seconds{0.5}, {0.25}};
  CHECK(fit.startup() == Seconds{0.5});
  CHECK(fit(Bytes{8}).count() == 2.5);
  REQUIRE(fit.line() != nullptr);
  CHECK(fit.line()->beta.value == 0.25);
}

TEST_CASE("a fit extrapolates outside the range it was made on, when that is known",
          "[models][fit]") {
  Fit<Flops> fit;
  CHECK_FALSE(fit.extrapolates_at(Flops{1e30}));
  fit.range = WorkRange{10, 20};
  CHECK(fit.extrapolates_at(Flops{9.5}));
  CHECK_FALSE(fit.extrapolates_at(Flops{10}));
  CHECK_FALSE(fit.extrapolates_at(Flops{20}));
  CHECK(fit.extrapolates_at(Flops{20.5}));
}

TEST_CASE("a table without a range was measured between its points", "[models][fit]") {
  Fit<Bytes> fit;
  fit.model = bent_table();
  CHECK(fit.measured_range() == WorkRange{10, 40});
  CHECK(fit.extrapolates_at(Bytes{9}));
  CHECK_FALSE(fit.extrapolates_at(Bytes{10}));
  CHECK_FALSE(fit.extrapolates_at(Bytes{40}));
  CHECK(fit.extrapolates_at(Bytes{41}));
  fit.range = WorkRange{10, 50};  // what it says itself counts
  CHECK_FALSE(fit.extrapolates_at(Bytes{41}));
}

TEST_CASE("a weighted median has half the weight on either side", "[models][fit]") {
  CHECK(weighted_median({{3, 1}, {1, 1}, {2, 1}}) == 2);
  CHECK(weighted_median({{1, 1}, {2, 1}}) == 1);
  CHECK(weighted_median({{1, 1}, {2, 1}, {7, 5}}) == 7);
  CHECK(weighted_median({{1, 0}, {2, 1}}) == 2);
  CHECK_THROWS_AS(weighted_median({}), std::logic_error);
}

TEST_CASE("a lengthening is found that points follow, whatever one of them says", "[models][fit]") {
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> drawn(0, 1);
  for (int i = 0; i < 50; ++i) {
    const double times = 1 + drawn(random), more = i % 5 == 0 ? 0 : 3 * drawn(random);
    std::vector<LengthenedTime> points;
    for (int point = 0; point < 9; ++point) {
      const double by_itself = 0.5 + 10 * drawn(random);
      points.push_back({Seconds{by_itself}, times + more / by_itself});
    }
    points.push_back({Seconds{2}, 9});
    CAPTURE(i, times, more);
    const Lengthening found = fit_lengthening(points);
    REQUIRE(found.times == Approx(times).epsilon(1e-6));
    REQUIRE(found.more.count() == Approx(more).margin(1e-6));
  }
}

TEST_CASE("nothing is shorter in a layer", "[models][fit]") {
  CHECK(fit_lengthening({}).times == 1);
  const Lengthening found = fit_lengthening({{Seconds{1}, 0.5}, {Seconds{2}, 0.9}});
  CHECK(found.times == 1);
  CHECK(found.more == Seconds{});
}

TEST_CASE("a lengthened fit takes so many times as long and so much longer", "[models][fit]") {
  Fit<Bytes> line{AlphaBeta<Bytes>{Seconds{1}, {0.5}}, {}, {}, ""}, table{bent_table(), {}, {}, ""};
  for (Fit<Bytes>* fit : {&line, &table}) {
    const Fit<Bytes> before = *fit;
    Lengthening{1.5, Seconds{2}}.apply_to(*fit);
    for (const std::int64_t bytes : {0, 10, 25, 100}) {
      CHECK((*fit)(Bytes{bytes}).count() == Approx(1.5 * before(Bytes{bytes}).count() + 2));
    }
  }
}

TEST_CASE("what queueing saves is a median from 0 to the start-up", "[models][fit]") {
  const Fit<Bytes> alone{AlphaBeta<Bytes>{Seconds{3}, {1}}, {}, {}, ""};
  const Fit<Bytes> queued{AlphaBeta<Bytes>{Seconds{2}, {0.9}}, {}, {}, ""};
  CHECK(median_saving(alone, queued, {{0}, {5}, {10}}).count() == Approx(1.5));
  CHECK(median_saving(alone, queued, {{0}, {1000}, {2000}}) == Seconds{3});
  CHECK(median_saving(queued, alone, {{0}, {5}, {10}}) == Seconds{});
}

}  // namespace pipemoe::fit_test
