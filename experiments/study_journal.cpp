#include "experiments/study_journal.hpp"

#include <utility>

#include "experiments/journal.hpp"

namespace pipemoe::program {

std::filesystem::path journal_path(const std::filesystem::path& folder, const std::string& shard) {
  return folder / (shard.empty() ? "points.jsonl" : "points." + shard + ".jsonl");
}

std::map<std::size_t, PointResult> read_journals(const std::filesystem::path& folder,
                                                 const std::string& header) {
  std::map<std::size_t, PointResult> finished;
  if (!std::filesystem::is_directory(folder)) return finished;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("points.") || !name.ends_with(".jsonl")) continue;
    for (const std::string& line : read_journal(entry.path(), header)) {
      PointResult result = point_from_json_line(line);
      finished[result.point] = std::move(result);
    }
  }
  return finished;
}

}  // namespace pipemoe::program
