// What a study has finished so far: one line a point, appended, so that a killed study loses
// nothing but the points it was at.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "experiments/study_point.hpp"

namespace pipemoe::program {

class StudyJournal {
 public:
  /// Opens the journal `folder`/points[.<shard>].jsonl for appending; makes the folder. What is
  /// there must be of the same study: its first line is `header`. Half a last line, from a run that
  /// was killed while it wrote, is cut off. Throws InputError.
  StudyJournal(const std::filesystem::path& folder, const std::string& shard,
               const std::string& header);
  ~StudyJournal();
  StudyJournal(const StudyJournal&) = delete;
  StudyJournal& operator=(const StudyJournal&) = delete;

  /// One write of one whole line. Throws RunError when the disk does not take it.
  void append(const PointResult& result);

 private:
  std::filesystem::path path_;
  int file_ = -1;
};

/// Every finished point in the folder's journals, of all shards; failed ones too.
/// Throws InputError when one of them is of another study than `header` says.
std::map<std::size_t, PointResult> read_journals(const std::filesystem::path& folder,
                                                 const std::string& header);

}  // namespace pipemoe::program
