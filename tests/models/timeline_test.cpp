// Timelines: what they say (models/timeline.hpp), their files (models/timeline_io.hpp), and one
// against another (models/comparison.hpp).
#include "models/timeline.hpp"

#include <catch2/catch.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>

#include "models/comparison.hpp"
#include "models/error.hpp"
#include "models/timeline_io.hpp"

namespace pipemoe::timeline_test {

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using Json = nlohmann::json;

namespace {

constexpr QueueId kCompute = 0, kNetwork = 1, kNodeLinks = 2;

std::vector<Queue> three_queues() {
  return {{"compute", Resource::Compute, 0},
          {"network", Resource::Network, 1},
          {"node_links", Resource::NodeLinks, 2}};
}

Span span(QueueId queue, double start, double end, int rank = 0, Pass pass = Pass::Forward) {
  return {{.pass = pass, .step = Step::Expert}, queue, rank, Seconds{start}, Seconds{end}};
}

Timeline timeline(std::vector<Span> spans) { return {{}, three_queues(), std::move(spans)}; }

// Whole seconds on random queues of rank 0, so that sums are exact.
Timeline random_timeline(std::mt19937_64& random) {
  const auto draw = [&](int to) { return std::uniform_int_distribution<int>(0, to)(random); };
  std::vector<Span> spans;
  for (int count = draw(20); count > 0; --count) {
    const double start = draw(50);
    spans.push_back(span(static_cast<QueueId>(draw(2)), start, start + draw(10)));
  }
  return timeline(spans);
}

// Counts the seconds in which communication runs, and in which it runs alone.
std::pair<double, double> communication_by_counting(const Timeline& line) {
  double communicating = 0, exposed = 0;
  for (double second = 0; second < 60; ++second) {
    bool communicates = false, computes = false;
    for (const Span& one : line.spans) {
      if (one.start.count() > second || one.end.count() <= second) continue;
      (one.queue == kCompute ? computes : communicates) = true;
    }
    communicating += communicates;
    exposed += communicates && !computes;
  }
  return {communicating, exposed};
}

}  // namespace

TEST_CASE("an empty timeline takes no time", "[models][timeline]") {
  const Timeline empty;
  CHECK(empty.makespan() == Seconds{0});
  CHECK(empty.forward() == Seconds{0});
  CHECK(empty.backward() == Seconds{0});
  CHECK(empty.busy(Resource::Compute) == Seconds{0});
  CHECK(empty.communication() == Seconds{0});
  CHECK(empty.exposed_communication() == Seconds{0});
  CHECK(empty.overlap_ratio() == 0);
}

TEST_CASE("makespan and passes end with the last span of any rank", "[models][timeline]") {
  const Timeline line =
      timeline({span(kCompute, 4, 7, 1, Pass::Backward), span(kCompute, 0, 3),
                span(kNetwork, 1, 4, 2), span(kNetwork, 4, 6, 0, Pass::Backward)});
  CHECK(line.makespan() == Seconds{7});
  CHECK(line.forward() == Seconds{4});
  CHECK(line.backward() == Seconds{3});
}

TEST_CASE("a timeline without a forward pass is all backward", "[models][timeline]") {
  const Timeline line = timeline({span(kCompute, 1, 3, 0, Pass::Backward)});
  CHECK(line.forward() == Seconds{0});
  CHECK(line.backward() == Seconds{3});
}

TEST_CASE("a resource's gaps do not count as busy", "[models][timeline]") {
  const Timeline line =
      timeline({span(kCompute, 5, 6), span(kCompute, 0, 2), span(kNetwork, 2, 9)});
  CHECK(line.busy(Resource::Compute) == Seconds{3});
  CHECK(line.busy(Resource::Network) == Seconds{7});
  CHECK(line.busy(Resource::NodeLinks) == Seconds{0});
}

TEST_CASE("spans that overlap or touch on one resource count once", "[models][timeline]") {
  const Timeline line = timeline({span(kCompute, 0, 4), span(kCompute, 1, 2), span(kCompute, 3, 5),
                                  span(kCompute, 5, 6), span(kCompute, 8, 8)});
  CHECK(line.busy(Resource::Compute) == Seconds{6});
}

TEST_CASE("communication is the union of all communication queues", "[models][timeline]") {
  // Network 0-4, node links 3-6 and 8-9: 0-6 and 8-9.
  const Timeline line =
      timeline({span(kNetwork, 0, 4), span(kNodeLinks, 3, 6), span(kNodeLinks, 8, 9)});
  CHECK(line.communication() == Seconds{7});
  CHECK(line.exposed_communication() == Seconds{7});
  CHECK(line.overlap_ratio() == 0);
}

TEST_CASE("exposed communication is what no computation hides", "[models][timeline]") {
  // Communication 0-6 and 8-10; computation 1-3, 5-9: hidden 1-3, 5-6, 8-9 of 8 s.
  const Timeline line =
      timeline({span(kNetwork, 0, 4), span(kNodeLinks, 3, 6), span(kNetwork, 8, 10),
                span(kCompute, 5, 9), span(kCompute, 1, 3)});
  CHECK(line.communication() == Seconds{8});
  CHECK(line.exposed_communication() == Seconds{4});
  CHECK(line.overlap_ratio() == 0.5);
}

TEST_CASE("communication under computation is fully hidden", "[models][timeline]") {
  const Timeline line =
      timeline({span(kCompute, 0, 9), span(kNetwork, 1, 2), span(kNodeLinks, 4, 9)});
  CHECK(line.exposed_communication() == Seconds{0});
  CHECK(line.overlap_ratio() == 1);
}

TEST_CASE("communication that only touches computation is exposed", "[models][timeline]") {
  const Timeline line =
      timeline({span(kCompute, 1, 2), span(kNetwork, 0, 1), span(kNetwork, 2, 3)});
  CHECK(line.exposed_communication() == Seconds{2});
}

TEST_CASE("each rank is measured by its own spans", "[models][timeline]") {
  // Rank 0 hides 1 of 2 s behind its own work; rank 1 computes nothing.
  const Timeline line = timeline({span(kNetwork, 0, 2, 0), span(kCompute, 1, 4, 0),
                                  span(kNetwork, 0, 5, 1), span(kCompute, 0, 9, 2)});
  CHECK(line.busy(Resource::Compute, 0) == Seconds{3});
  CHECK(line.busy(Resource::Compute, 1) == Seconds{0});
  CHECK(line.busy(Resource::Compute, 2) == Seconds{9});
  CHECK(line.overlap_ratio(0) == 0.5);
  CHECK(line.communication(1) == Seconds{5});
  CHECK(line.overlap_ratio(1) == 0);
  CHECK(line.exposed_communication(2) == Seconds{0});
  CHECK(line.communication(3) == Seconds{0});
}

TEST_CASE("overlap equals counting second by second", "[models][timeline]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 500; ++i) {
    const Timeline line = random_timeline(random);
    CAPTURE(i, line.spans.size());
    const auto [communicating, exposed] = communication_by_counting(line);
    REQUIRE(line.communication().count() == communicating);
    REQUIRE(line.exposed_communication().count() == exposed);
    const double hidden = communicating > 0 ? 1 - exposed / communicating : 0;
    REQUIRE(line.overlap_ratio() == hidden);
  }
}

// ---- files ----

namespace {

// Any doubles: sums and quotients that no short decimal number equals.
Timeline any_timeline(std::mt19937_64& random) {
  std::uniform_real_distribution<double> time(0, 10);
  const auto draw = [&](int to) { return std::uniform_int_distribution<int>(0, to)(random); };
  Timeline line{.queues = three_queues()};
  if (draw(1) == 1) line.basis = BasisShares{1.0 / (1 + draw(6)), 1.0 / 3, 0, 1};
  line.provenance = {"pipemoe 0",
                     "abc",
                     "host \"x\" é",
                     "a test",
                     {{"lib", "1.2"}},
                     {"one note", "another line"},
                     R"({"a":[1,2.5,null]})"};
  for (int count = draw(5); count > 0; --count) line.repeats.push_back(Seconds{time(random) / 3});
  for (int count = draw(30); count > 0; --count) {
    const double start = time(random);
    line.spans.push_back({{draw(2), draw(3), static_cast<Pass>(draw(1)), static_cast<Step>(draw(7)),
                           draw(9), draw(1)},
                          static_cast<QueueId>(draw(2)),
                          draw(5),
                          Seconds{start},
                          Seconds{start + time(random) / 3}});
  }
  return line;
}

// Rank 0 computes 0.5-2 s forward, rank 2 exchanges 2-2.25 s backward.
Timeline two_spans() {
  Timeline line{.queues = three_queues()};
  line.spans = {{{.step = Step::Expert, .chunk = 3}, kCompute, 0, Seconds{0.5}, Seconds{2}},
                {{.block = 1, .pass = Pass::Backward, .step = Step::Combine},
                 kNetwork,
                 2,
                 Seconds{2},
                 Seconds{2.25}}};
  return line;
}

std::set<std::string> keys(const Json& object) {
  std::set<std::string> names;
  for (const auto& [key, value] : object.items()) names.insert(key);
  return names;
}

// The failure of reading two_spans() with `edit` done to it.
template <class Edit>
std::string failure(Edit edit) {
  Json json = Json::parse(to_json(two_spans()));
  edit(json);
  try {
    timeline_from_json(json.dump(), "t.json");
  } catch (const InputError& error) {
    return error.what();
  }
  return "no failure";
}

Json trace_events(const std::vector<std::pair<std::string, const Timeline*>>& timelines) {
  return Json::parse(to_chrome_trace(timelines))["traceEvents"];
}

// What the Trace Event Format asks of the two kinds of event in use.
void check_event(const Json& event) {
  CAPTURE(event.dump());
  REQUIRE(event.is_object());
  REQUIRE(event["name"].is_string());
  REQUIRE(event["ph"].is_string());
  REQUIRE(event["pid"].is_number_integer());
  REQUIRE(event["tid"].is_number_integer());
  if (event["ph"] == "X") {
    REQUIRE(event["cat"].is_string());
    REQUIRE(event["ts"].is_number());
    REQUIRE(event["dur"].is_number());
    REQUIRE(event["ts"].get<double>() >= 0);
    REQUIRE(event["dur"].get<double>() >= 0);
  } else {
    REQUIRE(event["ph"] == "M");
    REQUIRE((event["name"] == "process_name" || event["name"] == "thread_name"));
    REQUIRE(event["args"]["name"].is_string());
  }
}

}  // namespace

TEST_CASE("a timeline reads back to the last bit", "[models][timeline][io]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 50; ++i) {
    const Timeline line = any_timeline(random);
    CAPTURE(i, line.spans.size());
    REQUIRE(timeline_from_json(to_json(line), "t.json") == line);
  }
  const Timeline empty{.queues = three_queues()};
  CHECK(timeline_from_json(to_json(empty), "t.json") == empty);
}

TEST_CASE("a written timeline has these keys and no others", "[models][timeline][io]") {
  const Json json = Json::parse(to_json(two_spans()));
  CHECK(keys(json) == std::set<std::string>{"schema", "provenance", "makespan_s", "forward_s",
                                            "backward_s", "queues", "spans"});
  CHECK(keys(json["provenance"]) == std::set<std::string>{"program", "commit", "host", "made_by",
                                                          "versions", "notes", "configuration"});
  REQUIRE(json["spans"].size() == 2);
  for (const Json& span : json["spans"]) {
    CHECK(keys(span) == std::set<std::string>{"task", "microbatch", "block", "pass", "step",
                                              "chunk", "stage", "queue", "rank", "start_s",
                                              "end_s"});
  }
}

TEST_CASE("a written timeline holds its times and names", "[models][timeline][io]") {
  const Json json = Json::parse(to_json(two_spans()));
  CHECK(json["schema"] == "pipemoe.timeline/2");
  CHECK(json["makespan_s"] == 2.25);
  CHECK(json["forward_s"] == 2.0);
  CHECK(json["backward_s"] == 0.25);
  CHECK(json["queues"][1] == Json({{"name", "network"}, {"resource", "network"}, {"priority", 1}}));
  const Json expected{{"task", "block1.backward.combine.0"},
                      {"microbatch", 0},
                      {"block", 1},
                      {"pass", "backward"},
                      {"step", "combine"},
                      {"chunk", 0},
                      {"stage", 0},
                      {"queue", "network"},
                      {"rank", 2},
                      {"start_s", 2.0},
                      {"end_s", 2.25}};
  CHECK(json["spans"][1] == expected);
}

TEST_CASE("the configuration is written as JSON, not as text", "[models][timeline][io]") {
  Timeline line;
  line.provenance.configuration = R"({"layer":{"top_k":2}})";
  CHECK(Json::parse(to_json(line))["provenance"]["configuration"]["layer"]["top_k"] == 2);
}

TEST_CASE("text that is no timeline is refused, its origin named", "[models][timeline][io]") {
  for (const char* text : {"", "{", "[]", "3", "null", "{}", "{\"schema\": 1e999}", "\xff"}) {
    CAPTURE(text);
    CHECK_THROWS_WITH(timeline_from_json(text, "t.json"), StartsWith("t.json: "));
    CHECK_THROWS_AS(timeline_from_json(text, "t.json"), InputError);
  }
}

TEST_CASE("unknown and missing keys of a timeline are refused", "[models][timeline][io]") {
  CHECK_THAT(failure([](Json& json) { json["typo"] = 1; }),
             StartsWith("t.json: timeline.typo is an unknown key"));
  CHECK_THAT(failure([](Json& json) { json["provenance"]["typo"] = 1; }),
             StartsWith("t.json: provenance.typo is an unknown key"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["typo"] = 1; }),
             StartsWith("t.json: span.typo is an unknown key"));
  const Json whole = Json::parse(to_json(two_spans()));
  for (const std::string& key : keys(whole)) {
    CHECK(failure([&](Json& json) { json.erase(key); }) ==
          "t.json: timeline." + key + " is missing");
  }
  for (const std::string& key : keys(whole["provenance"])) {
    CHECK(failure([&](Json& json) { json["provenance"].erase(key); }) ==
          "t.json: provenance." + key + " is missing");
  }
  for (const std::string& key : keys(whole["spans"][0])) {
    CHECK(failure([&](Json& json) { json["spans"][0].erase(key); }) ==
          "t.json: span." + key + " is missing");
  }
}

TEST_CASE("values of a timeline must be of their type", "[models][timeline][io]") {
  CHECK(failure([](Json&) {}) == "no failure");
  CHECK(failure([](Json& json) { json["schema"] = "pipemoe.timeline/1"; }) ==
        "t.json: timeline.schema is pipemoe.timeline/1, must be pipemoe.timeline/2");
  CHECK_THAT(failure([](Json& json) { json["makespan_s"] = "2"; }), Contains("must be a number"));
  CHECK_THAT(failure([](Json& json) { json["spans"] = 1; }), Contains("spans must be a list"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["start_s"] = nullptr; }),
             Contains("span.start_s must be a number"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["rank"] = -1; }), Contains("rank is -1"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["step"] = "nap"; }),
             Contains("span.step is nap, must be one of"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["queue"] = "nap"; }),
             Contains("span.queue is nap, which is no queue of the graph"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["end_s"] = 0.25; }),
             Contains("end_s must not be before start_s"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["task"] = "nap"; }),
             Contains("span.task is nap, must be block0.forward.expert.3"));
  CHECK_THAT(failure([](Json& json) { json["provenance"]["notes"] = {1}; }),
             Contains("notes must hold texts"));
  CHECK_THAT(failure([](Json& json) { json["provenance"]["versions"]["x"] = 1; }),
             Contains("versions must hold texts"));
  CHECK_THAT(failure([](Json& json) { json["provenance"]["notes"] = {"a\nb"}; }),
             Contains("notes must hold no control characters"));
  CHECK_THAT(failure([](Json& json) { json["provenance"]["versions"]["x"] = "\x1b[2J"; }),
             Contains("versions must hold no control characters"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["end_s"] = 1e16; }),
             Contains("end_s is 1e+16, must be at most 1e+15"));
}

TEST_CASE("versions of a timeline's provenance are an object", "[models][timeline][io]") {
  for (const char* versions : {"null", "[]", "[\"1.0\"]", "\"1.0\""}) {
    CAPTURE(versions);
    CHECK_THAT(failure([&](Json& json) { json["provenance"]["versions"] = Json::parse(versions); }),
               Contains("versions must be an object"));
  }
}

TEST_CASE("CSV has a header and a row for each span", "[models][timeline][io]") {
  CHECK(to_csv(two_spans()) ==
        "task,microbatch,block,pass,step,chunk,stage,queue,rank,start_s,end_s\n"
        "block0.forward.expert.3,0,0,forward,expert,3,0,compute,0,0.5,2\n"
        "block1.backward.combine.0,0,1,backward,combine,0,0,network,2,2,2.25\n");
  CHECK(to_csv({}) == "task,microbatch,block,pass,step,chunk,stage,queue,rank,start_s,end_s\n");
}

TEST_CASE("CSV times read back to the last bit", "[models][timeline][io]") {
  std::mt19937_64 random(2);
  Timeline line;
  while (line.spans.size() <= 3) line = any_timeline(random);
  std::istringstream csv(to_csv(line));
  std::string row;
  std::getline(csv, row);
  for (const Span& span : line.spans) {
    std::getline(csv, row);
    CAPTURE(row);
    const auto last = row.rfind(','), before = row.rfind(',', last - 1);
    REQUIRE(std::stod(row.substr(last + 1)) == span.end.count());
    REQUIRE(std::stod(row.substr(before + 1, last - before - 1)) == span.start.count());
  }
}

TEST_CASE("a trace is valid Trace Event Format", "[models][timeline][io]") {
  std::mt19937_64 random(3);
  for (int i = 0; i < 20; ++i) {
    CAPTURE(i);
    const Timeline first = any_timeline(random), second = any_timeline(random);
    const Json trace = Json::parse(to_chrome_trace({{"a", &first}, {"b", &second}}));
    REQUIRE(trace.is_object());
    REQUIRE(trace["traceEvents"].is_array());
    std::size_t complete = 0;
    for (const Json& event : trace["traceEvents"]) {
      check_event(event);
      complete += event["ph"] == "X";
    }
    REQUIRE(complete == first.spans.size() + second.spans.size());
  }
}

TEST_CASE("trace times are in microseconds", "[models][timeline][io]") {
  const Timeline line = two_spans();
  for (const Json& event : trace_events({{"a", &line}})) {
    if (event["ph"] != "X") continue;
    CAPTURE(event.dump());
    const bool expert = event["name"] == "expert 3";
    CHECK(event["ts"] == (expert ? 500'000.0 : 2'000'000.0));
    CHECK(event["dur"] == (expert ? 1'500'000.0 : 250'000.0));
    CHECK(event["cat"] == (expert ? "forward" : "backward"));
    CHECK(event["args"]["task"] ==
          (expert ? "block0.forward.expert.3" : "block1.backward.combine.0"));
  }
}

TEST_CASE("a trace names each process and each track that it uses", "[models][timeline][io]") {
  const Timeline line = two_spans();
  std::map<int, std::string> processes;
  std::map<std::pair<int, int>, std::string> tracks;
  std::set<std::pair<int, int>> used;
  for (const Json& event : trace_events({{"my run", &line}})) {
    const int process = event["pid"], track = event["tid"];
    if (event["ph"] == "X") used.emplace(process, track);
    if (event["name"] == "process_name") processes[process] = event["args"]["name"];
    if (event["name"] == "thread_name") tracks[{process, track}] = event["args"]["name"];
  }
  REQUIRE(used.size() == 2);
  REQUIRE(processes.size() == 2);
  REQUIRE(tracks.size() == 2);
  CHECK(processes.at(used.begin()->first) == "my run, rank 0");
  CHECK(processes.at(used.rbegin()->first) == "my run, rank 2");
  CHECK(tracks.at(*used.begin()) == "compute");
  CHECK(tracks.at(*used.rbegin()) == "network");
}

TEST_CASE("two timelines of a trace share no process", "[models][timeline][io]") {
  const Timeline line = two_spans(), empty;
  std::map<std::string, std::set<int>> processes;  // by first letter of the title
  for (const Json& event : trace_events({{"a", &line}, {"b", &empty}, {"c", &line}})) {
    if (event["name"] != "process_name") continue;
    processes[event["args"]["name"].get<std::string>().substr(0, 1)].insert(
        event["pid"].get<int>());
  }
  REQUIRE(processes["a"].size() == 2);
  REQUIRE(processes["c"].size() == 2);
  for (const int process : processes["a"]) CHECK(processes["c"].count(process) == 0);
}

TEST_CASE("a measurement's repeats are written, a prediction has none", "[models][timeline][io]") {
  Timeline line = two_spans();
  CHECK_FALSE(Json::parse(to_json(line)).contains("repeats_s"));
  line.repeats = {Seconds{2.5}, Seconds{0}};
  CHECK(Json::parse(to_json(line))["repeats_s"] == Json({2.5, 0.0}));
  CHECK(timeline_from_json(to_json(line), "t.json") == line);
}

TEST_CASE("repeats are finite times", "[models][timeline][io]") {
  for (const Json& bad :
       {Json(7), Json({-1e-9}), Json({"1"}), Json({nullptr}), Json({true}), Json({1e16})}) {
    CAPTURE(bad.dump());
    CHECK_THAT(failure([&](Json& json) { json["repeats_s"] = bad; }),
               StartsWith("t.json: timeline.repeats_s must "));
  }
  CHECK(failure([](Json& json) { json["repeats_s"] = Json::array(); }) == "no failure");
}

TEST_CASE("a prediction's shares of each basis are written, a measurement has none",
          "[models][timeline][io]") {
  Timeline line = two_spans();
  CHECK_FALSE(Json::parse(to_json(line)).contains("basis"));
  line.basis = BasisShares{0.5, 0.25, 0.25, 0};
  CHECK(
      Json::parse(to_json(line))["basis"] ==
      Json(
          {{"measured", 0.5}, {"interpolated", 0.25}, {"estimated", 0.25}, {"not_modelled", 0.0}}));
  CHECK(timeline_from_json(to_json(line), "t.json") == line);
  CHECK_THAT(failure([](Json& json) {
               json["basis"] = {{"measured", 1}};
             }),
             Contains("basis.interpolated is missing"));
  CHECK_THAT(failure([](Json& json) {
               json["basis"] = {{"measured", 1.5}};
             }),
             Contains("basis.measured is 1.5, must be 0..1"));
}

// ---- a prediction against a measurement ----

namespace {

Span task_span(Pass pass, Step step, int chunk, int rank, double start, double end) {
  const bool moves = step == Step::Dispatch || step == Step::Combine;
  return {{.pass = pass, .step = step, .chunk = chunk},
          moves ? kNetwork : kCompute,
          rank,
          Seconds{start},
          Seconds{end}};
}

constexpr Pass kForward = Pass::Forward, kBackward = Pass::Backward;

// One rank for all: no gate; two exchanges of 2 s, the second beside an expert of 3 s; 4 s
// backward.
Timeline prediction() {
  Timeline line{.queues = three_queues()};
  line.spans = {task_span(kForward, Step::Gate, 0, 0, 0, 0),
                task_span(kForward, Step::Dispatch, 0, 0, 0, 2),
                task_span(kForward, Step::Dispatch, 1, 0, 2, 4),
                task_span(kForward, Step::Expert, 0, 0, 2, 5),
                task_span(kBackward, Step::Expert, 0, 0, 5, 9)};
  return line;
}

// Two ranks, the second one second later from the gate on.
Timeline measurement() {
  Timeline line{.queues = three_queues()};
  for (const int rank : {0, 1}) {
    const double late = rank;
    for (const Span& one : {task_span(kForward, Step::Gate, 0, rank, 0, 0.5 + late),
                            task_span(kForward, Step::Dispatch, 0, rank, 0.5 + late, 2 + late),
                            task_span(kForward, Step::Dispatch, 1, rank, 2 + late, 6 + late),
                            task_span(kForward, Step::Expert, 0, rank, 2 + late, 6),
                            task_span(kBackward, Step::Expert, 0, rank, 6 + late, 8 + late)}) {
      line.spans.push_back(one);
    }
  }
  return line;
}

}  // namespace

TEST_CASE("steps are compared by pass, per rank", "[models][comparison]") {
  const Comparison comparison = compare(prediction(), measurement());
  REQUIRE(comparison.steps.size() == 4);
  const auto& gate = comparison.steps[0];
  CHECK(gate.step == Step::Gate);
  CHECK_FALSE(gate.modelled());
  CHECK(gate.sum == Compared{Seconds{0}, Seconds{1}});  // 0.5 and 1.5
  const auto& dispatch = comparison.steps[1];
  CHECK(dispatch.step == Step::Dispatch);
  CHECK(dispatch.modelled());
  CHECK(dispatch.tasks_per_rank == 2);
  CHECK(dispatch.sum == Compared{Seconds{4}, Seconds{5.5}});  // 1.5 + 4 on both ranks
  CHECK(dispatch.mean == Compared{Seconds{2}, Seconds{2.75}});
  CHECK(dispatch.sum.error() == Seconds{-1.5});
  CHECK(*dispatch.sum.relative_error() == Approx(-1.5 / 5.5).epsilon(1e-12));
  const auto& expert = comparison.steps[2];
  CHECK(expert.pass == kForward);
  CHECK(expert.sum == Compared{Seconds{3}, Seconds{3.5}});  // 4 and 3
  CHECK(comparison.steps[3].pass == kBackward);
  CHECK(comparison.steps[3].sum == Compared{Seconds{4}, Seconds{2}});
  CHECK(*comparison.steps[3].sum.relative_error() == 1);
}

TEST_CASE("passes end with the latest rank, communication is a mean", "[models][comparison]") {
  const Comparison comparison = compare(prediction(), measurement());
  CHECK(comparison.forward == Compared{Seconds{5}, Seconds{7}});
  CHECK(comparison.makespan == Compared{Seconds{9}, Seconds{9}});
  CHECK(comparison.backward == Compared{Seconds{4}, Seconds{2}});
  CHECK(*comparison.makespan.relative_error() == 0);
  CHECK(comparison.communication == Compared{Seconds{4}, Seconds{5.5}});
  // Predicted: the first exchange, 2 s. Rank 0: 1.5 s before its expert, none after. Rank 1: 1.5 s
  // before, and its expert of 3-6 leaves the last second of 3-7 bare.
  CHECK(comparison.exposed_communication == Compared{Seconds{2}, Seconds{2}});
}

TEST_CASE("a timeline compared with itself has no error", "[models][comparison]") {
  const Comparison comparison = compare(measurement(), measurement());
  for (const auto& row : comparison.steps) {
    CHECK(row.modelled());
    CHECK(*row.sum.relative_error() == 0);
  }
}

TEST_CASE("what takes no measured time has no relative error", "[models][comparison]") {
  CHECK_FALSE((Compared{Seconds{1}, Seconds{0}}).relative_error().has_value());
  CHECK(*(Compared{Seconds{0}, Seconds{2}}).relative_error() == -1);
}

TEST_CASE("timelines of different tasks are not compared", "[models][comparison]") {
  const auto comparison_failure = [](const Timeline& predicted,
                                     const Timeline& measured) -> std::string {
    try {
      compare(predicted, measured);
    } catch (const InputError& error) {
      return error.what();
    }
    return "no failure";
  };
  Timeline fewer = prediction();
  fewer.spans.erase(fewer.spans.begin() + 2);
  CHECK(comparison_failure(prediction(), fewer) ==
        "block0.forward.dispatch.1 is in the predicted timeline, not in the measured one");
  CHECK(comparison_failure(fewer, measurement()) ==
        "block0.forward.dispatch.1 is in the measured timeline, not in the predicted one");
  CHECK(comparison_failure({}, {}) == "the timelines hold no tasks to compare");
  Timeline partial = measurement();
  partial.spans.pop_back();
  CHECK(comparison_failure(prediction(), partial) ==
        "block0.backward.expert.0 of rank 1 is nowhere in the measured timeline");
  Timeline doubled = prediction();
  doubled.spans.push_back(doubled.spans[1]);
  CHECK(comparison_failure(doubled, measurement()) ==
        "block0.forward.dispatch.0 of rank 0 is twice in the predicted timeline");
}

}  // namespace pipemoe::timeline_test
