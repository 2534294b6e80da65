// A study's results as files and as text.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "experiments/study_analysis.hpp"

namespace pipemoe::program {

/// points.csv (a row a point: degrees, times, regrets), <cluster>-degrees.csv (a row for each
/// point and degree of pipemoe) and summary.json, all written atomically, units in column names.
/// The same results give the same bytes.
void write_tables(const Study& study, const std::map<std::size_t, PointResult>& results,
                  const std::filesystem::path& folder);

/// For a person.
std::string summary_text(const Study& study, const std::vector<StudySummary>& summaries);

}  // namespace pipemoe::program
