// Timelines as JSON.
#include <nlohmann/json.hpp>

#include "models/comparison.hpp"
#include "models/evaluate.hpp"
#include "models/schedule.hpp"
#include "models/timeline_io.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::timeline_target {

void require_finite(const Compared& compared, const char* what) {
  require_time(compared.predicted, what);
  require_time(compared.measured, what);
}

void require_sane(const Timeline& timeline) {
  const Provenance& from = timeline.provenance;
  for (const std::string& text : {from.program, from.commit, from.host, from.made_by}) {
    require_printable(text, "provenance");
  }
  for (const std::string& note : from.notes) require_printable(note, "a note");
  for (const auto& [name, version] : from.versions) {
    require_printable(name + version, "a version");
  }
  require_json(from.configuration, "the configuration");
  require_time(timeline.makespan(), "the makespan");
  require_time(timeline.forward(), "forward's time");
  for (const int rank : timeline.ranks()) {
    require_time(timeline.busy(Resource::Compute, rank), "busy time");
    require_time(timeline.exposed_communication(rank), "exposed communication");
    require_within(timeline.overlap_ratio(rank), 0, 1 + 1e-9, "the share that is hidden");
  }
  for (const Seconds repeat : timeline.repeats) require_time(repeat, "a repeat");
  if (timeline.basis) {
    for (const double share : *timeline.basis) require_within(share, 0, 1.1, "a share");
  }
}

bool run(std::string_view text) {
  Timeline timeline;
  if (!accepts([&] { timeline = timeline_from_json(text, "timeline.json"); })) return false;
  require_sane(timeline);
  const std::string written = to_json(timeline);
  Timeline again;
  require(accepts([&] { again = timeline_from_json(written, "written.json"); }),
          "a written timeline is refused");
  require(again == timeline, "a written timeline reads back as another one");
  require(!to_csv(timeline).empty(), "no table");
  require_json(to_chrome_trace({{"one", &timeline}, {"two", &again}}), "a trace");
  accepts([&] {
    const Comparison comparison = compare(timeline, again);
    require_finite(comparison.makespan, "makespan");
    require_finite(comparison.communication, "communication");
    for (const StepComparison& step : comparison.steps) require_finite(step.sum, "a step");
  });
  return true;
}

std::vector<std::string> seeds() {
  const MoeLayer layer{
      .tokens_per_rank = 64, .model_dim = 8, .hidden_dim = 8, .num_experts = 8, .top_k = 1};
  const Cluster cluster = cluster_of(4);
  std::vector<std::string> texts;
  for (const char* schedule : {"pipemoe", "sequential"}) {
    const TaskGraph graph = build_graph(schedule, layer, cluster, Degrees{1, 1});
    Timeline timeline = evaluation_at(NetworkLevel::Fitted, Costs(graph, cluster)).timeline;
    timeline.provenance.host = "host";
    texts.push_back(nlohmann::ordered_json::parse(to_json(timeline)).dump());
    timeline.basis.reset();
    timeline.repeats = {Seconds{0.001}, Seconds{0.002}};
    timeline.spans.resize(3);
    texts.push_back(nlohmann::ordered_json::parse(to_json(timeline)).dump());
  }
  return texts;
}

const Registration registration({"timeline", Syntax::Json, run, seeds});

}  // namespace pipemoe::fuzz::timeline_target
