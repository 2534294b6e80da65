// How good the predictions were.
#pragma once

#include <string>
#include <vector>

#include "experiments/validation.hpp"
#include "models/provenance.hpp"

namespace pipemoe::program {

/// Absolute relative errors of predicted makespans, and what the predictions rest on.
struct ErrorSummary {
  std::size_t points = 0;
  double median = 0;
  double p95 = 0;
  double largest = 0;
  BasisShares basis{};  ///< means over the points
};

/// One layer's degrees in one regime: those that plan chooses, and what it costs to believe it.
struct DegreeSummary {
  std::string regime;
  std::string layer;
  Degrees predicted_best;  ///< what plan chooses: within its tolerance of the fastest predicted
  Degrees measured_best;
  double regret = 0;              ///< measured time of predicted_best over that of the best, - 1
  double regret_closed_form = 0;  ///< the same for the closed form's choice
  double gain = 0;                ///< measured time of degree 1 over that of the best, - 1
  double overlap_efficiency = 0;  ///< closed form over measured at the best degree
  double limit_ratio = 0;         ///< the limit over measured at predicted_best
  double hidden = 0;  ///< share of the communication that was hidden at predicted_best, 0..1
};

/// A regime and degrees for a layer that is in several regimes.
struct RegimeChoice {
  std::string regime;
  Degrees degrees;
};
struct ChoiceSummary {
  std::string layer;
  RegimeChoice predicted, closed_form, measured;
  double regret = 0;              ///< measured time of `predicted` over that of `measured`, - 1
  double regret_closed_form = 0;  ///< the same for what the costs of tasks alone prefer
};

struct ValidationSummary {
  ErrorSummary all;
  std::vector<std::pair<std::string, ErrorSummary>> regimes;  ///< in the order of the points
  std::vector<DegreeSummary> layers;
  std::vector<ChoiceSummary> choices;  ///< of the layers in more than one regime
  double mean_regret = 0;
  double mean_regret_closed_form = 0;
  double largest_regret = 0;
  double within_one_percent = 0;  ///< share of the layers whose regret is at most 1 %
};

/// Requires points, with degree 1 of each layer, and one chosen of them in each way.
ValidationSummary summarise(const std::vector<ValidationPoint>& points);

std::string to_json(const ValidationSummary& summary, const Provenance& from);
std::string to_text(const ValidationSummary& summary);

}  // namespace pipemoe::program
