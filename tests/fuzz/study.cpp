// Study files; the clusters that they name are the shipped ones.
#include "experiments/study.hpp"

#include <regex>

#include "experiments/journal.hpp"
#include "models/config.hpp"
#include "models/limits.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::study_target {

// Points of the grid, so that one execution stays short; what is no study counts as one.
double points_of(std::string_view text) {
  double points = 1;
  toml::table document;
  try {
    document = toml::parse(text);
  } catch (const toml::parse_error&) {
    return points;
  }
  const auto count = [&](const toml::node_view<toml::node>& list) {
    if (list.is_array()) points *= static_cast<double>(list.as_array()->size());
  };
  count(document["clusters"]);
  for (const char* kind : {"layer", "cluster"}) {
    const toml::table* axes = document["grid"][kind].as_table();
    if (axes == nullptr) continue;
    for (const auto& [key, values] : *axes) count(document["grid"][kind][key]);
  }
  return points;
}

// Runs the first point with a few of its degrees; its line in the journal reads back.
void require_runs(program::Study study) {
  if (study.points.empty()) return;
  study.network = NetworkLevel::Fitted;
  for (program::StudySchedule& schedule : study.schedules) {
    std::erase_if(schedule.degrees, [](std::int64_t degree) { return degree > 8; });
    if (schedule.degrees.size() > 3) schedule.degrees.resize(3);
    if (schedule.degrees.empty()) schedule.degrees = {1};
  }
  const program::PointResult result = program::run_point(study, study.points.front());
  const std::string line = to_json_line(result);
  for (const program::PointRun& one : result.runs) {
    require_within(one.forward_s, 0, kLongestTimeline, "a forward time");
    require_within(one.backward_s, 0, kLongestTimeline, "a backward time");
  }
  try {
    const auto again = program::point_from_json_line({"journal:2", line}, study);
    require(to_json_line(again) == line, "a result reads back as another one: " + line);
  } catch (const std::exception& error) {
    finding(fmt::format("a result is refused, {}: {}", error.what(), line));
  }
}

bool run(std::string_view text) {
  constexpr double kMostPoints = 64;
  if (points_of(text) > kMostPoints) return false;
  program::Study study;
  const bool accepted = accepts([&] {
    study = program::parse_study(text, PIPEMOE_SOURCE_DIR "/experiments/study174/study.toml", "");
  });
  if (!accepted) return false;
  require_printable(study.name + study.note, "the study's name or note");
  require_json(study.configuration, "the study as JSON");
  const program::JournalHeader header(study.configuration);
  require_printable(header.text, "the journal's header");
  for (const program::StudyPoint& point : study.points) {
    require_sane(point.layer);
    require_sane(*point.cluster);
  }
  require_runs(study);
  return true;
}

// Lists shortened to their first two values.
std::string shortened(const std::string& path) {
  static const std::regex list(R"(\[([^\[\],]*),([^\[\],]*),[^\[\]]*\])");
  return std::regex_replace(shipped_toml(path, 1), list, "[$1,$2]");
}

std::vector<std::string> seeds() {
  return {shortened("experiments/study174/study.toml"),
          shortened("experiments/study174/no-startup.toml"),
          shortened("experiments/study243/study.toml")};
}

const Registration registration({"study", Syntax::Toml, run, seeds});

}  // namespace pipemoe::fuzz::study_target
