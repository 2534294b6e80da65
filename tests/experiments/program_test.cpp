// The program as scripts and people use it: its output's shape, and one clear line for bad input.
#include "tests/support/program.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <set>

#include "models/files.hpp"
#include "models/task_graph_io.hpp"
#include "models/timeline_io.hpp"

namespace program_tests {

using namespace pipemoe;
using namespace pipemoe::test;
using Json = nlohmann::json;

namespace {

const std::string kLayer = "--layer experiments/layers/pipemoe-example.toml ";
const std::string kCluster = "--cluster experiments/clusters/rtx2080ti-100gib-64.toml ";
const std::string kInputs = kLayer + kCluster;

Outcome run(const std::string& arguments) { return run_program(PIPEMOE_PROGRAM, arguments); }

Json json_of(const std::string& arguments) {
  const Outcome outcome = run(arguments);
  INFO(arguments << "\n" << outcome.err);
  REQUIRE(outcome.exit_code == 0);
  return Json::parse(outcome.out);
}

std::set<std::string> keys(const Json& object) {
  std::set<std::string> names;
  for (const auto& [key, value] : object.items()) names.insert(key);
  return names;
}

// Exit code 2, nothing on standard output, one line that holds every one of `parts`.
void check_refused(const std::string& arguments, const std::vector<std::string>& parts) {
  const Outcome outcome = run(arguments);
  CAPTURE(arguments, outcome.err);
  CHECK(outcome.exit_code == 2);
  CHECK(outcome.out.empty());
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
  CHECK(outcome.err.starts_with("pipemoe: "));
  for (const std::string& part : parts) CHECK_THAT(outcome.err, Catch::Contains(part));
}

std::string text_of(const std::string& file) {
  return read_file(std::string(PIPEMOE_SOURCE_DIR) + "/" + file, "file");
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("who chooses degrees says which ones were not tried", "[program]") {
  const std::string inputs =
      "--layer experiments/layers/small.toml --cluster experiments/clusters/h100-x2-peer-copy.toml";
  const std::string note = "degrees above 8 are left out";
  for (const char* command : {"plan ", "simulate "}) {
    const Outcome outcome = run(command + inputs);
    CAPTURE(command, outcome.err);
    CHECK(outcome.exit_code == 0);
    CHECK_THAT(outcome.out, Catch::Contains(note));
  }
  const Outcome given = run("simulate --forward-degree 2 --backward-degree 2 " + inputs);
  CHECK(given.exit_code == 0);
  CHECK_THAT(given.out, !Catch::Contains(note));
}

TEST_CASE("plan --json names degrees and times of both passes", "[program][plan]") {
  const Json plan = json_of("plan --json " + kInputs);
  for (const char* name : {"forward", "backward"}) {
    const Json& pass = plan.at(name);
    CHECK(keys(pass) == std::set<std::string>{"degree", "time_s", "by_degree"});
    double best = 1e9;
    for (const Json& one : pass["by_degree"]) {
      CHECK(keys(one) == std::set<std::string>{"degree", "time_s"});
      best = std::min(best, one["time_s"].get<double>());
    }
    CHECK(pass["time_s"] == best);
    CHECK(pass["by_degree"][pass["degree"].get<std::size_t>() - 1]["time_s"] == best);
  }
  CHECK(plan["iteration_s"].get<double>() ==
        Approx(plan["forward"]["time_s"].get<double>() + plan["backward"]["time_s"].get<double>()));
  CHECK(keys(plan) == std::set<std::string>{"cluster", "schedule", "network", "pipeline", "forward",
                                            "backward", "iteration_s", "basis", "slower",
                                            "provenance"});
  double basis = 0;
  for (const auto& [name, share] : plan["basis"].items()) basis += share.get<double>();
  CHECK(basis == Approx(1).epsilon(1e-9));
  CHECK(plan["schedule"] == "pipemoe");
  CHECK(plan["pipeline"] == true);
}

TEST_CASE("plan may defer weight gradients", "[program][plan]") {
  const Json plan = json_of("plan --json " + kInputs);
  const Json deferred = json_of("plan --json --schedule pipemoe-deferred " + kInputs);
  CHECK(deferred["schedule"] == "pipemoe-deferred");
  CHECK(deferred["backward"]["time_s"] <= plan["backward"]["time_s"]);
}

TEST_CASE("plan searches every schedule's knobs", "[program][plan]") {
  for (const char* schedule : {"pipemoe", "pipemoe-deferred", "tutel", "fastermoe", "sequential"}) {
    CAPTURE(schedule);
    const Json plan = json_of(std::string("plan --json --schedule ") + schedule + " " + kInputs);
    CHECK(plan["schedule"] == schedule);
    CHECK(plan["iteration_s"] > 0);
  }
  // Tutel has one degree for both passes.
  const Json tutel = json_of("plan --json --schedule tutel " + kInputs);
  CHECK(tutel["forward"]["degree"] == tutel["backward"]["degree"]);
}

TEST_CASE("what is chosen depends on the level at which it is asked", "[program][plan]") {
  // A network card of a thirtieth of the bandwidth: the fit does not know it, the links do.
  const std::string slow = "--set cluster.network.nic_bytes_per_s=4e8 " + kInputs;
  const Json fitted = json_of("plan --json " + slow);
  const Json links = json_of("plan --json --network links " + slow);
  CHECK(fitted["iteration_s"] == json_of("plan --json " + kInputs)["iteration_s"]);
  CHECK(links["iteration_s"] > 5 * fitted["iteration_s"].get<double>());
  const Json simulated = json_of("simulate --json --network node " + slow);
  const Json& used = simulated["provenance"]["configuration"];
  CHECK(used["forward_degree"] == links["forward"]["degree"]);
  CHECK(used["backward_degree"] == links["backward"]["degree"]);
  CHECK_THAT(run("plan " + slow).out, Catch::Contains("its links"));  // they contradict the fit
}

TEST_CASE("plan explains its choice to a person", "[program][plan]") {
  const Outcome outcome = run("plan " + kInputs);
  CHECK(outcome.exit_code == 0);
  for (const char* part : {"chosen", "bound by", "start-up", "overlap hides", "would take",
                           "iteration:", "rests on costs that are",
                           "cost nothing here: activation, gate, permutation"}) {
    CHECK_THAT(outcome.out, Catch::Contains(part));
  }
}

TEST_CASE("plan prints numbers where nothing is communicated or costs anything",
          "[program][plan]") {
  const std::string fit = "--set cluster.fits.";
  const Outcome outcome =
      run("plan " + fit + "all_to_all.64.alpha_s=0 " + fit + "all_to_all.64.beta_s_per_byte=0 " +
          fit + "gemm.fp32.alpha_s=0 " + fit + "gemm.fp32.beta_s_per_flop=0 " + kInputs);
  CHECK(outcome.exit_code == 0);
  CHECK_THAT(outcome.out, Catch::Contains("0.0 %") && !Catch::Contains("nan"));
}

TEST_CASE("plan chooses among profiles of the same ranks", "[program][plan]") {
  const TemporaryDirectory folder;
  std::string text = text_of("experiments/clusters/rtx2080ti-100gib-64.toml");
  text = replaced(text, "rtx2080ti-100gib-64", "twice-the-network");
  const Json before = json_of("plan --json " + kInputs);
  // The same experts, all-to-alls of half the time.
  const auto at = text.find("[fits.all_to_all.64]");
  REQUIRE(at != std::string::npos);
  const auto beta = text.find("beta_s_per_byte = ", at) + 18;
  const auto end = text.find('\n', beta);
  text = text.substr(0, beta) + fmt::format("{}", 0.5 * std::stod(text.substr(beta, end - beta))) +
         text.substr(end);
  const std::string other = "--or " + folder.file("other.toml", text) + " ";
  const Json plan = json_of("plan --json " + other + kInputs);
  CHECK(plan["cluster"] == "twice-the-network");
  CHECK(plan["iteration_s"] < before["iteration_s"]);
  REQUIRE(plan["slower"].size() == 1);
  CHECK(plan["slower"][0]["iteration_s"] == before["iteration_s"]);
  CHECK(plan["slower"][0]["forward_degree"] == before["forward"]["degree"]);
  CHECK_THAT(run("plan " + other + kInputs).out,
             Catch::Contains("profile") && Catch::Contains("chosen"));
  check_refused("plan --or experiments/clusters/rtx2080ti-100gib-32.toml " + kInputs,
                {"32 ranks", "no choice"});
}

TEST_CASE("plan says not to pipeline where chunks cost more than they hide", "[program][plan]") {
  const std::string launches = "--set cluster.fits.all_to_all.64.alpha_s=1 ";
  const Json plan = json_of("plan --json " + launches + kInputs);
  CHECK(plan["pipeline"] == false);
  CHECK(plan["forward"]["degree"] == 1);
  CHECK_THAT(run("plan " + launches + kInputs).out,
             Catch::Contains("do not pipeline: two chunks would hide"));
  CHECK_THAT(run("plan --max-degree 1 " + kInputs).out,
             Catch::Contains("do not pipeline: one chunk is the largest"));
  CHECK_THAT(run("plan " + kInputs).out, !Catch::Contains("do not pipeline"));
}

TEST_CASE("plan --without-contention leaves slowdowns out", "[program][plan]") {
  const TemporaryDirectory folder;
  const std::string text = text_of("experiments/clusters/rtx2080ti-100gib-64.toml") +
                           "\n[contention]\nsource = 'test'\n"
                           "forward = {products = 1.5, collectives = 1.5}\n"
                           "gradients = {products = 1.5, collectives = 1.5}\n";
  const std::string slowed = kLayer + "--cluster " + folder.file("slowed.toml", text);
  const Json with = json_of("plan --json " + slowed);
  const Json without = json_of("plan --json --without-contention " + slowed);
  CHECK(with["iteration_s"] > without["iteration_s"]);
  CHECK(without["iteration_s"] == json_of("plan --json " + kInputs)["iteration_s"]);
}

TEST_CASE("simulate --json is a timeline whose parts add up", "[program][simulate]") {
  for (const char* network : {"fitted", "links", "node", "gpu"}) {
    const std::string arguments = std::string("simulate --json --forward-degree 2 ") +
                                  "--backward-degree 1 --network " + network + " " + kInputs;
    const Outcome outcome = run(arguments);
    REQUIRE(outcome.exit_code == 0);
    const Json json = Json::parse(outcome.out);
    CHECK(keys(json) == std::set<std::string>{"schema", "provenance", "makespan_s", "forward_s",
                                              "backward_s", "basis", "queues", "spans"});
    CHECK(json["makespan_s"].get<double>() ==
          Approx(json["forward_s"].get<double>() + json["backward_s"].get<double>()));
    CHECK(json["provenance"]["configuration"]["network"] == network);
    CHECK(json["provenance"]["configuration"]["layer"]["model_dim"] == 4096);
    const Timeline timeline = timeline_from_json(outcome.out, "simulate");
    // 3 kernels around the experts a pass, 2 and 1 chunks of three steps.
    CHECK(timeline.spans.size() == 2 * 3 + 3 * 2 + 3 * 1);
    CHECK(to_json(timeline) == outcome.out);
  }
}

TEST_CASE("simulate takes the degrees that plan chooses when none are given",
          "[program][simulate]") {
  const Json plan = json_of("plan --json " + kInputs);
  const Json simulated = json_of("simulate --json " + kInputs);
  const Json& used = simulated["provenance"]["configuration"];
  CHECK(used["forward_degree"] == plan["forward"]["degree"]);
  CHECK(used["backward_degree"] == plan["backward"]["degree"]);
}

TEST_CASE("an override changes the result as the file would", "[program]") {
  const TemporaryDirectory directory;
  const std::string layer =
      directory.file("layer.toml", replaced(text_of("experiments/layers/pipemoe-example.toml"),
                                            "model_dim = 4096", "model_dim = 1024"));
  const Json by_file = json_of("plan --json --layer " + layer + " " + kCluster);
  const Json by_option = json_of("plan --json --set layer.model_dim=1024 " + kInputs);
  CHECK(by_file["iteration_s"] == by_option["iteration_s"]);
  const Json faster = json_of("plan --json --set cluster.fits.all_to_all.64.alpha_s=0 " + kInputs);
  CHECK(faster["forward"]["time_s"] < json_of("plan --json " + kInputs)["forward"]["time_s"]);
}

TEST_CASE("an overridden link that fitted costs ignore is said to be ignored", "[program]") {
  const std::string set = "--set cluster.network.nic_bytes_per_s=25e9 ";
  const std::string note = "cluster.network.nic_bytes_per_s changes no fitted cost";
  CHECK_THAT(run("plan " + set + kInputs).out, Catch::Contains(note));
  CHECK_THAT(run("simulate " + set + kInputs).out, Catch::Contains(note));
  const Outcome node = run("simulate --network node " + set + kInputs);
  CHECK_THAT(node.out, !Catch::Contains(note));
  CHECK(node.out != run("simulate --network node " + kInputs).out);
}

TEST_CASE("every settable layer key is accepted", "[program]") {
  for (const char* set :
       {"layer.batch_size=4", "layer.sequence_length=512", "layer.tokens_per_rank=2048",
        "layer.model_dim=512", "layer.hidden_dim=512", "layer.num_experts=128", "layer.top_k=1",
        "layer.capacity_factor=1.2", "layer.capacity_factor=dropless", "layer.dtype=fp32",
        "layer.activation=swiglu", "cluster.network.efficiency=0.9",
        "cluster.network.nic_bytes_per_s=25e9"}) {
    CAPTURE(set);
    CHECK(run("simulate --network node --set " + std::string(set) + " " + kInputs).exit_code == 0);
  }
}

TEST_CASE("graph prints JSON that simulate runs to the same makespan", "[program][graph]") {
  const TemporaryDirectory directory;
  const std::string degrees = "--forward-degree 3 --backward-degree 2 ";
  const std::string graph =
      directory.file("graph.json", run("graph --format json " + degrees + kInputs).out);
  const Json from_graph = json_of("simulate --json --graph " + graph + " " + kCluster);
  const Json from_layer = json_of("simulate --json " + degrees + kInputs);
  CHECK(from_graph["makespan_s"] == from_layer["makespan_s"]);
  CHECK(from_graph["spans"] == from_layer["spans"]);
}

TEST_CASE("graph prints DOT and GraphML", "[program][graph]") {
  CHECK_THAT(run("graph --format dot " + kInputs).out, Catch::StartsWith("digraph"));
  CHECK_THAT(run("graph --format graphml " + kInputs).out, Catch::Contains("<graphml"));
}

TEST_CASE("files written by simulate hold what it prints", "[program][simulate]") {
  const TemporaryDirectory directory;
  const std::string json = directory.path("t.json"), csv = directory.path("t.csv"),
                    trace = directory.path("t.trace.json");
  const Outcome outcome = run("simulate --json --output " + json + " --csv " + csv + " --trace " +
                              trace + " " + kInputs);
  CHECK(read_file(json, "timeline") == outcome.out);
  const Timeline timeline = timeline_from_json(outcome.out, "simulate");
  CHECK(read_file(csv, "table") == to_csv(timeline));
  CHECK(read_file(trace, "trace") == to_chrome_trace({{timeline.provenance.made_by, &timeline}}));
}

TEST_CASE("every subcommand's help shows an example", "[program]") {
  for (const char* command : {"plan", "simulate", "graph", "compare", "import profile"}) {
    const Outcome outcome = run(std::string(command) + " --help");
    CHECK(outcome.exit_code == 0);
    CHECK_THAT(outcome.out, Catch::Contains("Example:"));
  }
}

TEST_CASE("an output that cannot be written is refused and leaves nothing", "[program][errors]") {
  check_refused("simulate --trace /nonexistent/t.json " + kInputs,
                {"/nonexistent/t.json", "cannot write"});
  const TemporaryDirectory directory;
  const std::string folder = directory.path("");
  check_refused("simulate --trace " + folder + " " + kInputs, {folder});
  check_refused("simulate --trace '' " + kInputs, {"--trace: must not be empty"});
  CHECK(directory.is_empty());
}

TEST_CASE("a full standard output is an error", "[program][errors]") {
  for (const std::string& arguments : {std::string("--version"), "plan " + kInputs}) {
    const Outcome outcome =
        run_program("sh", "-c '" PIPEMOE_PROGRAM " " + arguments + " >/dev/full'");
    CHECK(outcome.exit_code == 1);
    CHECK_THAT(outcome.err, Catch::Contains("cannot write to standard output"));
  }
}

TEST_CASE("a profile of version 1 is refused with the command that converts it",
          "[program][errors]") {
  const TemporaryDirectory directory;
  const std::string now = text_of("experiments/clusters/rtx2080ti-100gib-64.toml");
  const std::string before = replaced(now, "schema = \"pipemoe.cluster/2\"\n", "");
  const std::string old = directory.file("old.toml", before);
  check_refused("plan " + kLayer + "--cluster " + old,
                {"version 1", "pipemoe import profile", "--output NEW"});
  const std::string converted = directory.path("new.toml");
  REQUIRE(run("import profile " + old + " --output " + converted).exit_code == 0);
  CHECK(json_of("plan --json " + kLayer + "--cluster " + converted)["iteration_s"] ==
        json_of("plan --json " + kInputs)["iteration_s"]);
}

TEST_CASE("files that cannot be used are refused", "[program][errors]") {
  check_refused("plan --layer missing.toml " + kCluster, {"missing.toml", "cannot read"});
  check_refused("plan --layer experiments " + kCluster, {"experiments", "cannot read"});
  const TemporaryDirectory directory;
  const std::string broken = directory.file("broken.toml", "name = \"x\"\nmodel_dim = = 3\n");
  check_refused("plan --layer " + broken + " " + kCluster, {"broken.toml:2:"});
}

TEST_CASE("values that cannot be used are refused, with key, value and range",
          "[program][errors]") {
  const auto refused = [](const std::string& set, const std::vector<std::string>& parts) {
    check_refused("plan --set " + set + " " + kInputs, parts);
  };
  refused("layer.model_dimm=3", {"model_dimm is an unknown key"});
  refused("layer.model_dim=wide", {"model_dim is", "must be an integer"});
  refused("layer.model_dim=4.5", {"model_dim is 4.5", "must be an integer"});
  refused("layer.model_dim=0", {"model_dim is 0, must be 1.."});
  refused("layer.hidden_dim=-8", {"hidden_dim is -8, must be 1.."});
  refused("layer.model_dim=99999999999", {"model_dim is 99999999999, must be 1.."});
  refused("layer.tokens_per_rank=9223372036854775807", {"tokens_per_rank", "must be 1.."});
  refused("layer.top_k=65", {"top_k is 65, must be 1..num_experts (64)"});
  refused("layer.num_experts=96", {"num_experts is 96, must be a multiple of the 64 ranks"});
  refused("layer.capacity_factor=0", {"capacity_factor is 0"});
  refused("layer.capacity_factor=nan", {"capacity_factor is nan"});
  refused("layer.dtype=fp8", {"dtype is fp8, must be one of fp32, bf16, fp16"});
  refused("layer.activation=tanh", {"activation is tanh"});
  refused("layer.dtype=bf16", {"no gemm fit for bf16"});
  refused("cluster.nodes=8", {"no all_to_all fit for 32 ranks (fitted: 64)"});
  refused("cluster.network.efficiency=1.5", {"network.efficiency is 1.5"});
  refused("cluster.fits.all_to_all.64.alpha_s=nan", {"alpha_s is nan"});
  refused("cluster.fits.all_to_all.64.beta_s_per_byte=inf", {"beta_s_per_byte is inf"});
  refused("cluster.not_modelled=[]", {"no activation fit, which not_modelled does not list"});
  refused("model_dim=3", {"must be layer.KEY=VALUE or cluster.KEY=VALUE"});
  refused("layer.name=$(printf 'a\\377b')", {"layer.name=a\\xffb: must be UTF-8"});
}

TEST_CASE("options that cannot be used are refused", "[program][errors]") {
  check_refused("", {"subcommand"});
  check_refused("fly", {"fly"});
  check_refused("plan " + kLayer, {"--cluster"});
  check_refused("plan " + kCluster, {"--layer"});
  check_refused("plan --max-degree 9223372036854775807 " + kInputs, {"must be 1..4096"});
  check_refused("plan --max-degree 0 " + kInputs, {"largest degree", "1..4096"});
  check_refused("simulate --forward-degree 257 " + kInputs,
                {"pipeline degree is 257, must be 1..256"});
  check_refused("simulate --backward-degree 0 " + kInputs, {"pipeline degree is 0"});
  check_refused("simulate --schedule magic " + kInputs,
                {"magic", "pipemoe, pipemoe-deferred, tutel, fastermoe, sequential"});
  check_refused("simulate --network packet " + kInputs, {"packet", "fitted, links, node, gpu"});
  check_refused("simulate --schedule sequential --forward-degree 2 " + kInputs, {"sequential"});
  check_refused("graph --format png " + kInputs, {"png", "json, dot, graphml"});
}

TEST_CASE("a graph that cannot run is refused", "[program][errors]") {
  const TemporaryDirectory directory;
  const std::string text = run("graph --forward-degree 1 --backward-degree 1 " + kInputs).out;
  const auto refused = [&](const std::string& changed, const std::vector<std::string>& parts) {
    check_refused("simulate --graph " + directory.file("graph.json", changed) + " " + kCluster,
                  parts);
  };
  Json cyclic = Json::parse(text);
  cyclic["dependencies"].push_back({"block0.forward.combine.0", "block0.forward.permute.0"});
  refused(cyclic.dump(),
          {"graph.json", "cycle", "block0.forward.permute.0", "block0.forward.dispatch.0",
           "block0.forward.expert.0", "block0.forward.combine.0"});
  Json unknown = Json::parse(text);
  unknown["tasks"][0]["step"] = "teleport";
  refused(unknown.dump(), {"graph.json", "step is teleport"});
  refused(text.substr(0, text.size() / 2), {"graph.json"});
}

namespace {

// A prediction of the example at degrees 2 and 1, and the same on two ranks: each task twice as
// long and half a millisecond of gate.
struct ComparedFiles {
  TemporaryDirectory directory;
  std::string predicted, measured;

  ComparedFiles() {
    const std::string text =
        run("simulate --json --forward-degree 2 --backward-degree 1 " + kInputs).out;
    predicted = directory.file("predicted.json", text);
    Timeline slow = timeline_from_json(text, "simulate");
    for (Span& span : slow.spans) {
      span.start = 2 * span.start + Seconds{5e-4};
      span.end = 2 * span.end + Seconds{5e-4};
      if (span.task.step == Step::Gate && span.task.pass == Pass::Forward) {
        span.start = Seconds{};
      }
    }
    for (std::size_t i = 0, one_rank = slow.spans.size(); i < one_rank; ++i) {
      slow.spans.push_back(slow.spans[i]);
      slow.spans.back().rank = 1;
    }
    slow.repeats = {Seconds{3}, Seconds{1}};
    slow.provenance.made_by = "a test";
    measured = directory.file("measured.json", to_json(slow));
  }
  std::string both() const { return predicted + " " + measured; }
};

}  // namespace

TEST_CASE("compare --json has a row for each step and the whole", "[program][compare]") {
  const ComparedFiles files;
  const Json json = json_of("compare --json " + files.both());
  CHECK(json["schema"] == "pipemoe.comparison/2");
  CHECK(json["measured"]["ranks"] == 2);
  CHECK(json["measured"]["repeats"] == 2);
  CHECK(json["steps"].size() == 12);  // six steps, forward and backward
  for (const Json& row : json["steps"]) {
    const bool modelled =
        row["step"] == "dispatch" || row["step"] == "combine" || row["step"] == "expert";
    CAPTURE(row.dump());
    CHECK(row["modelled"] == modelled);
    CHECK(row["tasks_per_rank"] == (modelled && row["pass"] == "forward" ? 2 : 1));
    if (!modelled) continue;
    CHECK(row["sum"]["relative_error"].get<double>() == Approx(-0.5).epsilon(1e-9));
  }
  REQUIRE(json["whole"].size() == 5);
  const Json& makespan = json["whole"][2];
  CHECK(makespan["quantity"] == "makespan");
  CHECK(makespan["measured_s"].get<double>() ==
        Approx(2 * makespan["predicted_s"].get<double>() + 5e-4).epsilon(1e-9));
}

TEST_CASE("compare tells a person what was not modelled and how repeats spread",
          "[program][compare]") {
  const ComparedFiles files;
  const Outcome outcome = run("compare " + files.both());
  CHECK(outcome.exit_code == 0);
  for (const char* part : {"evaluation, network level fitted (1 rank)", "a test (2 ranks)",
                           "not modelled", "-50.0 %", "iteration",
                           "measured iterations: 2, 1000.000 ms the fastest, 1000.000 the median, "
                           "3000.000 the slowest"}) {
    CHECK_THAT(outcome.out, Catch::Contains(part));
  }
}

TEST_CASE("compare writes a table and one trace of both", "[program][compare]") {
  const ComparedFiles files;
  const std::string csv = files.directory.path("c.csv"), trace = files.directory.path("t.json");
  REQUIRE(run("compare --csv " + csv + " --trace " + trace + " " + files.both()).exit_code == 0);
  const std::string table = read_file(csv, "table");
  CHECK(std::count(table.begin(), table.end(), '\n') == 1 + 12 + 5);
  CHECK_THAT(table, Catch::StartsWith("scope,quantity,tasks_per_rank,modelled,predicted_mean_s,"));
  CHECK_THAT(table, Catch::Contains("\nforward,gate,1,false,0,0.0005,0,0.0005,-0.0005,-1\n"));
  CHECK_THAT(table, Catch::Contains("\niteration,makespan,,true,,,"));
  const Timeline predicted = timeline_from_json(read_file(files.predicted, "timeline"), "p");
  const Timeline measured = timeline_from_json(read_file(files.measured, "timeline"), "m");
  CHECK(read_file(trace, "trace") ==
        to_chrome_trace({{"predicted: evaluation, network level fitted", &predicted},
                         {"measured: a test", &measured}}));
}

TEST_CASE("timelines that cannot be compared are refused", "[program][compare][errors]") {
  const ComparedFiles files;
  check_refused("compare " + files.predicted, {"measured"});
  check_refused("compare missing.json " + files.measured, {"missing.json", "cannot read"});
  check_refused("compare " + files.directory.file("bad.json", "{}") + " " + files.measured,
                {"bad.json", "schema is missing"});
  const std::string other = files.directory.file(
      "other.json", run("simulate --json --forward-degree 3 --backward-degree 1 " + kInputs).out);
  check_refused(
      "compare " + other + " " + files.measured,
      {"other.json and ",
       "block0.forward.dispatch.2 is in the predicted timeline, not in the measured one"});
  check_refused("compare --trace /nonexistent/t.json " + files.both(), {"cannot write"});
}

}  // namespace program_tests
