#include "models/timeline_io.hpp"

#include <catch2/catch.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>

#include "models/error.hpp"

using namespace pipemoe;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using Json = nlohmann::json;

namespace {

// Any doubles: sums and quotients that no short decimal number equals.
Timeline random_timeline(std::mt19937_64& random) {
  std::uniform_real_distribution<double> time(0, 10);
  const auto draw = [&](int to) { return std::uniform_int_distribution<int>(0, to)(random); };
  Timeline line;
  line.provenance = {"pipemoe 0",
                     "abc",
                     "host \"x\" é",
                     "a test",
                     {{"lib", "1.2"}},
                     {"one note", "another\nline"},
                     R"({"a":[1,2.5,null]})"};
  for (int count = draw(5); count > 0; --count) line.repeats.push_back(Seconds{time(random) / 3});
  for (int count = draw(30); count > 0; --count) {
    const double start = time(random);
    line.spans.push_back(
        {{draw(3), static_cast<Phase>(draw(1)), static_cast<OperationKind>(draw(7)), draw(9)},
         kStreams[static_cast<std::size_t>(draw(2))],
         draw(5),
         Seconds{start},
         Seconds{start + time(random) / 3}});
  }
  return line;
}

// Rank 0 computes 0.5-2 s forward, rank 2 exchanges 2-2.25 s backward.
Timeline two_spans() {
  Timeline line;
  line.spans = {
      {{0, Phase::Forward, OperationKind::Expert, 3}, Stream::Compute, 0, Seconds{0.5}, Seconds{2}},
      {{1, Phase::Backward, OperationKind::Combine, 0},
       Stream::InterNode,
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
    const Timeline line = random_timeline(random);
    CAPTURE(i, line.spans.size());
    REQUIRE(timeline_from_json(to_json(line), "t.json") == line);
  }
  CHECK(timeline_from_json(to_json(Timeline{}), "t.json") == Timeline{});
}

TEST_CASE("a written timeline has these keys and no others", "[models][timeline][io]") {
  const Json json = Json::parse(to_json(two_spans()));
  CHECK(keys(json) == std::set<std::string>{"schema", "provenance", "makespan_s", "forward_s",
                                            "backward_s", "spans"});
  CHECK(keys(json["provenance"]) == std::set<std::string>{"program", "commit", "host", "made_by",
                                                          "versions", "notes", "configuration"});
  REQUIRE(json["spans"].size() == 2);
  for (const Json& span : json["spans"]) {
    CHECK(keys(span) == std::set<std::string>{"task", "operation", "layer", "chunk", "phase",
                                              "stream", "rank", "start_s", "end_s"});
  }
}

TEST_CASE("a written timeline holds its times and names", "[models][timeline][io]") {
  const Json json = Json::parse(to_json(two_spans()));
  CHECK(json["schema"] == "pipemoe.timeline/1");
  CHECK(json["makespan_s"] == 2.25);
  CHECK(json["forward_s"] == 2.0);
  CHECK(json["backward_s"] == 0.25);
  const Json expected{{"task", "layer1.backward.combine.0"},
                      {"operation", "combine"},
                      {"layer", 1},
                      {"chunk", 0},
                      {"phase", "backward"},
                      {"stream", "inter_node"},
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
  CHECK_THAT(failure([](Json& json) { json["schema"] = "pipemoe.timeline/2"; }),
             Contains("timeline.schema must be pipemoe.timeline/1"));
  CHECK_THAT(failure([](Json& json) { json["makespan_s"] = "2"; }), Contains("must be a number"));
  CHECK_THAT(failure([](Json& json) { json["spans"] = 1; }), Contains("spans must be a list"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["start_s"] = nullptr; }),
             Contains("span.start_s must be a number"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["rank"] = -1; }), Contains("rank is -1"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["operation"] = "nap"; }),
             Contains("span.operation is nap, must be one of"));
  CHECK_THAT(failure([](Json& json) { json["spans"][0]["task"] = "nap"; }),
             Contains("span.task must be layer0.forward.expert.3"));
  CHECK_THAT(failure([](Json& json) { json["provenance"]["notes"] = {1}; }),
             Contains("notes must hold texts"));
  CHECK_THAT(failure([](Json& json) { json["provenance"]["versions"]["x"] = 1; }),
             Contains("versions must hold texts"));
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
        "task,operation,layer,chunk,phase,stream,rank,start_s,end_s\n"
        "layer0.forward.expert.3,expert,0,3,forward,compute,0,0.5,2\n"
        "layer1.backward.combine.0,combine,1,0,backward,inter_node,2,2,2.25\n");
  CHECK(to_csv({}) == "task,operation,layer,chunk,phase,stream,rank,start_s,end_s\n");
}

TEST_CASE("CSV times read back to the last bit", "[models][timeline][io]") {
  std::mt19937_64 random(2);
  const Timeline line = random_timeline(random);
  REQUIRE(line.spans.size() > 3);
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
    const Timeline first = random_timeline(random), second = random_timeline(random);
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
          (expert ? "layer0.forward.expert.3" : "layer1.backward.combine.0"));
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
  CHECK(tracks.at(*used.rbegin()) == "inter_node");
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
  for (const Json& bad : {Json(7), Json({-1e-9}), Json({"1"}), Json({nullptr}), Json({true})}) {
    CAPTURE(bad.dump());
    CHECK_THAT(failure([&](Json& json) { json["repeats_s"] = bad; }),
               StartsWith("t.json: timeline.repeats_s must "));
  }
  CHECK(failure([](Json& json) { json["repeats_s"] = Json::array(); }) == "no failure");
}
