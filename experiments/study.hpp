// A sweep as a file describes it (which layers on which clusters, which schedules and degrees) and
// one point of it: its schedules evaluated, and the degrees a user would choose.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "experiments/journal.hpp"
#include "models/cluster.hpp"
#include "models/evaluate.hpp"
#include "models/layer.hpp"
#include "models/schedule.hpp"
#include "models/timeline.hpp"

namespace pipemoe::program {

struct StudySchedule {
  std::string name;
  std::vector<std::int64_t> degrees;  ///< tried, both passes alike; those above a layer's slots not
};

/// One layer on one cluster.
struct StudyPoint {
  std::size_t index = 0;
  std::string cluster_file;
  std::vector<std::pair<std::string, std::string>> values;  ///< of the grid's keys, for tables
  MoeLayer layer;
  std::shared_ptr<const Cluster> cluster;  ///< shared by all points that have the same one
};

struct Study {
  std::string name;
  std::string note;  ///< what every output must say of this grid
  NetworkLevel network = NetworkLevel::Node;
  std::vector<StudySchedule> schedules;
  std::string subject;  ///< the schedule whose choices are judged
  std::string variant;  ///< one that is compared with it in the backward pass; empty: none
  std::vector<std::string> grid_keys;
  std::vector<StudyPoint> points;    ///< to run, by index
  std::vector<StudyPoint> left_out;  ///< do not fit a GPU's memory, when the study asks for that
  std::string configuration;         ///< the file as JSON
};

/// Reads a study file; cluster files are found relative to it. `network` overrides the file's level
/// when not empty. Throws InputError.
Study read_study(const std::filesystem::path& file, const std::string& network);
/// The same of a text that is in hand; `file` names it.
Study parse_study(std::string_view text, const std::filesystem::path& file,
                  const std::string& network);

struct PointRun {
  std::string schedule;
  std::int64_t degree = 1;  ///< of both passes
  double forward_s = 0;
  double backward_s = 0;

  double iteration_s() const { return forward_s + backward_s; }
};

struct PointResult {
  std::size_t point = 0;
  std::string error;  ///< why it failed; empty: it did not
  std::vector<PointRun> runs;
  // Chosen from the fitted costs alone; 0: the schedule is not studied.
  Degrees chosen{0, 0};
  std::int64_t variant_degree = 0;  ///< backward, of the variant
  /// The best by the fitted costs when chunks are whole slots, not equal shares: where this is not
  /// `chosen`, uneven chunks mislead the closed form.
  Degrees whole_slots{0, 0};
  /// Of the makespan of the subject at `chosen`, at the study's level.
  BasisShares basis{};
};

/// Evaluates every schedule at every degree that the layer can have. Does not throw for a point
/// that cannot run: it returns the reason.
PointResult run_point(const Study& study, const StudyPoint& point);

/// One line of JSON, without the line's end.
std::string to_json_line(const PointResult& result);
/// Throws InputError "<where>: ..." for anything that run_point cannot have returned for a point of
/// the study.
PointResult point_from_json_line(const JournalLine& line, const Study& study);

/// `folder`/points[.<shard>].jsonl.
std::filesystem::path journal_path(const std::filesystem::path& folder, const std::string& shard);

/// Adds the points of a journal. Throws InputError where one is there already.
void add_points(const std::vector<JournalLine>& lines, const Study& study,
                std::map<std::size_t, PointResult>& finished);
/// Every finished point in the folder's journals, of all shards; failed ones too. Throws InputError
/// when one of them is of another study than `header` says, or has a point twice.
std::map<std::size_t, PointResult> read_journals(const std::filesystem::path& folder,
                                                 const JournalHeader& header, const Study& study);

}  // namespace pipemoe::program
