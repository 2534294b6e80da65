// pipemoe run on one rank, without a launcher.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>

#include "models/files.hpp"
#include "models/timeline_io.hpp"
#include "tests/support/program.hpp"
#include "tests/support/random_runs.hpp"

namespace run_tests {

using namespace pipemoe;
using namespace pipemoe::test;
using Catch::Contains;

namespace {

const std::string kLayer =
    "run --layer experiments/layers/cpu-example.toml --set layer.tokens_per_rank=64 "
    "--set layer.model_dim=24 --set layer.hidden_dim=40 ";
const std::string kDegrees = "--forward-degree 2 --backward-degree 3 ";
const std::string kRun = kLayer + kDegrees + "--warm-up 1 --repeats 4 ";

Outcome run(const std::string& arguments) { return run_program(PIPEMOE_PROGRAM, arguments); }

// Exit code 2, nothing on standard output, one line that holds every one of `parts`.
void check_refused(const std::string& arguments, const std::vector<std::string>& parts) {
  const Outcome outcome = run(arguments);
  CAPTURE(arguments, outcome.err);
  CHECK(outcome.exit_code == 2);
  CHECK(outcome.out.empty());
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
  CHECK(outcome.err.starts_with("pipemoe: "));
  for (const std::string& part : parts) CHECK_THAT(outcome.err, Contains(part));
}

}  // namespace

TEST_CASE("ranks that a launcher claims and MPI does not join are refused", "[program]") {
  const auto refused = [](const std::string& variables) {
    const Outcome outcome = run_program("env " + variables + " " PIPEMOE_PROGRAM, kRun);
    CAPTURE(variables, outcome.err);
    CHECK(outcome.exit_code == 2);
    CHECK(outcome.out.empty());
    return outcome.err;
  };
  CHECK_THAT(refused("RANK=0 LOCAL_RANK=0 WORLD_SIZE=4"),
             Catch::Contains("torchrun says that it started 4 ranks") &&
                 Catch::Contains("mpirun -np 4") && Catch::Contains("--single-rank"));
  CHECK(refused("RANK=3 LOCAL_RANK=3 WORLD_SIZE=4").empty());  // rank 0 speaks
  CHECK_THAT(refused("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2"), Catch::Contains("srun says"));
  CHECK_THAT(refused("PMI_RANK=0 PMI_SIZE=two"), Catch::Contains("must be an integer"));
  const Outcome alone =
      run_program("env RANK=3 LOCAL_RANK=3 WORLD_SIZE=4 " PIPEMOE_PROGRAM, kRun + " --single-rank");
  CHECK(alone.exit_code == 0);
}

TEST_CASE("run shows what ran, on what, how long and how it was checked", "[program][run]") {
  const Outcome outcome = run(kRun + "--verify --link alpha=1ms,beta=1e-9");
  INFO(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  for (const char* part :
       {"cpu-example", "measured, 1 rank: CPU", "schedule pipemoe, degree 2 forward, 3 backward",
        "dispatch", "expert", "combine", "makespan", "median of 4 iterations",
        "link emulated: alpha 1 ms, beta 1e-09 s/byte",
        "verified against a float64 reference: output and every gradient within"}) {
    CHECK_THAT(outcome.out, Contains(part));
  }
}

TEST_CASE("the program verifies random layers", "[program][run][random]") {
  for (std::uint64_t index = 0; index < test_runs(10); ++index) {
    const RandomRun random = random_run(test_seed(), index, 1);
    Outcome outcome = run(random.arguments());
    if (outcome.exit_code == 1) outcome = run(random.with_other_numbers().arguments());
    CAPTURE(test_seed(), index, random.arguments(), outcome.err);
    CHECK(outcome.exit_code == 0);
    CHECK_THAT(outcome.out, Contains("verified against a float64 reference"));
  }
}

TEST_CASE("a gate that is all but sure has gradients to fp32", "[program][run]") {
  // Probabilities of 1 - 1e-5 and beyond: what is left of the auxiliary loss' gradient is the
  // difference of nearly equal numbers.
  for (const char* skew : {"10", "15", "20"}) {
    const Outcome outcome = run(kLayer +
                                "--forward-degree 3 --backward-degree 1 --repeats 1 "
                                "--auxiliary-loss 0.1 --verify --skew " +
                                skew);
    CAPTURE(skew, outcome.out, outcome.err);
    CHECK(outcome.exit_code == 0);
  }
  check_refused(kRun + "--skew nan", {"--skew", "nan"});
}

TEST_CASE("run says nothing of checks and links that were not asked for", "[program][run]") {
  const Outcome outcome = run(kRun);
  REQUIRE(outcome.exit_code == 0);
  CHECK_THAT(outcome.out, !Contains("verified") && !Contains("emulated"));
}

TEST_CASE("run --json is a timeline that says what was asked for", "[program][run]") {
  const Outcome outcome = run(kRun + "--json --seed 7 --skew 1.5 --no-biases");
  REQUIRE(outcome.exit_code == 0);
  const Timeline timeline = timeline_from_json(outcome.out, "run");
  CHECK(to_json(timeline) == outcome.out);
  CHECK(timeline.repeats.size() == 4);
  // Gate, permutation and weighting both ways, three steps for each of 2 and 3 chunks.
  CHECK(timeline.spans.size() == 2 * 3 + 3 * 2 + 3 * 3);
  CHECK_THAT(timeline.provenance.configuration,
             Contains("\"seed\":7") && Contains("\"skew\":1.5") && Contains("\"biases\":false") &&
                 Contains("\"backward_degree\":3") && Contains("\"communicator\":\"copy\""));
  CHECK(timeline.provenance.versions.count("BLAS") == 1);
}

TEST_CASE("files written by run hold what it prints", "[program][run]") {
  const TemporaryDirectory directory;
  const std::string json = directory.path("t.json"), csv = directory.path("t.csv"),
                    trace = directory.path("t.trace.json");
  const Outcome outcome =
      run(kRun + "--json --output " + json + " --csv " + csv + " --trace " + trace);
  REQUIRE(outcome.exit_code == 0);
  CHECK(read_file(json, "timeline") == outcome.out);
  const Timeline timeline = timeline_from_json(outcome.out, "run");
  CHECK(read_file(csv, "table") == to_csv(timeline));
  CHECK(read_file(trace, "trace") == to_chrome_trace({{timeline.provenance.made_by, &timeline}}));
}

TEST_CASE("run --verify fails when results differ from the reference", "[program][run]") {
  // A layer of single numbers: some sums cancel, and what is left of them is rounding. With this
  // seed the input's gradient is off by about 7e-5 of itself, more than a sound layer may be.
  const Outcome outcome =
      run("run --layer experiments/layers/cpu-example.toml --set layer.tokens_per_rank=1 "
          "--set layer.model_dim=1 --set layer.hidden_dim=1 --set layer.num_experts=1 "
          "--set layer.top_k=1 --set layer.capacity_factor=dropless --set layer.activation=gelu "
          "--forward-degree 1 --backward-degree 1 --repeats 1 --seed 103 --verify");
  INFO(outcome.err);
  CHECK(outcome.exit_code == 1);
  CHECK(outcome.out.empty());
  CHECK_THAT(outcome.err, Catch::StartsWith("pipemoe: input gradient differs from the float64 "
                                            "reference by "));
  CHECK_THAT(outcome.err, Contains("allowed 1e-05"));
}

TEST_CASE("backends and communicators of other builds say what to turn on", "[program][run]") {
  check_refused(kRun + "--backend cuda", {"--backend cuda", "-DPIPEMOE_WITH_CUDA=ON"});
  check_refused(kRun + "--communicator nccl", {"--communicator nccl", "-DPIPEMOE_WITH_CUDA=ON"});
  check_refused(kRun + "--communicator elided", {"elided", "-DPIPEMOE_WITH_CUDA=ON"});
  check_refused(kRun + "--communicator staged", {"staged", "-DPIPEMOE_WITH_CUDA=ON"});
#ifndef PIPEMOE_MPIEXEC
  check_refused(kRun + "--communicator mpi", {"--communicator mpi", "-DPIPEMOE_WITH_MPI=ON"});
#endif
}

TEST_CASE("backends and communicators that nobody has are refused with those there are",
          "[program][run]") {
  check_refused(kRun + "--backend tpu", {"--backend is tpu", "cpu or cuda"});
  check_refused(kRun + "--no-pack-rows", {"--no-pack-rows", "for --backend cuda"});
  check_refused(kRun + "--communicator pigeon",
                {"pigeon", "copy, mpi, staged, nccl, nccl-zero-cta, peer-copy, elided"});
}

TEST_CASE("run refuses what it cannot run", "[program][run]") {
  const std::string layer = "run --layer experiments/layers/cpu-example.toml ";
  check_refused("run --forward-degree 1 --backward-degree 1", {"--layer is required"});
  check_refused(layer, {"--cluster", "--forward-degree", "--backward-degree"});
  check_refused(layer + "--schedule pipemoe-deferred --forward-degree 2 --backward-degree 2",
                {"pipemoe-deferred needs --cluster"});
  check_refused(layer + "--schedule fastermoe --forward-degree 2", {"fastermoe has no degrees"});
  check_refused(layer + "--cluster experiments/clusters/rtx2080ti-100gib-64.toml",
                {"64", "mpirun -np 64"});
  check_refused(kRun + "--set layer.dtype=bf16", {"dtype is bf16", "fp32"});
  check_refused(kRun + "--set layer.model_dim=0", {"model_dim is 0"});
  check_refused(kLayer + "--forward-degree 33 --backward-degree 1",
                {"pipeline degree is 33, must be 1..32"});  // 64 * 2 / 4 slots
  check_refused(kLayer + kDegrees + "--repeats 0", {"--repeats: Value 0 not in range"});
  check_refused(kLayer + kDegrees + "--warm-up -1", {"--warm-up: Value -1 not in range"});
  check_refused(kRun + "--skew -1", {"--skew"});
  check_refused(kRun + "--seed many", {"--seed"});
  check_refused(kRun + "--link 1ms", {"--link 1ms", "alpha=1ms,beta=1e-9"});
}

TEST_CASE("run refuses an output that it cannot write", "[program][run]") {
  check_refused(kRun + "--output /nonexistent/t.json", {"/nonexistent/t.json", "cannot write"});
}

TEST_CASE("calibrate refuses degrees of which none fits a layer", "[program][calibrate]") {
  const TemporaryDirectory folder;
  const std::string output = (folder.path("profile.toml")).string();
  // 1024 tokens, two choices, four experts: 512 slots.
  check_refused(
      "calibrate --layer experiments/layers/cpu-example.toml --degrees 513,600 --output " + output,
      {"cpu-example has 512 slots", "513, 600"});
  CHECK_FALSE(std::filesystem::exists(output));
}

}  // namespace run_tests
