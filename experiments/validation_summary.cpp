#include "experiments/validation_summary.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/error.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;
using Points = std::vector<const ValidationPoint*>;

// Linear between ranks, as numpy's default.
double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

ErrorSummary errors_of(const Points& points) {
  std::vector<double> errors;
  std::vector<BasisShares> bases;
  for (const ValidationPoint* point : points) {
    errors.push_back(std::abs(point->relative_error()));
    bases.push_back(point->basis);
  }
  return {points.size(), quantile(errors, 0.5), quantile(errors, 0.95), quantile(errors, 1),
          mean_of(bases)};
}

template <class Time>
const ValidationPoint& best_by(const Points& points, Time time) {
  return **std::min_element(points.begin(), points.end(),
                            [&](const auto* a, const auto* b) { return time(*a) < time(*b); });
}

const ValidationPoint& measured_best(const Points& points) {
  return best_by(points, [](const auto& p) { return p.measured_makespan; });
}

const ValidationPoint& only(const Points& points, bool (*is)(const ValidationPoint&)) {
  const auto found =
      std::find_if(points.begin(), points.end(), [&](const auto* point) { return is(*point); });
  ensure(found != points.end(), "validation: a layer without degree 1, or without a choice");
  return **found;
}

DegreeSummary degrees_of(const Points& points) {
  const auto& predicted = only(points, [](const auto& p) { return p.chosen; });
  const auto& closed = only(points, [](const auto& p) { return p.closed_form_chosen; });
  const auto& first = only(points, [](const auto& p) { return p.degrees == Degrees{1, 1}; });
  const auto& measured = measured_best(points);
  const Seconds best = measured.measured_makespan;
  return {first.regime,
          first.layer,
          predicted.degrees,
          measured.degrees,
          predicted.measured_makespan / best - 1,
          closed.measured_makespan / best - 1,
          first.measured_makespan / best - 1,
          measured.closed_form_makespan / best,
          predicted.limit / predicted.measured_makespan,
          predicted.measured_hidden};
}

// Among the degrees chosen in each regime, as plan does with several profiles.
ChoiceSummary choice_of(const Points& points) {
  Points chosen, chosen_closed;
  for (const ValidationPoint* point : points) {
    if (point->chosen) chosen.push_back(point);
    if (point->closed_form_chosen) chosen_closed.push_back(point);
  }
  const auto& predicted = best_by(chosen, [](const auto& p) { return p.predicted_makespan; });
  const auto& closed = best_by(chosen_closed, [](const auto& p) { return p.closed_form_makespan; });
  const auto& measured = measured_best(points);
  const auto choice = [](const ValidationPoint& p) { return RegimeChoice{p.regime, p.degrees}; };
  const Seconds best = measured.measured_makespan;
  return {measured.layer,
          choice(predicted),
          choice(closed),
          choice(measured),
          predicted.measured_makespan / best - 1,
          closed.measured_makespan / best - 1};
}

bool in_several_regimes(const Points& points) {
  return std::any_of(points.begin(), points.end(), [&](const ValidationPoint* point) {
    return point->regime != points.front()->regime;
  });
}

// Points by a name, in order of first appearance.
template <class Name>
std::vector<std::pair<std::string, Points>> grouped(const std::vector<ValidationPoint>& points,
                                                    Name name) {
  std::vector<std::pair<std::string, Points>> groups;
  for (const ValidationPoint& point : points) {
    auto found = std::find_if(groups.begin(), groups.end(),
                              [&](const auto& group) { return group.first == name(point); });
    if (found == groups.end()) found = groups.insert(found, {name(point), {}});
    found->second.push_back(&point);
  }
  return groups;
}

Json to_json(const ErrorSummary& errors) {
  Json basis;
  for (const auto& [name, share] : named(errors.basis)) basis[name] = share;
  return {{"points", errors.points},
          {"median_error", errors.median},
          {"p95_error", errors.p95},
          {"largest_error", errors.largest},
          {"basis", std::move(basis)}};
}

// The choice of regime and degree.
std::string choices_text(const std::vector<ChoiceSummary>& choices) {
  const auto words = [](const RegimeChoice& choice) {
    return fmt::format("{} at {}", choice.regime, to_string(choice.degrees));
  };
  std::string text =
      fmt::format("\n  {:<24} {:>20} {:>20} {:>8} {:>24} {:>8}\n", "regime and degree", "chosen",
                  "best", "regret", "without slowdowns", "regret");
  double sum = 0, sum_closed_form = 0;
  for (const ChoiceSummary& choice : choices) {
    text += fmt::format("  {:<24} {:>20} {:>20} {:>6.1f} % {:>24} {:>6.1f} %\n", choice.layer,
                        words(choice.predicted), words(choice.measured), 100 * choice.regret,
                        words(choice.closed_form), 100 * choice.regret_closed_form);
    sum += choice.regret;
    sum_closed_form += choice.regret_closed_form;
  }
  const auto count = static_cast<double>(choices.size());
  return text + fmt::format("  {:<24} {:>20} {:>20} {:>6.2f} % {:>24} {:>6.2f} %\n", "mean", "", "",
                            100 * sum / count, "", 100 * sum_closed_form / count);
}

}  // namespace

ValidationSummary summarise(const std::vector<ValidationPoint>& points) {
  ensure(!points.empty(), "validation: no points");
  ValidationSummary summary;
  Points all;
  for (const ValidationPoint& point : points) all.push_back(&point);
  summary.all = errors_of(all);
  for (const auto& [name, group] : grouped(points, [](const auto& p) { return p.regime; })) {
    summary.regimes.emplace_back(name, errors_of(group));
  }
  const auto place = [](const auto& p) { return p.regime + "/" + p.layer; };
  for (const auto& [name, group] : grouped(points, place)) {
    summary.layers.push_back(degrees_of(group));
  }
  for (const auto& [name, group] : grouped(points, [](const auto& p) { return p.layer; })) {
    if (in_several_regimes(group)) summary.choices.push_back(choice_of(group));
  }
  const auto layers = static_cast<double>(summary.layers.size());
  for (const DegreeSummary& layer : summary.layers) {
    summary.mean_regret += layer.regret / layers;
    summary.mean_regret_closed_form += layer.regret_closed_form / layers;
    summary.largest_regret = std::max(summary.largest_regret, layer.regret);
    summary.within_one_percent += (layer.regret <= 0.01 ? 1 : 0) / layers;
  }
  return summary;
}

std::string to_json(const ValidationSummary& summary, const Provenance& from) {
  Json regimes, layers = Json::array(), choices = Json::array();
  for (const auto& [name, errors] : summary.regimes) regimes[name] = to_json(errors);
  for (const DegreeSummary& layer : summary.layers) {
    layers.push_back({{"regime", layer.regime},
                      {"layer", layer.layer},
                      {"predicted_best_degree", to_string(layer.predicted_best)},
                      {"measured_best_degree", to_string(layer.measured_best)},
                      {"regret", layer.regret},
                      {"regret_closed_form", layer.regret_closed_form},
                      {"gain_over_degree_1", layer.gain},
                      {"overlap_efficiency", layer.overlap_efficiency},
                      {"limit_ratio", layer.limit_ratio},
                      {"hidden", layer.hidden}});
  }
  for (const ChoiceSummary& choice : summary.choices) {
    choices.push_back({{"layer", choice.layer},
                       {"predicted_regime", choice.predicted.regime},
                       {"predicted_degree", to_string(choice.predicted.degrees)},
                       {"closed_form_regime", choice.closed_form.regime},
                       {"closed_form_degree", to_string(choice.closed_form.degrees)},
                       {"measured_regime", choice.measured.regime},
                       {"measured_degree", to_string(choice.measured.degrees)},
                       {"regret", choice.regret},
                       {"regret_closed_form", choice.regret_closed_form}});
  }
  const Json json{{"all", to_json(summary.all)},
                  {"regimes", regimes},
                  {"layers", layers},
                  {"choices", choices},
                  {"mean_regret", summary.mean_regret},
                  {"mean_regret_closed_form", summary.mean_regret_closed_form},
                  {"largest_regret", summary.largest_regret},
                  {"within_one_percent", summary.within_one_percent},
                  {"provenance",
                   {{"program", from.program},
                    {"commit", from.commit},
                    {"host", from.host},
                    {"made_by", from.made_by},
                    {"versions", from.versions},
                    {"notes", from.notes},
                    {"configuration", Json::parse(from.configuration)}}}};
  return json.dump(1) + "\n";
}

std::string to_text(const ValidationSummary& summary) {
  const auto errors = [](const std::string& name, const ErrorSummary& of) {
    return fmt::format("  {:<24} {:>6} {:>9.1f} % {:>8.1f} % {:>8.1f} %\n", name, of.points,
                       100 * of.median, 100 * of.p95, 100 * of.largest);
  };
  std::string text = fmt::format("  {:<24} {:>6} {:>11} {:>10} {:>10}\n", "error of the makespan",
                                 "points", "median", "p95", "largest");
  for (const auto& [name, of] : summary.regimes) text += errors(name, of);
  text += errors("all", summary.all);
  text += "  predictions rest on costs that are " + to_string(summary.all.basis) + "\n";
  text +=
      fmt::format("\n  {:<24} {:>9} {:>8} {:>8} {:>14} {:>16} {:>15} {:>8}\n", "layer", "chosen",
                  "best", "regret", "over degree 1", "closed/measured", "limit/measured", "hidden");
  for (const DegreeSummary& layer : summary.layers) {
    const std::string name =
        summary.regimes.size() > 1 ? layer.regime + " " + layer.layer : layer.layer;
    text += fmt::format(
        "  {:<24} {:>9} {:>8} {:>6.1f} % {:>12.1f} % {:>16.2f} {:>15.2f} {:>6.0f} %\n", name,
        to_string(layer.predicted_best), to_string(layer.measured_best), 100 * layer.regret,
        100 * layer.gain, layer.overlap_efficiency, layer.limit_ratio, 100 * layer.hidden);
  }
  if (!summary.choices.empty()) text += choices_text(summary.choices);
  text += fmt::format(
      "\n  regret: mean {:.2f} %, largest {:.2f} %, {:.0f} % of the layers within 1 %; of the "
      "closed form's choice {:.2f} %\n",
      100 * summary.mean_regret, 100 * summary.largest_regret, 100 * summary.within_one_percent,
      100 * summary.mean_regret_closed_form);
  return text;
}

}  // namespace pipemoe::program
