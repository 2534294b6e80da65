#include "experiments/terminal.hpp"

#include <catch2/catch.hpp>

using namespace pipemoe;
using namespace pipemoe::program;

namespace {

Span span(OperationKind operation, int chunk, Stream stream, double start, double end) {
  return {{0, Phase::Forward, operation, chunk}, stream, 0, Seconds{start}, Seconds{end}};
}

}  // namespace

TEST_CASE("a timeline is drawn to scale, a line a stream", "[terminal]") {
  Timeline timeline;
  timeline.spans = {span(OperationKind::Dispatch, 0, Stream::InterNode, 0, 1),
                    span(OperationKind::Expert, 0, Stream::Compute, 1, 3),
                    span(OperationKind::Combine, 0, Stream::InterNode, 3, 4)};
  // 14 columns of margin leave 40: ten a second.
  const std::string drawn = draw_timeline(timeline, 54);
  CHECK_THAT(drawn, Catch::StartsWith("  compute     ··········E0━━━━━━━━━━━━━━━━━━··········\n"
                                      "  inter_node  D0━━━━━━━━····················C0━━━━━━━━\n"));
  CHECK_THAT(drawn, Catch::Contains("4000.000 ms|"));
}

TEST_CASE("a timeline of nothing, or in too narrow a place, is not drawn", "[terminal]") {
  CHECK(draw_timeline({}, 100).empty());
  Timeline timeline;
  timeline.spans = {span(OperationKind::Gate, 0, Stream::Compute, 0, 1)};
  CHECK(draw_timeline(timeline, 20).empty());
}
