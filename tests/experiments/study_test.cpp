// Sweeps: which points, resumption after a kill, shards, failing points, and what is made of them.
#include <sys/stat.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <new>
#include <nlohmann/json.hpp>
#include <set>

#include "experiments/process_pool.hpp"
#include "experiments/study_results.hpp"
#include "models/error.hpp"
#include "models/files.hpp"
#include "models/version.hpp"
#include "tests/support/program.hpp"

namespace study_tests {

using namespace pipemoe;
using namespace pipemoe::program;
using namespace pipemoe::test;

namespace {

const std::string kRoot = PIPEMOE_SOURCE_DIR;

Outcome run(const std::string& arguments) { return run_program(PIPEMOE_PROGRAM, arguments); }

// 24 quick points: 2 clusters x 3 x 4.
std::string small_study(const TemporaryDirectory& directory, const std::string& changed = "",
                        const std::string& to = "") {
  std::string text = R"(name = "small"
network = "fitted"
experts_per_rank = 1
subject = "pipemoe"
variant = "pipemoe-deferred"
clusters = ["CLUSTERS-16.toml", "CLUSTERS-64.toml"]
[layer]
sequence_length = 1024
top_k = 2
capacity_factor = 1.0
dtype = "fp32"
activation = "relu"
[grid.layer]
batch_size = [2, 4, 8]
model_dim = [512, 1024, 2048, 4096]
hidden_dim = [1024]
[schedules]
sequential = [1]
fastermoe = [1]
tutel = [1, 2, 4, 8]
pipemoe = "1..16"
pipemoe-deferred = "1..16"
)";
  const auto replace = [&](const std::string& from, const std::string& with) {
    for (auto at = text.find(from); at != std::string::npos;
         at = text.find(from, at + with.size())) {
      text.replace(at, from.size(), with);
    }
  };
  replace("CLUSTERS", kRoot + "/experiments/clusters/rtx2080ti-100gib");
  if (!changed.empty()) {
    REQUIRE(text.find(changed) != std::string::npos);
    replace(changed, to);
  }
  return directory.file("study.toml", text);
}

std::string tables(const std::filesystem::path& folder) {
  std::string all;
  for (const char* name : {"points.csv", "rtx2080ti-100gib-16-degrees.csv",
                           "rtx2080ti-100gib-64-degrees.csv", "summary.json"}) {
    all += read_file(folder / name, "table");
  }
  return all;
}

PointResult result_with(std::vector<PointRun> runs, Degrees chosen, Degrees whole_slots) {
  PointResult result;
  result.runs = std::move(runs);
  result.chosen = chosen;
  result.whole_slots = whole_slots;
  return result;
}

}  // namespace

TEST_CASE("a cluster's name and file may have quotes and backslashes", "[experiments][study]") {
  // A quote in a file's name made the journal's header no JSON, and '\n' in a name a new line.
  const TemporaryDirectory directory;
  std::string profile = read_file(kRoot + "/experiments/clusters/rtx2080ti-100gib-16.toml", "test");
  const std::string name = R"("rtx2080ti-100gib-16")";
  profile.replace(profile.find(name), name.size(), R"('a\n"b')");
  directory.file(R"(a\n"b.toml)", profile);
  const Study study =
      read_study(small_study(directory, "clusters = [", R"(clusters = ['a\n"b.toml'] #)"), "");
  CHECK(study.points.front().layer.name == R"(a\n"b)");
  CHECK_NOTHROW(JournalHeader(study.configuration));
}

TEST_CASE("the study's grid is 174 of 180 layers on each cluster", "[study]") {
  const Study study = read_study(kRoot + "/experiments/study174/study.toml", "");
  std::map<std::int64_t, int> points;
  for (const StudyPoint& point : study.points) ++points[point.cluster->num_ranks()];
  CHECK(points == std::map<std::int64_t, int>{{16, 174}, {32, 174}, {64, 174}});

  // Left out: 16384 tokens with M = 8192 and any H, or with M = 4096 and H = 8192.
  std::set<std::pair<std::int64_t, std::int64_t>> left_out;
  for (const StudyPoint& point : study.left_out) {
    CHECK(point.layer.tokens_per_rank == 16384);
    left_out.emplace(point.layer.model_dim, point.layer.hidden_dim);
  }
  const std::set<std::pair<std::int64_t, std::int64_t>> expected{
      {8192, 512}, {8192, 1024}, {8192, 2048}, {8192, 4096}, {8192, 8192}, {4096, 8192}};
  CHECK(left_out == expected);
  CHECK(study.left_out.size() == 6 * 3);
  CHECK_THAT(study.note, Catch::Contains("reconstruction"));
  CHECK_THAT(study.name, Catch::Contains("reconstruction"));  // what each row of a table says
}

TEST_CASE("the second grid is 243 settings less those that do not fit", "[study]") {
  const Study study = read_study(kRoot + "/experiments/study243/study.toml", "");
  CHECK(study.points.size() + study.left_out.size() == 243 * 3);
}

TEST_CASE("a listed study shows what would run and runs nothing", "[study]") {
  const Outcome listed = run("study --list experiments/study174/study.toml");
  CHECK(listed.exit_code == 0);
  CHECK_THAT(listed.out, Catch::Contains("522 points; 18 left out"));
  CHECK(std::count(listed.out.begin(), listed.out.end(), '\n') == 522 + 18 + 1);
}

TEST_CASE("a killed study goes on where it was and yields the same bytes", "[study]") {
  const TemporaryDirectory directory;
  const std::string study = small_study(directory);
  const std::string whole = directory.path("whole"), killed = directory.path("killed");
  REQUIRE(run("study " + study + " --output " + whole).exit_code == 0);

  // SIGKILL once a few points are written, then half a line as a kill amid a write would leave.
  const std::string journal = killed + "/points.jsonl";
  const std::string until_some = " & pid=$!; while [ $(cat " + journal +
                                 " 2>/dev/null | wc -l) -lt 4 ]; do sleep 0.01; done;"
                                 " kill -9 $pid; wait $pid; printf '{\"point\": 3, \"cho' >> " +
                                 journal + "; true";
  run("study --jobs 1 " + study + " --output " + killed + until_some);
  const std::string before = read_file(journal, "journal");
  const auto lines = std::count(before.begin(), before.end(), '\n');
  REQUIRE(lines >= 4);
  REQUIRE(lines < 1 + 24);
  REQUIRE_FALSE(std::filesystem::exists(killed + "/points.csv"));

  REQUIRE(run("study " + study + " --output " + killed).exit_code == 0);
  CHECK(read_file(journal, "journal").starts_with(before.substr(0, before.rfind('\n') + 1)));
  CHECK(tables(killed) == tables(whole));
}

TEST_CASE("a finished study runs nothing again", "[study]") {
  const TemporaryDirectory directory;
  const std::string study = small_study(directory), folder = directory.path("out");
  REQUIRE(run("study " + study + " --output " + folder).exit_code == 0);
  const std::string journal = read_file(folder + "/points.jsonl", "journal");
  REQUIRE(run("study " + study + " --output " + folder).exit_code == 0);
  CHECK(read_file(folder + "/points.jsonl", "journal") == journal);
}

TEST_CASE("tables and summary say what the chosen degrees' times rest on", "[study]") {
  const TemporaryDirectory directory;
  const std::string folder = directory.path("out");
  const Outcome outcome = run("study " + small_study(directory) + " --output " + folder);
  REQUIRE(outcome.exit_code == 0);
  CHECK_THAT(outcome.out, Catch::Contains("costs of the chosen: 100.0 % interpolated"));
  const auto summary = nlohmann::json::parse(read_file(folder + "/summary.json", "summary"));
  CHECK(summary["clusters"][0]["basis"]["interpolated"].get<double>() == Approx(1));
  CHECK(summary["clusters"][0]["basis"]["estimated"] == 0);
  CHECK_THAT(read_file(folder + "/points.csv", "table"),
             Catch::Contains(",measured_share,interpolated_share,estimated_share,"));
}

TEST_CASE("shards together yield the same bytes as one run", "[study]") {
  const TemporaryDirectory directory;
  const std::string study = small_study(directory);
  const std::string whole = directory.path("whole"), parts = directory.path("parts");
  REQUIRE(run("study " + study + " --output " + whole).exit_code == 0);
  for (const char* shard : {"2/3", "0/3", "1/3"}) {
    const Outcome outcome = run("study " + study + " --output " + parts + " --shard " + shard);
    REQUIRE(outcome.exit_code == 0);
    CHECK(std::filesystem::exists(parts + "/points.csv") == (std::string(shard) == "1/3"));
  }
  CHECK(tables(parts) == tables(whole));
}

TEST_CASE("a point that fails is recorded with its reason and stops no other", "[study]") {
  const TemporaryDirectory directory;
  // The cluster has no fit for bf16.
  const std::string study = small_study(directory, "hidden_dim = [1024]\n",
                                        "hidden_dim = [1024]\ndtype = [\"fp32\", \"bf16\"]\n");
  const std::string folder = directory.path("out");
  const Outcome outcome = run("study " + study + " --output " + folder);
  CHECK(outcome.exit_code == 1);
  CHECK_THAT(outcome.err, Catch::Contains("24 of 48 points failed"));
  CHECK_THAT(outcome.err, Catch::Contains("no gemm fit for bf16"));
  CHECK_THAT(outcome.err, Catch::Contains("14 more points failed"));
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 10 + 2);
  const std::string points = read_file(folder + "/points.csv", "table");
  CHECK(std::count(points.begin(), points.end(), '\n') == 1 + 48);
  CHECK_THAT(outcome.out, Catch::Contains("rtx2080ti-100gib-64: 12 layers, 12 FAILED"));
  // Rows of failed and good points have the header's columns.
  std::istringstream lines(points);
  std::set<std::ptrdiff_t> commas;
  for (std::string line; std::getline(lines, line);) {
    const auto text = line.find('"');
    commas.insert(
        std::count(line.begin(),
                   line.begin() + static_cast<std::ptrdiff_t>(std::min(text, line.size())), ','));
  }
  CHECK(commas.size() == 1);
}

TEST_CASE("bad studies are refused in one line", "[study][errors]") {
  const TemporaryDirectory directory;
  const auto refused = [&](const std::string& from, const std::string& to,
                           const std::string& part) {
    const Outcome outcome = run("study --list " + small_study(directory, from, to));
    CAPTURE(to, outcome.err);
    CHECK(outcome.exit_code == 2);
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    CHECK_THAT(outcome.err, Catch::Contains(part));
  };
  refused("name = \"small\"", "nam = \"small\"", "name is missing");
  refused("name = \"small\"", "name = \"a,b\"", "no comma");
  refused("experts_per_rank = 1", "experts_per_rank = 1\ncolour = 2", "colour is an unknown key");
  refused("\"fitted\"", "\"packet\"", "packet");
  refused("-16.toml", "-17.toml", "cannot read this cluster file");
  refused("batch_size = [2, 4, 8]", "batch_size = []", "at least one value");
  refused("batch_size = [2, 4, 8]", "batchsize = [2]", "batch_size is missing");
  refused("batch_size = [2, 4, 8]", "batch_size = [0]", "batch_size is 0");
  refused("\"1..16\"", "\"16..1\"", "must be FROM..TO");
  refused("sequential = [1]", "sequential = [2]", "no degree");
  refused("tutel = [1, 2, 4, 8]", "tutel = [1.5]", "must hold degrees");
  refused("fastermoe = [1]", "magic = [1]", "magic is an unknown key");
  refused("subject = \"pipemoe\"", "subject = \"magic\"", "subject is magic");
  refused("pipemoe = \"1..16\"", "pipemoe = [2, 4]", "schedules.pipemoe must have every degree of");
  refused("variant = \"pipemoe-deferred\"", "variant = \"pipemoe\"", "must be another schedule");
  const std::string study = small_study(directory);
  CHECK(run("study " + study + " --output /proc/nowhere").exit_code == 2);
  REQUIRE(mkfifo(directory.path("points.jsonl").c_str(), 0600) == 0);
  const Outcome fifo = run("study " + study + " --output " + directory.path("").string());
  CHECK(fifo.exit_code == 2);
  CHECK_THAT(fifo.err, Catch::Contains("a journal must be a regular file"));
  CHECK(run("study " + study + " --output " + directory.path("o").string() + " --shard 3/3")
            .exit_code == 2);
  CHECK(run("study " + study).exit_code == 2);
}

TEST_CASE("results of another study are not mixed in", "[study][errors]") {
  const TemporaryDirectory directory;
  const std::string folder = directory.path("out");
  REQUIRE(run("study " + small_study(directory) + " --output " + folder).exit_code == 0);
  const Outcome other =
      run("study " + small_study(directory, "1024]", "2048]") + " --output " + folder);
  CHECK(other.exit_code == 2);
  CHECK_THAT(other.err, Catch::Contains("another study"));
}

TEST_CASE("a journal's faults are named with their line", "[study][errors]") {
  const TemporaryDirectory directory;
  const std::string study = small_study(directory), folder = directory.path("out");
  REQUIRE(run("study " + study + " --output " + folder).exit_code == 0);
  const std::string path = folder + "/points.jsonl", good = read_file(path, "journal");
  const std::size_t second = good.find('\n') + 1, third = good.find('\n', second) + 1;
  const std::string header = good.substr(0, second), point = good.substr(second, third - second);
  const auto refused = [&](const std::string& line, const std::string& part,
                           const std::string& place = ":2: ") {
    write_file(path, header + line);
    const Outcome outcome = run("study " + study + " --output " + folder);
    CAPTURE(line, outcome.err);
    CHECK(outcome.exit_code == 2);
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    CHECK_THAT(outcome.err, Catch::Contains(path + place) && Catch::Contains(part));
    CHECK(read_file(path, "journal") == header + line);  // nothing is lost
  };
  const auto changed = [&](const std::string& from, const std::string& to) {
    const std::size_t at = point.find(from);
    REQUIRE(at != std::string::npos);
    return point.substr(0, at) + to + point.substr(at + from.size());
  };
  const std::string number = point.substr(0, point.find(','));  // {"point":N
  refused(changed(number, "{\"point\":-1"), "point.point is -1");
  refused(changed(number, "{\"point\":1.5"), "must be an integer");
  refused(changed(number, "{\"point\":48"), "must be 0..");
  refused(changed("\"chosen\":[", "\"chosen\":[1,"), "chosen must be a list of 5");
  refused(changed("[\"pipemoe\",1,", "[\"pipemoe\",1,-"), "a time must be a number");
  refused(changed("[\"pipemoe\",1,", "[\"magic\",1,"), "a run must be of pipemoe at degree 1");
  refused(changed("\"basis\":[", "\"basis\":[7,"), "basis must be a list of 4");
  refused(changed("\"runs\"", "\"run\""), "runs is missing");
  refused(number + ",\"error\":\"\"}\n", "must not be empty");
  refused(point + point, "is there twice", ":3: ");
  refused("[1, 2\n", "parse error");
}

TEST_CASE("results of another commit are continued with --force alone", "[study][errors]") {
  const TemporaryDirectory directory;
  const std::string study = small_study(directory), folder = directory.path("out");
  REQUIRE(run("study " + study + " --output " + folder).exit_code == 0);
  const std::string path = folder + "/points.jsonl", whole = tables(folder);
  std::string text = read_file(path, "journal");
  const std::string commit = std::string("\"commit\":\"") + kCommit;
  REQUIRE(text.find(commit) != std::string::npos);
  text.replace(text.find(commit), commit.size(), "\"commit\":\"another");
  write_file(path, text);
  const Outcome outcome = run("study " + study + " --output " + folder);
  CHECK(outcome.exit_code == 2);
  CHECK_THAT(outcome.err, Catch::Contains("another commit") && Catch::Contains("--force"));
  CHECK(run("study " + study + " --force --output " + folder).exit_code == 0);
  CHECK(tables(folder) == whole);
}

TEST_CASE("a worker that is killed is tried again, and its point is not failed", "[study]") {
  int finished = 0;
  const PoolSummary summary = run_in_processes(
      2, 2,
      [](std::size_t) -> std::string {
        std::raise(SIGKILL);
        return "";
      },
      [&](std::size_t, const std::string&) { ++finished; });
  CHECK(finished == 0);
  CHECK(summary.retried == 2 * (kMostAttempts - 1));
  REQUIRE(summary.given_up.size() == 2);
  CHECK_THAT(summary.given_up[0].second, Catch::Contains("killed by signal 9"));
}

TEST_CASE("a job that dies once ends well in its second process", "[study]") {
  const TemporaryDirectory directory;
  const std::string mark = directory.path("was-here");
  std::string text;
  const PoolSummary summary = run_in_processes(
      1, 1,
      [&](std::size_t) -> std::string {
        if (std::filesystem::exists(mark)) return "second";
        write_file(mark, "");
        throw std::bad_alloc();
      },
      [&](std::size_t, const std::string& of_job) { text = of_job; });
  CHECK(text == "second");
  CHECK(summary.retried == 1);
  CHECK(summary.given_up.empty());
}

TEST_CASE("a grid of too many points is refused before any is made", "[study][errors]") {
  const TemporaryDirectory directory;
  std::string many = "[1";
  for (int i = 2; i <= 60'000; ++i) many += "," + std::to_string(i);
  const std::string study = small_study(directory, "[2, 4, 8]", many + "]");
  const Outcome outcome = run("study --list " + study);
  CHECK(outcome.exit_code == 2);
  CHECK_THAT(outcome.err, Catch::Contains("must be at most 100000"));
}

TEST_CASE("an outcome compares chosen with best and names the reason of a miss", "[study]") {
  Study study;
  study.subject = "pipemoe";
  study.schedules = {{"pipemoe", {1, 2, 4, 8}}, {"sequential", {1}}, {"tutel", {2, 4}}};
  // Degree 2 is chosen in both passes; forward 2 is best, backward 4 is, by 25 %.
  const std::vector<PointRun> runs{
      {"pipemoe", 1, 9, 9},    {"pipemoe", 2, 4, 5}, {"pipemoe", 4, 6, 4}, {"pipemoe", 8, 8, 8},
      {"sequential", 1, 9, 9}, {"tutel", 2, 4, 5},   {"tutel", 4, 6, 4.5}};
  const PointOutcome even = outcome_of(study, result_with(runs, {2, 2}, {2, 2}));
  CHECK(even.forward.is_best());
  CHECK(even.forward.miss().empty());
  CHECK(even.backward.best == 4);
  CHECK(even.backward.regret() == Approx(0.25).epsilon(1e-12));
  CHECK(even.backward.miss() == "link physics");
  CHECK(even.iteration_s() == 9);
  CHECK(even.regret() == Approx(9.0 / 8 - 1).epsilon(1e-12));
  CHECK(even.others.at("tutel-adaptive").iteration_s() == 9);
  // Both passes at one degree: 18, 9, 10, 16 against 8.
  CHECK(even.fixed_regret.at("always-1") == Approx(18.0 / 8 - 1).epsilon(1e-12));
  CHECK(even.fixed_regret.at("always-4") == Approx(10.0 / 8 - 1).epsilon(1e-12));
  CHECK(even.fixed_regret.at("best-of-1248") == Approx(9.0 / 8 - 1).epsilon(1e-12));

  CHECK(outcome_of(study, result_with(runs, {2, 2}, {2, 4})).backward.miss() == "uneven chunks");
  CHECK(outcome_of(study, result_with(runs, {2, 2}, {2, 8})).backward.miss() ==
        "uneven chunks and link physics");
  CHECK_THROWS_AS(outcome_of(study, result_with(runs, {3, 2}, {2, 2})), RunError);
}

TEST_CASE("a distribution's p95 is the nearest rank", "[study]") {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Distribution of_100 = distribution_of(values);
  CHECK(of_100.min == 1);
  CHECK(of_100.mean == 50.5);
  CHECK(of_100.p95 == 95);
  CHECK(of_100.max == 100);
  CHECK(distribution_of({7}).p95 == 7);
}

}  // namespace study_tests
