// pipemoe run on several ranks, as mpirun starts them: one voice, one exit code, no rank left over.
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "models/files.hpp"
#include "models/timeline_io.hpp"
#include "tests/support/launcher.hpp"
#include "tests/support/random_runs.hpp"

namespace run_ranks_tests {

using namespace pipemoe;
using namespace pipemoe::test;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

const std::string kLayer =
    "run --layer experiments/layers/cpu-example.toml --set layer.tokens_per_rank=64 "
    "--set layer.model_dim=24 --set layer.hidden_dim=40 ";
const std::string kDegrees = "--forward-degree 2 --backward-degree 3 ";
const std::string kRun = kLayer + kDegrees + "--warm-up 1 --repeats 4 ";

Outcome launch(const std::string& arguments) { return run_program(mpirun(), arguments); }

// Exit code 2 and, of all ranks together, one line that holds every one of `parts`.
void check_refused(const std::string& arguments, const std::vector<std::string>& parts) {
  const Outcome outcome = launch(arguments);
  CAPTURE(arguments, outcome.err);
  CHECK(outcome.exit_code == 2);
  CHECK_THAT(outcome.out, !Contains("makespan"));
  const auto lines = own_lines(outcome.err);
  REQUIRE(lines.size() == 1);
  for (const std::string& part : parts) CHECK_THAT(lines[0], Contains(part));
}

}  // namespace

TEST_CASE("run on two ranks shows both ranks' run once", "[program][ranks]") {
  const Outcome outcome = launch(on_ranks(2, kRun + "--verify --link alpha=1ms,beta=1e-9"));
  INFO(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  for (const std::string part :
       {"measured, 2 ranks", "schedule pipemoe, degree 2 forward, 3 backward", "  makespan ",
        "median of 4 iterations", "link emulated: alpha 1 ms",
        "verified against a float64 reference"}) {
    CHECK_THAT(outcome.out, Contains(part));
    CHECK(outcome.out.find(part) == outcome.out.rfind(part));
  }
  CHECK(own_lines(outcome.err).empty());
}

TEST_CASE("the program verifies random layers on several ranks", "[program][ranks][random]") {
  const int ranks = GENERATE(2, 4);
  for (std::uint64_t index = 0; index < test_runs(2); ++index) {
    const RandomRun random = random_run(test_seed(), index, ranks);
    Outcome outcome = launch(on_ranks(ranks, random.arguments()));
    if (outcome.exit_code == 1) {
      outcome = launch(on_ranks(ranks, random.with_other_numbers().arguments()));
    }
    CAPTURE(test_seed(), index, ranks, random.arguments(), outcome.err);
    CHECK(outcome.exit_code == 0);
    CHECK_THAT(outcome.out, Contains("verified against a float64 reference"));
    CHECK(own_lines(outcome.err).empty());
  }
}

TEST_CASE("run on several ranks is a timeline of all of them", "[program][ranks]") {
  const int ranks = GENERATE(2, 4);
  const Outcome outcome = launch(on_ranks(ranks, kRun + "--json"));
  INFO(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  const Timeline timeline = timeline_from_json(outcome.out, "run");  // one document, not one a rank
  std::set<int> seen;
  for (const Span& span : timeline.spans) seen.insert(span.rank);
  CHECK(seen.size() == static_cast<std::size_t>(ranks));
  CHECK(*seen.rbegin() == ranks - 1);
  // Gate, permutation and weighting both ways, three steps for each of 2 and 3 chunks.
  CHECK(timeline.spans.size() == static_cast<std::size_t>(ranks) * (2 * 3 + 3 * 2 + 3 * 3));
  CHECK_THAT(timeline.provenance.configuration, Contains("\"communicator\":\"mpi\""));
  CHECK_THAT(timeline.provenance.versions.at("ranks"), Contains("Open MPI"));
}

TEST_CASE("files are written once, whole and by one rank", "[program][ranks]") {
  const TemporaryDirectory directory;
  const std::string json = directory.path("t.json"), csv = directory.path("t.csv"),
                    trace = directory.path("t.trace.json");
  const Outcome outcome =
      launch(on_ranks(2, kRun + "--json --output " + json + " --csv " + csv + " --trace " + trace));
  INFO(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  CHECK(read_file(json, "timeline") == outcome.out);
  const Timeline timeline = timeline_from_json(outcome.out, "run");
  CHECK(read_file(csv, "table") == to_csv(timeline));
  CHECK(read_file(trace, "trace") == to_chrome_trace({{timeline.provenance.made_by, &timeline}}));
  const std::filesystem::directory_iterator files(directory.path(""));
  CHECK(std::distance(begin(files), end(files)) == 3);  // and nothing temporary
}

TEST_CASE("bad input is refused by one rank for all", "[program][ranks]") {
  // What the option parser finds, what its callbacks find, what the files hold, what they give.
  check_refused(on_ranks(2, kLayer + kDegrees + "--repeats 0"),
                {"--repeats: Value 0 not in range"});
  check_refused(on_ranks(2, kRun + "--link slow"), {"--link slow"});
  check_refused(on_ranks(2, "run --layer missing.toml " + kDegrees), {"missing.toml"});
  check_refused(on_ranks(4, kRun + "--set layer.num_experts=6"),
                {"num_experts is 6, must be a multiple of the 4 ranks"});
  check_refused(on_ranks(2, kRun + "--backend cuda"), {"-DPIPEMOE_WITH_CUDA=ON"});
  check_refused(on_ranks(2, "fly"), {"fly is no subcommand"});
}

TEST_CASE("communicators must suit how the ranks were started", "[program][ranks]") {
  check_refused(on_ranks(2, kRun + "--communicator copy"),
                {"--communicator copy is for one rank", "without mpirun"});
  const Outcome alone = run_program(PIPEMOE_PROGRAM, kRun + "--communicator mpi");
  CHECK(alone.exit_code == 2);
  CHECK_THAT(alone.err, Contains("--communicator mpi: start the ranks with mpirun -np N"));
}

TEST_CASE("a rank with another configuration is refused at the start", "[program][ranks]") {
  const auto refused = [](const std::string& first, const std::string& second,
                          const std::vector<std::string>& parts) {
    check_refused(on_ranks(1, kRun + first) + " : " + on_ranks(1, kRun + second), parts);
  };
  refused("--set layer.model_dim=32", "--set layer.model_dim=64",
          {"rank 1", "layer/model_dim is 64, on rank 0 it is 32"});
  refused("", "--seed 2", {"rank 1", "execution/seed is 2, on rank 0 it is 1"});
  refused("--link alpha=1ms,beta=0", "", {"rank 1", "execution/link", "0.001"});
  refused("--cluster experiments/clusters/rtx2080ti-100gib-64.toml", "",
          {"rank 0", "cluster", "64 ranks, 2 were started"});
  refused("--verify", "", {"rank 1", "verify is false, on rank 0 it is true"});
}

TEST_CASE("the rank that was started differently is named", "[program][ranks]") {
  check_refused(
      on_ranks(2, kRun) + " : " + on_ranks(1, kRun + "--seed 9") + " : " + on_ranks(1, kRun),
      {"rank 2", "execution/seed is 9, on rank 0 it is 1"});
}

TEST_CASE("a mistake on one rank alone is that rank's", "[program][ranks]") {
  check_refused(on_ranks(1, kRun) + " : " + on_ranks(1, kLayer + kDegrees + "--repeats 0"),
                {"rank 1: ", "--repeats: Value 0"});
  check_refused(on_ranks(1, kRun + "--set layer.top_k=99") + " : " + on_ranks(1, kRun),
                {"rank 0: ", "top_k is 99"});
}

TEST_CASE("one value written in two ways is one configuration", "[program][ranks]") {
  // 1 and 1.0 once ended both ranks in an assertion.
  const Outcome outcome = launch(on_ranks(1, kRun + "--set layer.capacity_factor=1") + " : " +
                                 on_ranks(1, kRun + "--set layer.capacity_factor=1.0"));
  CAPTURE(outcome.err);
  CHECK(outcome.exit_code == 0);
}

TEST_CASE("a result that cannot be written ends every rank with one message", "[program][ranks]") {
  // The other ranks once waited for ever.
  const auto start = std::chrono::steady_clock::now();
  const Outcome outcome = launch(on_ranks(2, kRun + "--output /dev/full"));
  CAPTURE(outcome.err);
  CHECK(outcome.exit_code == 2);
  const auto lines = own_lines(outcome.err);
  REQUIRE(lines.size() == 1);
  CHECK_THAT(lines[0], Contains("rank 0: /dev/full: cannot write: No space left on device"));
  CHECK(std::chrono::steady_clock::now() - start < 30s);
}

TEST_CASE("results that differ from the reference end every rank with one message",
          "[program][ranks]") {
  // A layer of single numbers, all on expert 0: in the second weight's gradient the two tokens'
  // parts cancel, and what is left is rounding. With this seed about 3e-4 of it.
  const TemporaryDirectory directory;
  const std::string json = directory.path("t.json");
  const Outcome outcome = launch(on_ranks(
      2,
      "run --layer experiments/layers/cpu-example.toml --set layer.tokens_per_rank=1 "
      "--set layer.model_dim=1 --set layer.hidden_dim=1 --set layer.num_experts=2 "
      "--set layer.top_k=1 --set layer.capacity_factor=dropless --set layer.activation=gelu "
      "--forward-degree 1 --backward-degree 1 --repeats 1 --seed 623 --verify --output " +
          json));
  CAPTURE(outcome.err);
  CHECK(outcome.exit_code == 1);
  const auto lines = own_lines(outcome.err);
  REQUIRE(lines.size() == 1);
  CHECK_THAT(lines[0], Contains("rank 0: ") && Contains("differs from the float64 reference"));
  CHECK(directory.is_empty());
}

TEST_CASE("a rank that is killed takes all others with it", "[program][ranks]") {
  const int victim = GENERATE(0, 1);
  const TemporaryDirectory output, results;
  // Five exchanges of 20 ms or more each way: the iterations would take hours.
  Launched run(output, on_ranks(2, kLayer + kDegrees +
                                       "--repeats 100000 --link alpha=20ms,beta=0 --output " +
                                       results.path("t.json").string() + " --trace " +
                                       results.path("t.trace").string()));
  const pid_t pid = run.wait_for_rank(victim);
  INFO(read_file(output.path("err"), "output"));
  REQUIRE(pid > 0);
  REQUIRE(processes_with(results.path("").string()).size() >= 3);  // mpirun and both ranks
  REQUIRE(kill(pid, SIGKILL) == 0);
  const int status = run.wait(10);
  REQUIRE(status != -1);  // it ended within 10 s
  CHECK((WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0)));
  CHECK_THAT(read_file(output.path("err"), "output"),
             Contains("rank " + std::to_string(victim)) && Contains("signal 9"));
  // mpirun has seen its ranks end; the kernel may need a moment to clear them away.
  for (int i = 0; i < 100 && !processes_with(results.path("").string()).empty(); ++i) {
    std::this_thread::sleep_for(50ms);
  }
  CHECK(processes_with(results.path("").string()).empty());
  CHECK(results.is_empty());
}

TEST_CASE("a rank that stops is named once, and all others end", "[program][ranks]") {
  const auto [ranks, victim] = GENERATE(std::pair{2, 0}, std::pair{2, 1}, std::pair{4, 2});
  CAPTURE(ranks, victim);
  const TemporaryDirectory output, results;
  Launched run(output, on_ranks(ranks, kLayer + kDegrees +
                                           "--repeats 100000 --link alpha=20ms,beta=0 "
                                           "--rank-timeout 2 --output " +
                                           results.path("t.json").string()));
  const pid_t pid = run.wait_for_rank(victim);
  INFO(read_file(output.path("err"), "output"));
  REQUIRE(pid > 0);
  REQUIRE(kill(pid, SIGSTOP) == 0);
  const int status = run.wait(60);  // the timeout, the roll call, and a busy machine
  REQUIRE(status != -1);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) != 0));
  const auto lines = own_lines(read_file(output.path("err"), "output"));
  REQUIRE(lines.size() == 1);
  CHECK_THAT(lines[0], Contains(": rank " + std::to_string(victim) + " did not come to ") &&
                           Contains("within 2 s (--rank-timeout)"));
  for (int i = 0; i < 100 && !processes_with(results.path("").string()).empty(); ++i) {
    std::this_thread::sleep_for(50ms);
  }
  CHECK(processes_with(results.path("").string()).empty());
  CHECK(results.is_empty());
}

TEST_CASE("a rank that stops before MPI starts does not keep the others", "[program][ranks]") {
  // MPI_Init_thread waits for all ranks and has no limit of its own: the others once waited for
  // ever.
  const int victim = GENERATE(0, 1);
  CAPTURE(victim);
  const TemporaryDirectory results;
  const std::string stopped = "-np 1 sh -c 'kill -STOP $$'";
  const std::string other =
      on_ranks(1, kRun + "--rank-timeout 1 --output " + results.path("t.json").string());
  const Outcome outcome =
      launch(victim == 0 ? stopped + " : " + other : other + " : " + stopped);  // it does end
  CAPTURE(outcome.err);
  CHECK(outcome.exit_code == 1);
  const auto lines = own_lines(outcome.err);
  REQUIRE(lines.size() == 1);
  CHECK_THAT(lines[0], Contains("rank " + std::to_string(1 - victim) +
                                ": the start of MPI did not "
                                "end within 11 s") &&
                           Contains("another rank has stopped"));
  CHECK(results.is_empty());
}

TEST_CASE("chunks arrive while experts of the chunk before compute", "[program][ranks][overlap]") {
  // By the order of events alone, which no busy machine changes: a task begins when all that it
  // waits for has ended. The all-to-all of the next chunk waits for the one before, as the experts
  // of that chunk do: both begin together, before these experts end. In one chunk nothing overlaps.
  for (const int degree : {1, 4}) {
    const std::string degrees = std::to_string(degree);
    const Outcome outcome = launch(
        on_ranks(2,
                 "run --layer experiments/layers/cpu-example.toml --link alpha=2ms,beta=2e-8 "
                 "--warm-up 1 --repeats 1 --json --forward-degree " +
                     degrees + " --backward-degree " + degrees));
    INFO(outcome.err);
    REQUIRE(outcome.exit_code == 0);
    const Timeline timeline = timeline_from_json(outcome.out, "run");
    for (const int rank : {0, 1}) {
      for (const Pass pass : {Pass::Forward, Pass::Backward}) {
        const bool forward = pass == Pass::Forward;
        const auto span = [&](Step step, int chunk) {
          const auto found =
              std::find_if(timeline.spans.begin(), timeline.spans.end(), [&](const Span& one) {
                return one.rank == rank && one.task.pass == pass && one.task.step == step &&
                       one.task.chunk == chunk;
              });
          REQUIRE(found != timeline.spans.end());
          return *found;
        };
        const Step to = forward ? Step::Dispatch : Step::Combine;
        const Step back = forward ? Step::Combine : Step::Dispatch;
        for (int chunk = 0; chunk < degree; ++chunk) {
          CAPTURE(degree, rank, chunk);
          CHECK(span(Step::Expert, chunk).start >= span(to, chunk).end);
          CHECK(span(back, chunk).start >= span(Step::Expert, chunk).end);
          if (chunk + 1 == degree) continue;
          CHECK(span(to, chunk + 1).start < span(Step::Expert, chunk).end);
        }
      }
    }
    if (degree == 1) CHECK(timeline.overlap_ratio() < 0.01);
  }
}

}  // namespace run_ranks_tests
