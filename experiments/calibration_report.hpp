// A calibration as tables.
#pragma once

#include <string>
#include <vector>

#include "exec/calibration/calibrate.hpp"

namespace pipemoe::program {

/// operation,layer,ranks,amount,unit,repeats,min_s,median_s,max_s,outliers.
std::string to_csv(const std::vector<exec::CalibrationRow>& rows);
/// The same; empty where experts and exchanges met too briefly to tell.
std::string to_csv(const std::vector<exec::ContentionRow>& rows);

/// Each fit with its rate, r² and range; then what slows what, and the notes.
void print_calibration(const exec::Calibration& calibration);

}  // namespace pipemoe::program
