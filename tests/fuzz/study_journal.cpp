// The journal of a study: a header and a line for each finished point.
#include "experiments/journal.hpp"
#include "experiments/study.hpp"
#include "experiments/study_results.hpp"
#include "models/limits.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::study_journal_target {

const program::Study& study() {
  static const program::Study read =
      program::parse_study(R"(
name = "small"
network = "fitted"
clusters = ["../clusters/rtx2080ti-100gib-16.toml"]
experts_per_rank = 1
subject = "pipemoe"
variant = "pipemoe-deferred"
[layer]
top_k = 2
capacity_factor = 1.0
dtype = "fp32"
activation = "relu"
hidden_dim = 1024
tokens_per_rank = 1024
[grid.layer]
model_dim = [256, 1024]
[schedules]
sequential = [1]
tutel = [1, 2]
pipemoe = "1..3"
pipemoe-deferred = "1..2"
)",
                           PIPEMOE_SOURCE_DIR "/experiments/study174/study.toml", "");
  return read;
}

// Other commits are welcome: regressions stay what they are.
const program::JournalHeader& header() {
  static const program::JournalHeader made(R"({"study":"small"})", program::OtherCommit::Accept);
  return made;
}

void require_finite_outcome(const program::PointResult& result) {
  constexpr double kShortest = 1e-12;
  const program::PointOutcome outcome = outcome_of(study(), result);
  if (outcome.best_iteration_s() < kShortest) return;
  require_within(outcome.regret(), -1e-9, kLongestTimeline * 1e12, "a regret");
  for (const auto& [name, regret] : outcome.fixed_regret) {
    require_within(regret, -1e-9, kLongestTimeline * 1e12, "a regret of fixed degrees");
  }
}

bool run(std::string_view text) {
  std::map<std::size_t, program::PointResult> finished;
  const bool accepted = accepts([&] {
    add_points(program::journal_lines(std::string(text), "points.jsonl", header()), study(),
               finished);
  });
  if (!accepted || finished.empty()) return false;
  for (const auto& [index, result] : finished) {
    require(index < study().points.size(), "a point that the study does not have");
    const std::string line = to_json_line(result);
    const auto again = program::point_from_json_line({"written.jsonl:2", line}, study());
    require(to_json_line(again) == line, "a result reads back as another one: " + line);
    if (result.error.empty()) require_finite_outcome(result);
  }
  require(!summary_text(study(), summarise(study(), finished)).empty(), "no summary");
  return true;
}

std::vector<std::string> seeds() {
  std::string all = header().text + "\n";
  for (const program::StudyPoint& point : study().points) {
    all += to_json_line(program::run_point(study(), point)) + "\n";
  }
  program::PointResult failed;
  failed.error = "out of memory";
  return {all, header().text + "\n" + to_json_line(failed) + "\n"};
}

const Registration registration({"study_journal", Syntax::Json, run, seeds});

}  // namespace pipemoe::fuzz::study_journal_target
