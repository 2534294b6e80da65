// pipemoe validate on one rank, whose emulated links are ways to choose from.
#include <algorithm>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "models/files.hpp"
#include "tests/support/program.hpp"

namespace validate_tests {

using namespace pipemoe;
using namespace pipemoe::test;
using Catch::Contains;
using Json = nlohmann::json;

namespace {

std::string validation(const std::string& more_regimes) {
  return "name = 'test'\nschedule = 'pipemoe'\ndegrees = [1, 2]\nwarm_up = 1\nrepeats = 4\n"
         "[[layer]]\nname = 'one'\ntokens_per_rank = 64\nmodel_dim = 64\nhidden_dim = 64\n"
         "num_experts = 2\ntop_k = 1\ncapacity_factor = 1.0\ndtype = 'fp32'\nactivation = 'relu'\n"
         "[[regime]]\nname = 'slow'\nlink = 'alpha=20ms,beta=1e-9'\n" +
         more_regimes;
}

Outcome run_validate(const TemporaryDirectory& folder, const std::string& text,
                     const std::string& options = "") {
  const std::string file = folder.file("validation.toml", text);
  return run_program(PIPEMOE_PROGRAM,
                     "validate " + file + " --output " + folder.path("out").string() + options);
}

std::size_t lines_of(const std::filesystem::path& path) {
  const std::string text = read_file(path, "file");
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

TEST_CASE("validate chooses regime and degree, and measures them", "[program][validate]") {
  const TemporaryDirectory folder;
  const Outcome outcome =
      run_validate(folder, validation("[[regime]]\nname = 'fast'\nlink = 'alpha=2ms,beta=1e-9'\n"));
  INFO(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  CHECK_THAT(outcome.out, Contains("regime and degree") && Contains("fast at 1"));
  const Json summary = Json::parse(read_file(folder.path("out") / "summary.json", "summary"));
  REQUIRE(summary["choices"].size() == 1);
  // Four exchanges of 20 ms or of 2 ms: which is faster is beyond doubt.
  CHECK(summary["choices"][0]["predicted_regime"] == "fast");
  CHECK(summary["choices"][0]["measured_regime"] == "fast");
  CHECK(summary["layers"].size() == 2);
  CHECK(lines_of(folder.path("out") / "points.csv") == 1 + 2 * 2);
  for (const char* file :
       {"profile-slow.toml", "profile-fast.toml", "calibration-fast.csv", "contention-fast.csv"}) {
    CHECK(std::filesystem::exists(folder.path("out") / file));
  }
}

TEST_CASE("validate keeps timelines that compare reads", "[program][validate]") {
  const TemporaryDirectory folder;
  REQUIRE(run_validate(folder, validation(""), " --timelines").exit_code == 0);
  const auto timelines = folder.path("out") / "timelines";
  for (const char* point : {"slow-one-1-1", "slow-one-2-2"}) {
    const std::string both = (timelines / point).string();
    const Outcome compared = run_program(
        PIPEMOE_PROGRAM, "compare " + both + "-predicted.json " + both + "-measured.json");
    INFO(compared.err);
    CHECK(compared.exit_code == 0);
    CHECK_THAT(compared.out, Contains("dispatch") && Contains("iteration"));
  }
}

TEST_CASE("an exchange that takes no multiprocessors is none that leaves them",
          "[program][validate]") {
  const TemporaryDirectory folder;
  const Outcome outcome = run_validate(
      folder,
      validation("[[regime]]\nname = 'b'\nlink = 'alpha=1ms,beta=1e-9'\nexchange_ctas = 4\n"));
  CHECK(outcome.exit_code == 2);
  CHECK_THAT(outcome.err, Contains("--exchange-ctas is for --communicator nccl, not"));
  CHECK_FALSE(std::filesystem::exists(folder.path("out") / "profile-slow.toml"));
}

TEST_CASE("validate goes on where it was, and not with another configuration",
          "[program][validate]") {
  const TemporaryDirectory folder;
  REQUIRE(run_validate(folder, validation("")).exit_code == 0);
  const auto journal = folder.path("out") / "points.jsonl";
  const std::string before = read_file(journal, "journal");
  const Outcome again = run_validate(folder, validation(""));
  CHECK(again.exit_code == 0);
  CHECK(read_file(journal, "journal") == before);  // nothing was measured again
  // Without its last line, that point is.
  const auto last = before.rfind('\n', before.size() - 2) + 1;
  write_file(journal, before.substr(0, last));
  CHECK(run_validate(folder, validation("")).exit_code == 0);
  const std::string after = read_file(journal, "journal");
  CHECK(after.substr(0, last) == before.substr(0, last));
  CHECK(lines_of(journal) == 3);
  const Outcome other =
      run_validate(folder, validation("[[regime]]\nname = 'b'\nlink = 'alpha=1ms,beta=1e-9'\n"));
  CHECK(other.exit_code == 2);
  CHECK(std::count(other.err.begin(), other.err.end(), '\n') == 1);
  CHECK(read_file(journal, "journal") == after);
}

TEST_CASE("points are continued only with the profile that predicted them",
          "[program][validate][errors]") {
  const TemporaryDirectory folder;
  REQUIRE(run_validate(folder, validation("")).exit_code == 0);
  const auto journal = folder.path("out") / "points.jsonl";
  const auto profile = folder.path("out") / "profile-slow.toml";
  const std::string points = read_file(journal, "journal"), good = read_file(profile, "profile");
  const auto refused = [&](const std::string& part) {
    const Outcome outcome = run_validate(folder, validation(""));
    INFO(outcome.err);
    CHECK(outcome.exit_code == 2);
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    CHECK_THAT(outcome.err, Contains(part));
  };
  std::filesystem::remove(profile);
  refused("profile-slow.toml: is missing");
  std::string other = good;
  other.replace(other.find("name = \"slow\""), 13, "name = \"fast\"");
  write_file(profile, other);
  refused("is the profile fast, must be that of the regime slow");
  const auto alpha = good.find("alpha_s = ");
  write_file(profile,
             good.substr(0, alpha) + "alpha_s = 0.5" + good.substr(good.find('\n', alpha)));
  refused("slow one at 1 was not predicted from");
  write_file(profile, good);
  CHECK(run_validate(folder, validation("")).exit_code == 0);
  const auto changed = points.find("\"predicted_makespan_s\":") + 23;
  write_file(journal, points.substr(0, changed) + "7" + points.substr(points.find(',', changed)));
  refused("was not predicted from");
}

}  // namespace validate_tests
