#include "experiments/terminal.hpp"

#include <catch2/catch.hpp>

namespace terminal_tests {

using namespace pipemoe;
using namespace pipemoe::program;

namespace {

Span span(Step step, int chunk, QueueId queue, double start, double end) {
  return {{.step = step, .chunk = chunk}, queue, 0, Seconds{start}, Seconds{end}};
}

}  // namespace

TEST_CASE("a timeline is drawn to scale, a line a queue", "[terminal]") {
  Timeline timeline;
  timeline.queues = compute_and_communication();
  timeline.spans = {span(Step::Dispatch, 0, kCommunicationQueue, 0, 1),
                    span(Step::Expert, 0, kComputeQueue, 1, 3),
                    span(Step::Combine, 0, kCommunicationQueue, 3, 4)};
  // 16 columns of margin leave 40: ten a second.
  const std::string drawn = draw_timeline(timeline, 56);
  CHECK_THAT(drawn,
             Catch::StartsWith("  compute       ··········E0━━━━━━━━━━━━━━━━━━··········\n"
                               "  communication D0━━━━━━━━····················C0━━━━━━━━\n"));
  CHECK_THAT(drawn, Catch::Contains("4000.000 ms|"));
}

TEST_CASE("a timeline of nothing, or in too narrow a place, is not drawn", "[terminal]") {
  CHECK(draw_timeline({}, 100).empty());
  Timeline timeline;
  timeline.queues = compute_and_communication();
  timeline.spans = {span(Step::Gate, 0, kComputeQueue, 0, 1)};
  CHECK(draw_timeline(timeline, 20).empty());
}

TEST_CASE("long lines break at spaces and go on indented", "[terminal]") {
  CHECK(wrapped("short", 2, 10) == "short");
  CHECK(wrapped("one two three four", 2, 10) == "one two\n  three\n  four");
  CHECK(wrapped("0123456789abc de", 2, 10) == "0123456789abc\n  de");
}

}  // namespace terminal_tests
