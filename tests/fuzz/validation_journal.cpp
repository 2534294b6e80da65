// The journal of a validation: a header and a line for each measured point.
#include "experiments/journal.hpp"
#include "experiments/validation.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::validation_journal_target {

const program::Validation& validation() {
  static const program::Validation read = program::parse_validation(R"(
name = "small"
schedule = "pipemoe"
degrees = [1, 2]
warm_up = 0
repeats = 1
[[layer]]
name = "l"
tokens_per_rank = 64
model_dim = 8
hidden_dim = 8
num_experts = 4
top_k = 1
capacity_factor = 1
dtype = "fp32"
activation = "relu"
[[regime]]
name = "r"
[[regime]]
name = "s"
link = "alpha=1ms,beta=1e-9"
)",
                                                                    "validation.toml");
  return read;
}

// Other commits are welcome: regressions stay what they are.
const program::JournalHeader& header() {
  static const program::JournalHeader made(R"({"validation":"small"})",
                                           program::OtherCommit::Accept);
  return made;
}

bool run(std::string_view text) {
  std::vector<program::ValidationPoint> points;
  const bool accepted = accepts([&] {
    points = validation_points_from(
        program::journal_lines(std::string(text), "points.jsonl", header()), validation());
  });
  if (!accepted || points.empty()) return false;
  for (const program::ValidationPoint& point : points) {
    const std::string line = to_json_line(point);
    require(validation_point_from({"written.jsonl:2", line}, validation()) == point,
            "a point reads back as another one: " + line);
    require_time(point.predicted_makespan, "a predicted makespan");
    require_time(point.predicted_forward, "a predicted forward time");
    require_time(point.measured_makespan, "a measured makespan");
    require_within(point.predicted_hidden, 0, 1.1, "a hidden share");
  }
  require(to_csv(points).find("nan") == std::string::npos, "a table has a nan");
  return true;
}

std::vector<std::string> seeds() {
  program::ValidationPoint point;
  point.regime = "r";
  point.layer = "l";
  point.predicted_forward = Seconds{0.001};
  point.predicted_makespan = Seconds{0.003};
  point.closed_form_makespan = Seconds{0.0025};
  point.predicted_hidden = 0.25;
  point.basis = {0.5, 0.25, 0.125, 0.125};
  point.limit = Seconds{0.002};
  point.chosen = true;
  point.measured_makespan = Seconds{0.0031};
  point.measured_least = Seconds{0.003};
  point.measured_most = Seconds{0.0033};
  point.measured_forward = Seconds{0.0011};
  point.measured_hidden = 0.2;
  const std::string one = header().text + "\n" + to_json_line(point) + "\n";
  point.regime = "s";
  point.degrees = {2, 1};
  point.chosen = false;
  point.closed_form_chosen = true;
  return {one, one + to_json_line(point) + "\n"};
}

const Registration registration({"validation_journal", Syntax::Json, run, seeds});

}  // namespace pipemoe::fuzz::validation_journal_target
