#include "models/comparison.hpp"

#include <catch2/catch.hpp>

#include "models/error.hpp"

using namespace pipemoe;
using Catch::Matchers::Equals;

namespace {

Span span(Phase phase, OperationKind operation, int chunk, int rank, double start, double end) {
  const bool exchanges =
      operation == OperationKind::Dispatch || operation == OperationKind::Combine;
  return {{0, phase, operation, chunk},
          exchanges ? Stream::InterNode : Stream::Compute,
          rank,
          Seconds{start},
          Seconds{end}};
}

constexpr Phase kForward = Phase::Forward, kBackward = Phase::Backward;

// One rank for all: no gate; two exchanges of 2 s, the second beside an expert of 3 s; 4 s
// backward.
Timeline prediction() {
  Timeline line;
  line.spans = {span(kForward, OperationKind::Gate, 0, 0, 0, 0),
                span(kForward, OperationKind::Dispatch, 0, 0, 0, 2),
                span(kForward, OperationKind::Dispatch, 1, 0, 2, 4),
                span(kForward, OperationKind::Expert, 0, 0, 2, 5),
                span(kBackward, OperationKind::Expert, 0, 0, 5, 9)};
  return line;
}

// Two ranks, the second one second later from the gate on.
Timeline measurement() {
  Timeline line;
  for (const int rank : {0, 1}) {
    const double late = rank;
    for (const Span& one : {span(kForward, OperationKind::Gate, 0, rank, 0, 0.5 + late),
                            span(kForward, OperationKind::Dispatch, 0, rank, 0.5 + late, 2 + late),
                            span(kForward, OperationKind::Dispatch, 1, rank, 2 + late, 6 + late),
                            span(kForward, OperationKind::Expert, 0, rank, 2 + late, 6),
                            span(kBackward, OperationKind::Expert, 0, rank, 6 + late, 8 + late)}) {
      line.spans.push_back(one);
    }
  }
  return line;
}

}  // namespace

TEST_CASE("operations are compared by phase, per rank", "[models][comparison]") {
  const Comparison comparison = compare(prediction(), measurement());
  REQUIRE(comparison.operations.size() == 4);
  const auto& gate = comparison.operations[0];
  CHECK(gate.operation == OperationKind::Gate);
  CHECK_FALSE(gate.modelled());
  CHECK(gate.sum == Compared{Seconds{0}, Seconds{1}});  // 0.5 and 1.5
  const auto& dispatch = comparison.operations[1];
  CHECK(dispatch.operation == OperationKind::Dispatch);
  CHECK(dispatch.modelled());
  CHECK(dispatch.tasks_per_rank == 2);
  CHECK(dispatch.sum == Compared{Seconds{4}, Seconds{5.5}});  // 1.5 + 4 on both ranks
  CHECK(dispatch.mean == Compared{Seconds{2}, Seconds{2.75}});
  CHECK(dispatch.sum.error() == Seconds{-1.5});
  CHECK(*dispatch.sum.relative_error() == Approx(-1.5 / 5.5).epsilon(1e-12));
  const auto& expert = comparison.operations[2];
  CHECK(expert.phase == kForward);
  CHECK(expert.sum == Compared{Seconds{3}, Seconds{3.5}});  // 4 and 3
  CHECK(comparison.operations[3].phase == kBackward);
  CHECK(comparison.operations[3].sum == Compared{Seconds{4}, Seconds{2}});
  CHECK(*comparison.operations[3].sum.relative_error() == 1);
}

TEST_CASE("phases end with the latest rank, communication is a mean", "[models][comparison]") {
  const Comparison comparison = compare(prediction(), measurement());
  CHECK(comparison.forward == Compared{Seconds{5}, Seconds{7}});
  CHECK(comparison.makespan == Compared{Seconds{9}, Seconds{9}});
  CHECK(comparison.backward == Compared{Seconds{4}, Seconds{2}});
  CHECK(*comparison.makespan.relative_error() == 0);
  CHECK(comparison.communication == Compared{Seconds{4}, Seconds{5.5}});
  // Predicted: the first exchange, 2 s. Rank 0: 1.5 s before its expert, none after. Rank 1: 1.5 s
  // before, and its expert of 3-6 leaves the last second of 3-7 bare.
  CHECK(comparison.exposed_communication == Compared{Seconds{2}, Seconds{2}});
}

TEST_CASE("a timeline compared with itself has no error", "[models][comparison]") {
  const Comparison comparison = compare(measurement(), measurement());
  for (const auto& row : comparison.operations) {
    CHECK(row.modelled());
    CHECK(*row.sum.relative_error() == 0);
  }
}

TEST_CASE("what takes no measured time has no relative error", "[models][comparison]") {
  CHECK_FALSE((Compared{Seconds{1}, Seconds{0}}).relative_error().has_value());
  CHECK(*(Compared{Seconds{0}, Seconds{2}}).relative_error() == -1);
}

TEST_CASE("timelines of different tasks are not compared", "[models][comparison]") {
  const auto failure = [](const Timeline& predicted, const Timeline& measured) -> std::string {
    try {
      compare(predicted, measured);
    } catch (const InputError& error) {
      return error.what();
    }
    return "no failure";
  };
  Timeline fewer = prediction();
  fewer.spans.erase(fewer.spans.begin() + 2);
  CHECK(failure(prediction(), fewer) ==
        "layer0.forward.dispatch.1 is in the predicted timeline, not in the measured one");
  CHECK(failure(fewer, measurement()) ==
        "layer0.forward.dispatch.1 is in the measured timeline, not in the predicted one");
  CHECK(failure({}, {}) == "the timelines hold no tasks to compare");
  Timeline partial = measurement();
  partial.spans.pop_back();
  CHECK(failure(prediction(), partial) ==
        "layer0.backward.expert.0 of rank 1 stands nowhere in the measured timeline");
  Timeline doubled = prediction();
  doubled.spans.push_back(doubled.spans[1]);
  CHECK(failure(doubled, measurement()) ==
        "layer0.forward.dispatch.0 of rank 0 stands twice in the predicted timeline");
}
