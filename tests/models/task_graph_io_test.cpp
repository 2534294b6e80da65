#include "models/task_graph_io.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using Json = nlohmann::json;

namespace {

// 64 slots of 16 rows: even over nodes and slots, so that no schedule refuses.
const MoeLayer kEvenLayer{
    .tokens_per_rank = 1024, .model_dim = 8, .hidden_dim = 4, .num_experts = 16, .top_k = 1};

// What no schedule makes: a matrix of pairs, split gradients, all three streams.
TaskGraph graph_by_hand() {
  TaskGraphBuilder builder("by hand", 2);
  const auto pairs = TrafficMatrix::of_pairs(2, {{0}, {7}, {std::int64_t{1} << 60}, {3}});
  const TaskId d = builder.append(
      {1, 0, Phase::Backward, Stream::IntraNode, AllToAll{Purpose::Dispatch, pairs}});
  const TaskId c = builder.append({1, 0, Phase::Backward, Stream::InterNode,
                                   AllToAll{Purpose::Combine, TrafficMatrix::uniform({5})}});
  const GemmShapes gemms{{2, 0, 3, 4}, {1, 5, 6, 7}};
  const TaskId input = builder.append(
      {1, 0, Phase::Backward, Stream::Compute,
       ExpertFfn{Pass::InputGradient, Dtype::Fp16, gemms, Activation::SwiGlu, {11}, {13}}});
  const TaskId weight = builder.append(
      {1, 0, Phase::Backward, Stream::Compute, ExpertFfn{Pass::WeightGradient, Dtype::Bf16}});
  builder.depend(c, input);
  builder.depend(input, d);
  builder.depend(c, weight);
  return std::move(builder).build();
}

TaskGraph read(const Json& json) { return task_graph_from_json(json.dump(), "g.json"); }
Json written(const TaskGraph& graph) { return Json::parse(to_json(graph)); }
Json small_graph() { return written(schedule("sequential", kEvenLayer, authors_cluster(16), {})); }

// The failure of reading small_graph() with `edit` done to it.
template <class Edit>
std::string failure(Edit edit) {
  Json json = small_graph();
  edit(json);
  try {
    read(json);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no failure";
}

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Dependencies and the neighbours in stream orders.
std::size_t num_precedences(const TaskGraph& graph) {
  std::size_t count = graph.dependencies().size();
  for (const Stream stream : kStreams) {
    count += std::max<std::size_t>(graph.stream_order(stream).size(), 1) - 1;
  }
  return count;
}

}  // namespace

TEST_CASE("every schedule's graph reads back the same", "[models][graph][io]") {
  for (const std::string& name : schedule_names()) {
    CAPTURE(name);
    const TaskGraph graph = schedule(name, kEvenLayer, authors_cluster(16), {1, 1});
    CHECK(task_graph_from_json(to_json(graph), "g.json") == graph);
  }
}

TEST_CASE("graphs of random layers and degrees read back the same", "[models][graph][io]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 40; ++i) {
    const int ranks = i % 2 == 0 ? 16 : 64;
    const MoeLayer layer = random_layer(random, ranks);
    const auto degree = [&] {
      const auto most = std::min<std::int64_t>(layer.slots(), 8);
      return std::uniform_int_distribution<std::int64_t>(1, most)(random);
    };
    const Degrees degrees{degree(), degree()};
    CAPTURE(i, ranks, degrees.forward_degree, degrees.backward_degree);
    const TaskGraph graph = schedule("pipemoe", layer, authors_cluster(ranks), degrees);
    const TaskGraph back = task_graph_from_json(to_json(graph), "g.json");
    REQUIRE(back == graph);
    REQUIRE(to_json(back) == to_json(graph));
  }
}

TEST_CASE("traffic of pairs and split gradients read back the same", "[models][graph][io]") {
  const TaskGraph graph = graph_by_hand();
  CHECK(task_graph_from_json(to_json(graph), "g.json") == graph);
  CHECK_THAT(to_json(graph), Contains("bytes_by_pair"));
}

TEST_CASE("a written graph names its tasks", "[models][graph][io]") {
  const Json json = written(graph_by_hand());
  CHECK(json["schema"] == "pipemoe.task_graph/2");
  CHECK(json["schedule"] == "by hand");
  CHECK(json["num_ranks"] == 2);
  CHECK(json["tasks"][0]["task"] == "layer1.backward.dispatch.0");
  CHECK(json["tasks"][0]["bytes_by_pair"] == Json({0, 7, std::int64_t{1} << 60, 3}));
  CHECK(json["tasks"][2]["gemms"][1] == Json({{"groups", 1}, {"rows", 5}, {"n", 6}, {"k", 7}}));
  CHECK(json["tasks"][2]["activation"] == "swiglu");
  CHECK(json["tasks"][2]["layout_traffic_bytes"] == 13);
  CHECK(json["dependencies"][0] ==
        Json({"layer1.backward.combine.0", "layer1.backward.expert_input_gradient.0"}));
  CHECK(json["stream_order"]["intra_node"] == Json({"layer1.backward.dispatch.0"}));
}

TEST_CASE("text that is no JSON object is refused, its origin named", "[models][graph][io]") {
  for (const char* text : {"", "{", "[]", "3", "null", "{\"schema\": 1e999}", "\xff"}) {
    CAPTURE(text);
    CHECK_THROWS_WITH(task_graph_from_json(text, "g.json"), StartsWith("g.json: "));
    CHECK_THROWS_AS(task_graph_from_json(text, "g.json"), InputError);
  }
}

TEST_CASE("a graph of another schema is refused", "[models][graph][io]") {
  CHECK(failure([](Json& json) { json["schema"] = "pipemoe.task_graph/1"; }) ==
        "g.json: graph.schema is pipemoe.task_graph/1, must be pipemoe.task_graph/2");
  CHECK(failure([](Json& json) { json.erase("schema"); }) == "g.json: graph.schema is missing");
}

TEST_CASE("unknown keys are refused wherever they stand", "[models][graph][io]") {
  CHECK_THAT(failure([](Json& json) { json["typo"] = 1; }),
             StartsWith("g.json: graph.typo is an unknown key"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][0]["typo"] = 1; }),
             StartsWith("g.json: task.typo is an unknown key"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][3]["gemms"][0]["typo"] = 1; }),
             Contains("typo is an unknown key"));
  CHECK_THAT(failure([](Json& json) { json["stream_order"]["typo"] = Json::array(); }),
             StartsWith("g.json: stream_order.typo is an unknown key"));
  // A gate exchanges nothing.
  CHECK_THAT(failure([](Json& json) { json["tasks"][0]["bytes_per_rank"] = 1; }),
             Contains("bytes_per_rank is an unknown key"));
}

TEST_CASE("missing keys are refused wherever they stand", "[models][graph][io]") {
  for (const char* key : {"schedule", "num_ranks", "tasks", "dependencies", "stream_order"}) {
    CAPTURE(key);
    CHECK(failure([&](Json& json) { json.erase(key); }) ==
          "g.json: graph." + std::string(key) + " is missing");
  }
  for (const char* key :
       {"task", "operation", "layer", "chunk", "phase", "stream", "dtype", "both_gradients",
        "activation", "activation_traffic_bytes", "layout_traffic_bytes", "gemms"}) {
    CAPTURE(key);
    CHECK(failure([&](Json& json) { json["tasks"][3].erase(key); }) ==
          "g.json: task." + std::string(key) + " is missing");
  }
}

TEST_CASE("values must be of their type and in range", "[models][graph][io]") {
  CHECK_THAT(failure([](Json& json) { json["num_ranks"] = 0; }), Contains("num_ranks is 0"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][0]["layer"] = 0.5; }),
             Contains("task.layer must be an integer"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][0]["traffic_bytes"] = -1; }),
             Contains("traffic_bytes is -1"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][0]["traffic_bytes"] = 1e3; }),
             Contains("traffic_bytes must be an integer"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][0]["stream"] = "gpu"; }),
             Contains("task.stream is gpu, must be one of compute"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][0]["operation"] = "shuffle"; }),
             Contains("task.operation is shuffle, must be one of gate, permute"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][3]["activation"] = "tanh"; }),
             Contains("task.activation is tanh, must be one of relu"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][3]["layout_traffic_bytes"] = -1; }),
             Contains("layout_traffic_bytes is -1"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][3]["both_gradients"] = 1; }),
             Contains("both_gradients must be true or false"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][3]["gemms"][0]["n"] = 0; }),
             Contains("n is 0"));
  CHECK_THAT(failure([](Json& json) {
               while (json["tasks"][3]["gemms"].size() < 5) {
                 json["tasks"][3]["gemms"].push_back(json["tasks"][3]["gemms"][0]);
               }
             }),
             Contains("gemms must hold at most 4"));
}

TEST_CASE("traffic of pairs holds one amount for each pair of ranks", "[models][graph][io]") {
  const auto with_pairs = [](const Json& pairs) {
    return failure([&](Json& json) {
      json["tasks"][2].erase("bytes_per_rank");
      json["tasks"][2]["bytes_by_pair"] = pairs;
    });
  };
  CHECK(with_pairs(std::vector<int>(256, 1)) == "no failure");
  CHECK_THAT(with_pairs({1, 2, 3}), Contains("traffic has 3 pairs, must have 256 for 16 ranks"));
  CHECK_THAT(with_pairs(std::vector<int>(256, -1)), Contains("must be at least 0"));
  CHECK_THAT(with_pairs({0.5}), Contains("bytes_by_pair must hold integers"));
}

TEST_CASE("traffic of pairs whose sum exceeds an integer is refused", "[models][graph][io]") {
  Json json = written(graph_by_hand());
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  json["tasks"][0]["bytes_by_pair"] = {huge, huge, 0, 0};
  CHECK_THROWS_AS(read(json), InputError);
}

TEST_CASE("a task's name follows from its parts", "[models][graph][io]") {
  CHECK(failure([](Json& json) { json["tasks"][0]["task"] = "gate"; }) ==
        "g.json: task.task is gate, must be layer0.forward.gate.0");
}

TEST_CASE("dependencies and stream orders name known tasks", "[models][graph][io]") {
  CHECK(failure([](Json& json) { json["dependencies"][0][1] = "nobody"; }) ==
        "g.json: graph.dependencies names unknown task \"nobody\"");
  CHECK_THAT(failure([](Json& json) { json["dependencies"][0] = {"layer0.forward.gate.0"}; }),
             Contains("dependencies must hold [before, after]"));
  CHECK(failure([](Json& json) { json["stream_order"]["compute"][0] = 7; }) ==
        "g.json: stream_order.compute names unknown task 7");
}

TEST_CASE("a stream's order holds that stream's tasks, each once", "[models][graph][io]") {
  const auto move_gate = [](Json& json) {
    json["stream_order"]["compute"].erase(0);
    json["stream_order"]["intra_node"].push_back("layer0.forward.gate.0");
  };
  CHECK(failure(move_gate) ==
        "g.json: task graph: layer0.forward.gate.0 is for stream compute, stands in the order of "
        "intra_node");
  CHECK_THAT(failure([](Json& json) { json["stream_order"]["compute"].erase(0); }),
             Contains("layer0.forward.gate.0 stands 0 times"));
  CHECK_THAT(failure([](Json& json) { json["tasks"].push_back(json["tasks"][0]); }),
             Contains("layer0.forward.gate.0 stands twice"));
}

TEST_CASE("a cycle in a file names its tasks", "[models][graph][io]") {
  const auto close_cycle = [](Json& json) {
    json["dependencies"].push_back({"layer0.forward.expert.0", "layer0.forward.dispatch.0"});
  };
  CHECK(failure(close_cycle) ==
        "g.json: task graph has a cycle: layer0.forward.dispatch.0 -> layer0.forward.expert.0 -> "
        "layer0.forward.dispatch.0");
}

TEST_CASE("DOT holds every task and every precedence", "[models][graph][io]") {
  const TaskGraph graph = schedule("pipemoe", kEvenLayer, authors_cluster(16), {3, 2});
  const std::string dot = to_dot(graph);
  CHECK_THAT(dot, StartsWith("digraph "));
  CHECK(occurrences(dot, "[label=") == graph.size());
  for (const Task& task : graph.tasks()) {
    CAPTURE(task.name());
    CHECK(occurrences(dot, "\"" + task.name() + "\"[label=\"") == 1);
  }
  CHECK(occurrences(dot, "->") == num_precedences(graph));
  CHECK(occurrences(dot, "[style=solid]") == graph.dependencies().size());
  for (const auto& [before, after] : graph.dependencies()) {
    const std::string edge =
        "\"" + graph.task(before).name() + "\"->\"" + graph.task(after).name() + "\" ";
    CAPTURE(edge);
    CHECK_THAT(dot, Contains(edge + "[style=solid]"));
  }
}

TEST_CASE("GraphML holds every task and every precedence", "[models][graph][io]") {
  const TaskGraph graph = schedule("pipemoe", kEvenLayer, authors_cluster(16), {3, 2});
  const std::string xml = to_graphml(graph);
  CHECK_THAT(xml, StartsWith("<?xml"));
  CHECK(occurrences(xml, "<node ") == graph.size());
  CHECK(occurrences(xml, "</node>") == graph.size());
  CHECK(occurrences(xml, "<edge ") == num_precedences(graph));
  CHECK(occurrences(xml, ">data<") == graph.dependencies().size());
  CHECK(occurrences(xml, ">stream_order<") == num_precedences(graph) - graph.dependencies().size());
  for (const Task& task : graph.tasks()) CHECK(occurrences(xml, ">" + task.name() + "<") == 1);
  // Degree 2 halves 1024 rows of 8 fp32 numbers: two combines and two dispatches of 16384 bytes.
  CHECK(occurrences(xml, ">16384<") == 4);
}
