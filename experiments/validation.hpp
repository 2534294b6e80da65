// A validation as a file describes it (layers in regimes of a link, and the degrees to try), and
// one of its points: a layer at one pair of degrees, predicted and measured.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "exec/executor.hpp"
#include "experiments/journal.hpp"
#include "models/layer.hpp"
#include "models/schedule.hpp"
#include "models/timeline.hpp"
#include "models/units.hpp"

namespace pipemoe::program {

/// Layers over one link: calibrated together, then predicted and measured. A layer may be in
/// several regimes, which then are ways to choose from.
struct Regime {
  std::string name;
  exec::ExecutorOptions backend;  ///< with the regime's link
  std::vector<MoeLayer> layers;
};

struct Validation {
  std::string name;
  std::string schedule;
  std::vector<std::int64_t> degrees;  ///< of both passes; those above a layer's slots not
  int warm_up = 0;
  int repeats = 1;              ///< of each measured point
  int calibration_repeats = 1;  ///< of each calibrated one; where not given, as many
  std::vector<Regime> regimes;
  std::string configuration;  ///< the file as JSON
};

/// Throws InputError.
Validation read_validation(const std::filesystem::path& file);
/// The same of a text that is in hand; `file` names it.
Validation parse_validation(std::string_view text, const std::filesystem::path& file);

struct ValidationPoint {
  std::string regime;
  std::string layer;
  Degrees degrees;

  // Made before the measurement, from the regime's calibrated profile.
  Seconds predicted_forward{};
  Seconds predicted_makespan{};
  /// The same from costs of tasks alone: what PipeMoE's closed form T(r) says.
  Seconds closed_form_makespan{};
  double predicted_hidden = 0;  ///< share of the communication, 0..1
  BasisShares basis{};          ///< of predicted_makespan
  /// A lower bound where chunks are no more efficient than the whole: gate and permutations, and
  /// in each pass the longer of all all-to-alls and all experts, in one chunk.
  Seconds limit{};
  bool chosen = false;              ///< what plan chooses of these degrees
  bool closed_form_chosen = false;  ///< the same by closed_form_makespan

  Seconds measured_makespan{};  ///< the median
  Seconds measured_least{};
  Seconds measured_most{};
  // From an iteration of median makespan among those whose spans were recorded.
  Seconds measured_forward{};  ///< forward's share of it, times the median
  double measured_hidden = 0;

  Seconds predicted_backward() const { return predicted_makespan - predicted_forward; }
  double relative_error() const { return predicted_makespan / measured_makespan - 1; }
  bool operator==(const ValidationPoint&) const = default;
};

/// Whether both are of one layer at one pair of degrees in one regime.
bool same_place(const ValidationPoint& a, const ValidationPoint& b);
/// Whether also the same was predicted, but for rounding.
bool same_prediction(const ValidationPoint& a, const ValidationPoint& b);

std::string to_json_line(const ValidationPoint& point);
/// Throws InputError "<where>: ..." for anything that is no point of the validation.
ValidationPoint validation_point_from(const JournalLine& line, const Validation& validation);
/// The points of a journal. Throws InputError also where one is there twice.
std::vector<ValidationPoint> validation_points_from(const std::vector<JournalLine>& lines,
                                                    const Validation& validation);

/// A header and a row for each point.
std::string to_csv(const std::vector<ValidationPoint>& points);

}  // namespace pipemoe::program
