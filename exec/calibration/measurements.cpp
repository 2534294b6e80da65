#include "exec/calibration/measurements.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "exec/execute.hpp"

namespace pipemoe::exec {

std::vector<MeasuredPoint>& CalibrationPoints::of(const ExpertFit& key) {
  for (Expert& expert : experts) {
    if (expert.key == key) return expert.points;
  }
  return experts.emplace_back(Expert{key, {}}).points;
}

Times across(ProcessGroup& group, const Times& mine, Across which) {
  Times combined = mine;
  for (const Times& of_rank : all_gather(group, mine)) {
    for (std::size_t i = 0; i < combined.size(); ++i) {
      combined[i] = which == Across::Slowest ? std::max(combined[i], of_rank[i])
                                             : std::min(combined[i], of_rank[i]);
    }
  }
  return combined;
}

MeasuredPoint record(CalibrationRow row, const Times& times, std::vector<CalibrationRow>& rows) {
  const Summary summary = summarize(times);
  row.repeats = static_cast<int>(times.size());
  row.minimum_s = summary.minimum;
  row.median_s = summary.median;
  row.maximum_s = summary.maximum;
  row.outliers = summary.outliers.size();
  rows.push_back(row);
  return {row.amount, summary.median};
}

std::optional<std::string> outliers_note(const std::vector<CalibrationRow>& rows) {
  std::size_t series = 0;
  const CalibrationRow* worst = nullptr;
  const auto ratio = [](const CalibrationRow& row) { return row.maximum_s / row.median_s; };
  for (const CalibrationRow& row : rows) {
    if (row.outliers == 0) continue;
    ++series;
    if (worst == nullptr || ratio(row) > ratio(*worst)) worst = &row;
  }
  if (worst == nullptr) return std::nullopt;
  return fmt::format(
      "{} of {} series of repeats have outliers, which the medians ignore; the worst, {} {} of "
      "{:.3g} {}s, up to {:.1f} times its median",
      series, rows.size(), worst->layer, worst->operation, worst->amount, worst->unit,
      ratio(*worst));
}

}  // namespace pipemoe::exec
