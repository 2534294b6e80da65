// The journals of a study's shards.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "experiments/study_point.hpp"

namespace pipemoe::program {

/// `folder`/points[.<shard>].jsonl.
std::filesystem::path journal_path(const std::filesystem::path& folder, const std::string& shard);

/// Every finished point in the folder's journals, of all shards; failed ones too.
/// Throws InputError when one of them is of another study than `header` says.
std::map<std::size_t, PointResult> read_journals(const std::filesystem::path& folder,
                                                 const std::string& header);

}  // namespace pipemoe::program
