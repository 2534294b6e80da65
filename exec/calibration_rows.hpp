// Repeated times as a calibration records them: the same on every rank, a row each.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "exec/calibrate.hpp"
#include "exec/measured_fit.hpp"
#include "exec/process_group.hpp"

namespace pipemoe::exec {

using Times = std::vector<double>;  ///< seconds, one a repeat

/// Which rank's time counts: of a computation the slowest's, of a collective that of the rank that
/// came last and waited for nobody.
enum class Across { Slowest, Last };

/// Of each repeat, the rank's that counts. Collective.
Times across(ProcessGroup& group, const Times& mine, Across which);

/// Adds the row with what `times`, combined over the ranks, say; its amount and their median.
MeasuredPoint record(CalibrationRow row, const Times& times, std::vector<CalibrationRow>& rows);

/// The series with the worst outlier is named; the rows have them all. Null: there are none.
std::optional<std::string> outliers_note(const std::vector<CalibrationRow>& rows);

}  // namespace pipemoe::exec
