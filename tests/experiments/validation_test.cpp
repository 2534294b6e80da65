#include "experiments/validation.hpp"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "experiments/validation_summary.hpp"
#include "models/error.hpp"
#include "tests/support/program.hpp"

namespace validation_tests {

using namespace pipemoe;
using namespace pipemoe::program;
using Catch::Contains;

namespace {

// Times in seconds; the limit is 1 s.
ValidationPoint point(const std::string& regime, std::int64_t degree, double predicted,
                      double closed_form, double measured) {
  ValidationPoint made{regime, "layer", {degree, degree}};
  made.predicted_makespan = Seconds{predicted};
  made.closed_form_makespan = Seconds{closed_form};
  made.measured_makespan = Seconds{measured};
  made.limit = Seconds{1};
  made.measured_hidden = 0.1 * static_cast<double>(degree);
  made.basis = {1 / static_cast<double>(degree), 1 - 1 / static_cast<double>(degree), 0, 0};
  return made;
}

ValidationPoint chosen(ValidationPoint point) {
  point.chosen = true;
  return point;
}
ValidationPoint closed_form_chosen(ValidationPoint point) {
  point.closed_form_chosen = true;
  return point;
}

// Regime a: degree 2 is predicted best and is 10 % off; b: degree 1 is and is best of all.
std::vector<ValidationPoint> two_regimes() {
  return {point("a", 1, 3, 3, 2.0), closed_form_chosen(chosen(point("a", 2, 2.5, 1.5, 2.2))),
          closed_form_chosen(chosen(point("b", 1, 1.6, 1.6, 1.25))), point("b", 2, 1.8, 1.7, 1.5)};
}

constexpr const char* kHead =
    "name = 'v'\nschedule = 'pipemoe'\ndegrees = [1, 2]\nwarm_up = 0\nrepeats = 1\n";
constexpr const char* kLayer =
    "[[layer]]\nname = 'one'\ntokens_per_rank = 8\nmodel_dim = 8\nhidden_dim = 8\n"
    "num_experts = 2\ntop_k = 1\ncapacity_factor = 1.0\ndtype = 'fp32'\nactivation = 'relu'\n";

Validation read(const std::string& text) {
  const test::TemporaryDirectory folder;
  return read_validation(folder.file("v.toml", text));
}

}  // namespace

TEST_CASE("a regime's degrees are compared with each other", "[experiments][validation]") {
  const ValidationSummary summary = summarise(two_regimes());
  REQUIRE(summary.layers.size() == 2);
  const DegreeSummary& first = summary.layers.front();
  CHECK(first.regime == "a");
  CHECK(first.predicted_best == Degrees{2, 2});
  CHECK(first.measured_best == Degrees{1, 1});
  CHECK(first.regret == Approx(0.1));
  CHECK(first.gain == Approx(0));
  CHECK(first.limit_ratio == Approx(1 / 2.2));
  CHECK(first.hidden == Approx(0.2));
  CHECK(summary.layers.back().regret == Approx(0));
  CHECK(summary.layers.back().limit_ratio == Approx(0.8));
  CHECK(summary.mean_regret == Approx(0.05));
  CHECK(summary.within_one_percent == Approx(0.5));
}

TEST_CASE("a layer in several regimes is a choice of regime and degree",
          "[experiments][validation]") {
  const ValidationSummary summary = summarise(two_regimes());
  REQUIRE(summary.choices.size() == 1);
  const ChoiceSummary& choice = summary.choices.front();
  CHECK(choice.layer == "layer");
  CHECK(choice.predicted.regime == "b");
  CHECK(choice.predicted.degrees == Degrees{1, 1});
  CHECK(choice.measured.regime == "b");
  CHECK(choice.regret == Approx(0));
  // Without slowdowns regime a at 2 looks best, which takes 2.2 s, not 1.25.
  CHECK(choice.closed_form.regime == "a");
  CHECK(choice.closed_form.degrees == Degrees{2, 2});
  CHECK(choice.regret_closed_form == Approx(2.2 / 1.25 - 1));
  const auto json = nlohmann::json::parse(to_json(summary, {.configuration = "{}"}));
  CHECK(json["choices"][0]["closed_form_regime"] == "a");
  CHECK(json["layers"][0]["limit_ratio"] == Approx(1 / 2.2));
  CHECK_THAT(to_text(summary), Contains("b at 1") && Contains("a at 2") && Contains("a layer"));
}

TEST_CASE("the summary says what the predictions rest on", "[experiments][validation]") {
  const ValidationSummary summary = summarise(two_regimes());  // half measured at degree 2
  CHECK(summary.all.basis == BasisShares{0.75, 0.25, 0, 0});
  const auto json = nlohmann::json::parse(to_json(summary, {.configuration = "{}"}));
  CHECK(json["all"]["basis"]["measured"] == 0.75);
  CHECK(json["regimes"]["a"]["basis"]["interpolated"] == 0.25);
  CHECK_THAT(to_text(summary), Contains("rest on costs that are 75.0 % measured, 25.0 % interp"));
  CHECK_THAT(to_csv(two_regimes()), Contains(",measured_share,interpolated_share,"));
}

TEST_CASE("layers in one regime are no choice", "[experiments][validation]") {
  std::vector<ValidationPoint> points = two_regimes();
  points.resize(2);
  const ValidationSummary summary = summarise(points);
  CHECK(summary.choices.empty());
  CHECK_THAT(to_text(summary), !Contains("regime and degree"));
}

TEST_CASE("a point is read back from its line", "[experiments][validation]") {
  ValidationPoint written = point("a", 2, 1.0 / 3, 0.1, 1e-9);
  written.layer = "one";
  written.measured_least = written.measured_most = written.measured_makespan;
  const Validation validation = read(std::string(kHead) + kLayer + "[[regime]]\nname = 'a'\n");
  const auto read_back = [&](const std::string& line) {
    return validation_point_from({"points.jsonl:7", line}, validation);
  };
  CHECK(read_back(to_json_line(written)) == written);
  const auto refused = [&](auto change, const std::string& part) {
    ValidationPoint changed = written;
    change(changed);
    CHECK_THROWS_WITH(read_back(to_json_line(changed)),
                      Catch::StartsWith("points.jsonl:7: ") && Contains(part));
  };
  refused([](auto& p) { p.regime = "b"; }, "no regime b");
  refused([](auto& p) { p.layer = "two"; }, "no layer two");
  refused([](auto& p) { p.degrees = {2, 4}; }, "degree 2/4 is none");
  refused([](auto& p) { p.predicted_makespan = Seconds{-1}; }, "predicted_makespan_s must be 0..");
  refused([](auto& p) { p.measured_makespan = Seconds{}; }, "must be positive");
  refused([](auto& p) { p.predicted_hidden = 1.5; }, "predicted_hidden must be 0..1");
  CHECK_THROWS_AS(read_back("{\"regime\": 1}"), InputError);
  CHECK_THROWS_AS(read_back(""), InputError);
  const JournalLine line{"points.jsonl:2", to_json_line(written)};
  CHECK(validation_points_from({line}, validation).size() == 1);
  CHECK_THROWS_WITH(validation_points_from({line, line}, validation), Contains("is there twice"));
}

TEST_CASE("regimes share the layers and the communicator that they do not have",
          "[experiments][validation]") {
  const Validation validation = read(std::string("communicator = 'copy'\n") + kHead + kLayer +
                                     "[[regime]]\nname = 'a'\n"
                                     "[[regime]]\nname = 'b'\ncommunicator = 'mpi'\n");
  REQUIRE(validation.regimes.size() == 2);
  CHECK(validation.regimes[0].backend.communicator == "copy");
  CHECK(validation.regimes[1].backend.communicator == "mpi");
  CHECK(validation.regimes[0].layers == validation.regimes[1].layers);
  CHECK(validation.regimes[0].layers.front().name == "one");
}

TEST_CASE("bad validations are refused in one line", "[experiments][validation]") {
  const std::string regime = "[[regime]]\nname = 'a'\n";
  const auto refused = [](const std::string& text, const std::string& part) {
    CHECK_THROWS_WITH(read(text), Contains(part));
  };
  refused(kHead + regime, "regime[0].layer must hold at least one layer");
  refused(std::string(kHead) + kLayer, "regime");
  refused(std::string(kHead) + kLayer + kLayer + regime, "layer[1].name is there twice");
  refused(std::string(kHead) + kLayer + regime + regime, "regime[1].name is there twice");
  refused(std::string(kHead) + kLayer + "[[regime]]\nname = 'a b'\n", "must have no comma");
  refused(std::string(kHead) + kLayer + regime + "typo = 1\n", "typo is an unknown key");
  refused("typo = 1\n" + std::string(kHead) + kLayer + regime, "typo is an unknown key");
}

TEST_CASE("a calibration has its own number of repeats, or that of the points",
          "[experiments][validation]") {
  const std::string rest = std::string(kLayer) + "[[regime]]\nname = 'r'\n";
  CHECK(read(kHead + rest).calibration_repeats == 1);
  CHECK(read(std::string(kHead) + "calibration_repeats = 7\n" + rest).calibration_repeats == 7);
  CHECK_THROWS_WITH(read(std::string(kHead) + "calibration_repeats = 0\n" + rest),
                    Contains("calibration_repeats"));
}

TEST_CASE("the degrees of both phases may be the best, or cost something",
          "[experiments][validation]") {
  std::vector<ValidationPoint> points = two_regimes();
  points.resize(2);
  points.back().chosen = false;
  points.push_back(chosen(point("a", 1, 2.6, 2.4, 1.8)));  // fewer chunks than degree 2
  points.back().degrees = {2, 1};
  DegreeSummary summary = summarise(points).layers.front();
  CHECK(summary.predicted_best == Degrees{2, 1});
  CHECK(summary.measured_best == Degrees{2, 1});
  CHECK(summary.regret == Approx(0));
  CHECK(summary.gain == Approx(2.0 / 1.8 - 1));
  points.back().measured_makespan = Seconds{2.5};
  summary = summarise(points).layers.front();
  CHECK(summary.measured_best == Degrees{1, 1});
  CHECK(summary.regret == Approx(0.25));
  CHECK_THAT(to_text(summarise(points)), Contains("2/1"));
  CHECK_THAT(to_csv(points), Contains("a,layer,2/1,"));
  CHECK_THAT(to_json_line(points.back()), Contains("\"degree\":\"2/1\""));
}

}  // namespace validation_tests
