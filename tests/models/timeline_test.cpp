#include "models/timeline.hpp"

#include <catch2/catch.hpp>
#include <random>

using namespace pipemoe;

namespace {

constexpr Stream kCompute = Stream::Compute;
constexpr Stream kInter = Stream::InterNode;
constexpr Stream kIntra = Stream::IntraNode;

Span span(Stream stream, double start, double end, int rank = 0, Phase phase = Phase::Forward) {
  return {{0, phase, OperationKind::Expert, 0}, stream, rank, Seconds{start}, Seconds{end}};
}

Timeline timeline(std::vector<Span> spans) { return {{}, std::move(spans)}; }

// Whole seconds on random streams of rank 0, so that sums are exact.
Timeline random_timeline(std::mt19937_64& random) {
  const auto draw = [&](int to) { return std::uniform_int_distribution<int>(0, to)(random); };
  std::vector<Span> spans;
  for (int count = draw(20); count > 0; --count) {
    const double start = draw(50);
    spans.push_back(span(kStreams[static_cast<std::size_t>(draw(2))], start, start + draw(10)));
  }
  return timeline(spans);
}

// Counts the seconds in which communication runs, and in which it runs alone.
std::pair<double, double> communication_by_counting(const Timeline& line) {
  double communicating = 0, exposed = 0;
  for (double second = 0; second < 60; ++second) {
    bool communicates = false, computes = false;
    for (const Span& one : line.spans) {
      if (one.start.count() > second || one.end.count() <= second) continue;
      (one.stream == kCompute ? computes : communicates) = true;
    }
    communicating += communicates;
    exposed += communicates && !computes;
  }
  return {communicating, exposed};
}

}  // namespace

TEST_CASE("an empty timeline takes no time", "[models][timeline]") {
  const Timeline empty;
  CHECK(empty.makespan() == Seconds{0});
  CHECK(empty.forward() == Seconds{0});
  CHECK(empty.backward() == Seconds{0});
  CHECK(empty.busy(kCompute) == Seconds{0});
  CHECK(empty.communication() == Seconds{0});
  CHECK(empty.exposed_communication() == Seconds{0});
  CHECK(empty.overlap_ratio() == 0);
}

TEST_CASE("makespan and phases end with the last span of any rank", "[models][timeline]") {
  const Timeline line = timeline({span(kCompute, 4, 7, 1, Phase::Backward), span(kCompute, 0, 3),
                                  span(kInter, 1, 4, 2), span(kInter, 4, 6, 0, Phase::Backward)});
  CHECK(line.makespan() == Seconds{7});
  CHECK(line.forward() == Seconds{4});
  CHECK(line.backward() == Seconds{3});
}

TEST_CASE("a timeline without a forward phase is all backward", "[models][timeline]") {
  const Timeline line = timeline({span(kCompute, 1, 3, 0, Phase::Backward)});
  CHECK(line.forward() == Seconds{0});
  CHECK(line.backward() == Seconds{3});
}

TEST_CASE("a stream's gaps do not count as busy", "[models][timeline]") {
  const Timeline line = timeline({span(kCompute, 5, 6), span(kCompute, 0, 2), span(kInter, 2, 9)});
  CHECK(line.busy(kCompute) == Seconds{3});
  CHECK(line.busy(kInter) == Seconds{7});
  CHECK(line.busy(kIntra) == Seconds{0});
}

TEST_CASE("spans that overlap or touch on one stream count once", "[models][timeline]") {
  const Timeline line = timeline({span(kCompute, 0, 4), span(kCompute, 1, 2), span(kCompute, 3, 5),
                                  span(kCompute, 5, 6), span(kCompute, 8, 8)});
  CHECK(line.busy(kCompute) == Seconds{6});
}

TEST_CASE("communication is the union of both communication streams", "[models][timeline]") {
  // inter 0-4, intra 3-6 and 8-9: 0-6 and 8-9.
  const Timeline line = timeline({span(kInter, 0, 4), span(kIntra, 3, 6), span(kIntra, 8, 9)});
  CHECK(line.communication() == Seconds{7});
  CHECK(line.exposed_communication() == Seconds{7});
  CHECK(line.overlap_ratio() == 0);
}

TEST_CASE("exposed communication is what no computation hides", "[models][timeline]") {
  // Communication 0-6 and 8-10; computation 1-3, 5-9: hidden 1-3, 5-6, 8-9 of 8 s.
  const Timeline line = timeline({span(kInter, 0, 4), span(kIntra, 3, 6), span(kInter, 8, 10),
                                  span(kCompute, 5, 9), span(kCompute, 1, 3)});
  CHECK(line.communication() == Seconds{8});
  CHECK(line.exposed_communication() == Seconds{4});
  CHECK(line.overlap_ratio() == 0.5);
}

TEST_CASE("communication under computation is fully hidden", "[models][timeline]") {
  const Timeline line = timeline({span(kCompute, 0, 9), span(kInter, 1, 2), span(kIntra, 4, 9)});
  CHECK(line.exposed_communication() == Seconds{0});
  CHECK(line.overlap_ratio() == 1);
}

TEST_CASE("communication that only touches computation is exposed", "[models][timeline]") {
  const Timeline line = timeline({span(kCompute, 1, 2), span(kInter, 0, 1), span(kInter, 2, 3)});
  CHECK(line.exposed_communication() == Seconds{2});
}

TEST_CASE("each rank is measured by its own spans", "[models][timeline]") {
  // Rank 0 hides 1 of 2 s behind its own work; rank 1 computes nothing.
  const Timeline line = timeline({span(kInter, 0, 2, 0), span(kCompute, 1, 4, 0),
                                  span(kInter, 0, 5, 1), span(kCompute, 0, 9, 2)});
  CHECK(line.busy(kCompute, 0) == Seconds{3});
  CHECK(line.busy(kCompute, 1) == Seconds{0});
  CHECK(line.busy(kCompute, 2) == Seconds{9});
  CHECK(line.overlap_ratio(0) == 0.5);
  CHECK(line.communication(1) == Seconds{5});
  CHECK(line.overlap_ratio(1) == 0);
  CHECK(line.exposed_communication(2) == Seconds{0});
  CHECK(line.communication(3) == Seconds{0});
}

TEST_CASE("overlap equals counting second by second", "[models][timeline]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 500; ++i) {
    const Timeline line = random_timeline(random);
    CAPTURE(i, line.spans.size());
    const auto [communicating, exposed] = communication_by_counting(line);
    REQUIRE(line.communication().count() == communicating);
    REQUIRE(line.exposed_communication().count() == exposed);
    const double hidden = communicating > 0 ? 1 - exposed / communicating : 0;
    REQUIRE(line.overlap_ratio() == hidden);
  }
}
