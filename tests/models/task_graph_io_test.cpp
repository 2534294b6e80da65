#include "models/task_graph_io.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <random>

#include "models/error.hpp"
#include "models/schedule.hpp"
#include "tests/models/by_hand.hpp"
#include "tests/support/random_layers.hpp"

namespace pipemoe::task_graph_io_test {

using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using Json = nlohmann::json;

namespace {

// 64 slots of 16 rows: even over nodes and slots, so that no schedule refuses.
const MoeLayer kEvenLayer{
    .tokens_per_rank = 1024, .model_dim = 8, .hidden_dim = 4, .num_experts = 16, .top_k = 1};

// What no schedule makes: every shape of work with a value for each rank, a matrix of pairs,
// micro-batches, stages, five queues.
TaskGraph graph_by_hand() {
  TaskGraphBuilder builder("by hand", 2,
                           {{"gpu", Resource::Compute, 0},
                            {"nic", Resource::Network, 2},
                            {"nvlink", Resource::NodeLinks, -1},
                            {"copies", Resource::CopyEngine, 0},
                            {"threads", Resource::Host, 0}});
  const auto pairs = TrafficMatrix::of_pairs(2, {{0}, {7}, {std::int64_t{1} << 60}, {3}});
  const auto key = [](Step step, int chunk = 0, int stage = 0) {
    return TaskKey{1, 1, Pass::Backward, step, chunk, stage};
  };
  const TaskId d = builder.append({{1, 2, Pass::Backward, Step::Dispatch, 0, 0},
                                   2,
                                   Collective{CollectiveKind::AllToAll, {2, 1}, pairs}});
  // 5 rows of 4 fp16 numbers for rank 0, none for rank 1.
  const TaskId c = builder.append(
      {key(Step::Combine), 1,
       Collective{
           CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::of_pairs(2, {{16}, {}, {24}, {}})}});
  const GemmShapes gemms{{2, 0, 3, 4}, {1, 0, 6, 7}};
  const TaskId input = builder.append({key(Step::ExpertInputGradient), 0,
                                       Products{.kind = ProductKind::InputGradient,
                                                .dtype = Dtype::Fp16,
                                                .activation = Activation::SwiGlu,
                                                .shapes = gemms,
                                                .rows = PerRank<std::int64_t>({5, 0}),
                                                .activation_bytes_per_row = {11},
                                                .layout_bytes_per_row = {13}}});
  const TaskId weight =
      builder.append({key(Step::ExpertWeightGradient), 0,
                      Products{.kind = ProductKind::WeightGradient, .dtype = Dtype::Bf16}});
  for (int stage = 0; stage < 2; ++stage) {
    builder.append({key(Step::Permute, 0, stage), 3,
                    MemoryTraffic{MemoryKernel::PermuteBackward, PerRank<Bytes>({{1}, {2}})}});
  }
  builder.append({key(Step::Unpermute), 3, MemoryTraffic{MemoryKernel::Gate, Bytes{3}}});
  builder.append({key(Step::Gate), 4, Timed{PerRank<Seconds>({Seconds{0.1}, Seconds{1e-9 / 3}})}});
  builder.append({key(Step::Gate, 1), 4, Timed{Seconds{2}}});
  builder.append({{.step = Step::Combine},
                  1,
                  Collective{CollectiveKind::AllReduce, {1, 1}, TrafficMatrix::uniform({5})}});
  builder.append(
      {{.block = 3, .step = Step::Dispatch},
       1,
       Collective{CollectiveKind::AllToAll, {2, 1}, TrafficMatrix::between_blocks({6}, 1, 1)}});
  builder.depend(c, input);
  builder.depend(input, d);
  builder.depend(c, weight);
  return std::move(builder).build();
}

TaskGraph read(const Json& json) { return task_graph_from_json(json.dump(), "g.json"); }
Json written(const TaskGraph& graph) { return Json::parse(to_json(graph)); }
Json small_graph() {
  return written(build_graph("sequential", kEvenLayer, authors_cluster(16), {}));
}

// The failure of reading `json` after `edit`; of small_graph() where there is none.
template <class Edit>
std::string failure(Json json, Edit edit) {
  edit(json);
  try {
    read(json);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no failure";
}
template <class Edit>
std::string failure(Edit edit) {
  return failure(small_graph(), edit);
}

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Dependencies and the neighbours in queue orders.
std::size_t num_precedences(const TaskGraph& graph) {
  std::size_t count = 0;
  for (TaskId id = 0; id < graph.size(); ++id) count += graph.successors(id).size();
  return count;
}

}  // namespace

TEST_CASE("every schedule's graph reads back the same", "[models][graph][io]") {
  for (const Schedule& schedule : all_schedules()) {
    CAPTURE(schedule.name);
    const TaskGraph graph = build_graph(schedule.name, kEvenLayer, authors_cluster(16), {1, 1});
    CHECK(task_graph_from_json(to_json(graph), "g.json") == graph);
  }
}

TEST_CASE("graphs of random layers and degrees read back the same", "[models][graph][io]") {
  std::mt19937_64 random(1);
  for (int i = 0; i < 40; ++i) {
    const int ranks = i % 2 == 0 ? 16 : 64;
    const MoeLayer layer = random_layer(random, ranks);
    const Degrees degrees = random_degrees(random, layer, 8);
    CAPTURE(i, ranks, degrees.forward_degree, degrees.backward_degree);
    const TaskGraph graph = build_graph("pipemoe", layer, authors_cluster(ranks), degrees);
    const TaskGraph back = task_graph_from_json(to_json(graph), "g.json");
    REQUIRE(back == graph);
    REQUIRE(to_json(back) == to_json(graph));
  }
}

TEST_CASE("every shape of work reads back the same, with a value for each rank too",
          "[models][graph][io]") {
  const TaskGraph graph = graph_by_hand();
  CHECK(task_graph_from_json(to_json(graph), "g.json") == graph);
}

TEST_CASE("a written graph names its tasks", "[models][graph][io]") {
  const Json json = written(graph_by_hand());
  CHECK(json["schema"] == "pipemoe.task_graph/3");
  CHECK(json["schedule"] == "by hand");
  CHECK(json["num_ranks"] == 2);
  CHECK(json["queues"][1] == Json({{"name", "nic"}, {"resource", "network"}, {"priority", 2}}));
  const Json& tasks = json["tasks"];
  CHECK(tasks[0]["task"] == "microbatch1.block2.backward.dispatch.0");
  CHECK(tasks[0]["queue"] == "nvlink");
  CHECK(tasks[0]["work"] == Json({{"shape", "collective"},
                                  {"kind", "all_to_all"},
                                  {"group", "2"},
                                  {"bytes_by_pair", {0, 7, std::int64_t{1} << 60, 3}}}));
  CHECK(tasks[2]["work"]["gemms"][1] == Json({{"groups", 1}, {"n", 6}, {"k", 7}}));
  CHECK(tasks[2]["work"]["rows"] == Json({5, 0}));
  CHECK(tasks[2]["work"]["activation"] == "swiglu");
  CHECK(tasks[2]["work"]["layout_bytes_per_row"] == 13);
  CHECK(tasks[5]["task"] == "microbatch1.block1.backward.permute.0.1");
  CHECK(tasks[8]["work"] == Json({{"shape", "timed"}, {"seconds", 2.0}}));
  CHECK(tasks[9]["work"]["group"] == "1");
  CHECK(tasks[10]["work"]["block_shift"] == 1);
  CHECK(json["dependencies"][0] == Json({"microbatch1.block1.backward.combine.0",
                                         "microbatch1.block1.backward.expert_input_gradient.0"}));
  CHECK(json["queue_order"]["nvlink"] == Json({"microbatch1.block2.backward.dispatch.0"}));
}

TEST_CASE("text that is no JSON object is refused, its origin named", "[models][graph][io]") {
  for (const char* text : {"", "{", "[]", "3", "null", "{\"schema\": 1e999}", "\xff"}) {
    CAPTURE(text);
    CHECK_THROWS_WITH(task_graph_from_json(text, "g.json"), StartsWith("g.json: "));
    CHECK_THROWS_AS(task_graph_from_json(text, "g.json"), InputError);
  }
}

TEST_CASE("a graph of another schema is refused in one line", "[models][graph][io]") {
  CHECK(failure([](Json& json) { json["schema"] = "pipemoe.task_graph/2"; }) ==
        "g.json: graph.schema is pipemoe.task_graph/2, must be pipemoe.task_graph/3");
  CHECK(failure([](Json& json) { json.erase("schema"); }) == "g.json: graph.schema is missing");
}

TEST_CASE("unknown keys are refused wherever they are", "[models][graph][io]") {
  CHECK_THAT(failure([](Json& json) { json["typo"] = 1; }),
             StartsWith("g.json: graph.typo is an unknown key"));
  CHECK_THAT(failure([](Json& json) { json["queues"][0]["typo"] = 1; }),
             Contains("typo is an unknown key"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][0]["typo"] = 1; }),
             StartsWith("g.json: task.typo is an unknown key"));
  CHECK_THAT(failure([](Json& json) { json["tasks"][3]["work"]["gemms"][0]["typo"] = 1; }),
             Contains("typo is an unknown key"));
  CHECK_THAT(failure([](Json& json) { json["queue_order"]["typo"] = Json::array(); }),
             StartsWith("g.json: queue_order.typo is an unknown key"));
  // A gate sends nothing.
  CHECK_THAT(failure([](Json& json) { json["tasks"][0]["work"]["bytes_per_rank"] = 1; }),
             Contains("bytes_per_rank is an unknown key"));
}

TEST_CASE("missing keys are refused wherever they are", "[models][graph][io]") {
  for (const char* key :
       {"schedule", "num_ranks", "queues", "tasks", "dependencies", "queue_order"}) {
    CAPTURE(key);
    CHECK(failure([&](Json& json) { json.erase(key); }) ==
          "g.json: graph." + std::string(key) + " is missing");
  }
  for (const char* key :
       {"task", "microbatch", "block", "pass", "step", "chunk", "stage", "queue", "work"}) {
    CAPTURE(key);
    CHECK(failure([&](Json& json) { json["tasks"][3].erase(key); }) ==
          "g.json: task." + std::string(key) + " is missing");
  }
  // By task of graph_by_hand: a collective, products, memory traffic, a time.
  const std::vector<std::pair<int, std::vector<const char*>>> of_work{
      {0, {"shape", "kind", "group"}},
      {2,
       {"kind", "dtype", "activation", "rows", "activation_bytes_per_row", "layout_bytes_per_row",
        "gemms"}},
      {6, {"kernel", "bytes"}},
      {8, {"seconds"}}};
  for (const auto& [task, keys] : of_work) {
    for (const char* key : keys) {
      CAPTURE(key);
      CHECK(failure(written(graph_by_hand()), [&](Json& json) {
              json["tasks"][task]["work"].erase(key);
            }) == "g.json: work." + std::string(key) + " is missing");
    }
  }
}

TEST_CASE("values must be of their type and in range", "[models][graph][io]") {
  const auto gate = [](const char* key, const Json& value) {
    return failure([&](Json& json) { json["tasks"][0][key] = value; });
  };
  const auto gate_work = [](const char* key, const Json& value) {
    return failure([&](Json& json) { json["tasks"][0]["work"][key] = value; });
  };
  const auto expert_work = [](const char* key, const Json& value) {
    return failure([&](Json& json) { json["tasks"][3]["work"][key] = value; });
  };
  CHECK_THAT(failure([](Json& json) { json["num_ranks"] = 0; }), Contains("num_ranks is 0"));
  CHECK_THAT(gate("block", 0.5), Contains("task.block must be an integer"));
  CHECK_THAT(gate("queue", "gpu"), Contains("task.queue is gpu, which is no queue of the graph"));
  CHECK_THAT(gate("step", "shuffle"), Contains("task.step is shuffle, must be one of gate"));
  CHECK_THAT(gate_work("bytes", -1), Contains("work.bytes is -1"));
  CHECK_THAT(gate_work("bytes", 1e3), Contains("work.bytes must be an integer"));
  CHECK_THAT(gate_work("kernel", "softmax"), Contains("work.kernel is softmax, must be one of"));
  CHECK_THAT(expert_work("activation", "tanh"),
             Contains("activation is tanh, must be one of relu"));
  CHECK_THAT(expert_work("layout_bytes_per_row", -1), Contains("layout_bytes_per_row is -1"));
  CHECK_THAT(expert_work("kind", "backward"), Contains("work.kind is backward, must be one of"));
  CHECK_THAT(expert_work("rows", -1), Contains("work.rows is -1, must be 0.."));
  CHECK_THAT(failure([](Json& json) { json["tasks"][3]["work"]["gemms"][0]["n"] = 0; }),
             Contains("n is 0"));
  CHECK_THAT(failure([](Json& json) {
               Json& gemms = json["tasks"][3]["work"]["gemms"];
               while (gemms.size() < 5) gemms.push_back(gemms[0]);
             }),
             Contains("gemms must hold at most 4"));
  for (const Json& seconds : {Json(-1), Json("1"), Json(nullptr), Json(1e10)}) {
    CHECK_THAT(failure(written(graph_by_hand()),
                       [&](Json& json) { json["tasks"][8]["work"]["seconds"] = seconds; }),
               Contains("work.seconds must be a number of 0..1e+09"));
  }
  CHECK_THAT(failure([](Json& json) { json["queues"] = Json::array(); }),
             Contains("queues has 0 queues, must have 1..16"));
}

TEST_CASE("an unknown shape of work names the known ones", "[models][graph][io]") {
  CHECK(failure([](Json& json) { json["tasks"][0]["work"]["shape"] = "nap"; }) ==
        "g.json: work.shape is nap, must be one of products, memory_traffic, collective, timed");
}

TEST_CASE("a list of values has one for each rank", "[models][graph][io]") {
  const auto with = [](int task, const char* key, const Json& value) {
    return failure(written(graph_by_hand()),
                   [&](Json& json) { json["tasks"][task]["work"][key] = value; });
  };
  CHECK(with(2, "rows", {1, 2, 3}) ==
        "g.json: work.rows has 3 values, must have 2: one for each rank");
  CHECK(with(6, "bytes", Json::array()) ==
        "g.json: work.bytes has 0 values, must have 2: one for each rank");
  CHECK(with(8, "seconds", Json::array({1})) ==
        "g.json: work.seconds has 1 values, must have 2: one for each rank");
  CHECK(with(8, "seconds", {1, 2}) == "no failure");
}

TEST_CASE("traffic of pairs holds one amount for each pair of ranks", "[models][graph][io]") {
  // The 64 rows of 32 bytes that a rank dispatches: 1024 rows, 64 for each of 16 ranks.
  const auto with_pairs = [](const Json& pairs) {
    return failure([&](Json& json) {
      json["tasks"][2]["work"].erase("bytes_per_rank");
      json["tasks"][2]["work"]["bytes_by_pair"] = pairs;
    });
  };
  CHECK(with_pairs(std::vector<int>(256, 64 * 32)) == "no failure");
  CHECK_THAT(with_pairs({1, 2, 3}), Contains("traffic has 3 pairs, must have 256 for 16 ranks"));
  CHECK_THAT(with_pairs(std::vector<int>(256, -1)), Contains("bytes_by_pair is -1, must be 0.."));
  CHECK_THAT(with_pairs({0.5}), Contains("bytes_by_pair must be an integer"));
}

TEST_CASE("traffic of pairs whose sum exceeds an integer is refused", "[models][graph][io]") {
  const std::int64_t huge = std::int64_t{1} << 62;
  CHECK(failure(written(graph_by_hand()), [&](Json& json) {
          json["tasks"][0]["work"]["bytes_by_pair"] = {huge, huge, 0, 0};
        }) == "g.json: traffic from rank 0 exceeds 2^63 bytes");
}

TEST_CASE("traffic between blocks has blocks that divide the ranks", "[models][graph][io]") {
  const auto with = [](std::int64_t size, std::int64_t shift) {
    return failure([&](Json& json) {
      json["tasks"][2]["work"]["block_size"] = size;
      json["tasks"][2]["work"]["block_shift"] = shift;
    });
  };
  CHECK(with(4, 3) == "no failure");
  CHECK_THAT(with(3, 0), Contains("block_size must divide the ranks"));
  CHECK_THAT(with(17, 0), Contains("block_size is 17, must be 1..16"));
  CHECK_THAT(with(4, 4), Contains("block_shift is 4, must be 0..3"));
}

TEST_CASE("experts of a graph that is read compute the rows that arrive", "[models][graph][io]") {
  CHECK(failure([](Json& json) { json["tasks"][3]["work"]["rows"] = 1023; }) ==
        "g.json: task graph: block0.forward.expert.0 computes 1023 rows on rank 0, "
        "block0.forward.dispatch.0 brings 1024.0 there");
  // Rank 3 receives 32 bytes, one row, more than it computes, and rank 4 one less.
  CHECK(failure([](Json& json) {
          std::vector<int> pairs(256, 64 * 32);
          pairs[3] += 32;
          pairs[4] -= 32;
          json["tasks"][2]["work"].erase("bytes_per_rank");
          json["tasks"][2]["work"]["bytes_by_pair"] = pairs;
        }) ==
        "g.json: task graph: block0.forward.expert.0 computes 1024 rows on rank 3, "
        "block0.forward.dispatch.0 brings 1025.0 there");
}

TEST_CASE("a graph that is read loses no work", "[models][graph][io]") {
  // The combine of a forward pass, the fifth task, brings back what was dispatched: 32 KiB.
  CHECK(failure([](Json& json) { json["tasks"][4]["work"]["bytes_per_rank"] = 32000; }) ==
        "g.json: task graph: block 0 of micro-batch 0 dispatches 32768 bytes forward and combines "
        "32000");
  // Half of one of the four products of both gradients is lost.
  CHECK_THAT(failure([](Json& json) { json["tasks"][8]["work"]["gemms"][1]["n"] = 4; }),
             Contains("flops forward and") && Contains("backward, which must be twice as many"));
}

TEST_CASE("products that are no expert's are read without a look at their rows",
          "[models][graph][io]") {
  CHECK(failure([](Json& json) {
          json["tasks"][3]["work"]["gemms"] = Json::array();
          json["tasks"][8]["work"]["gemms"] = Json::array();
          json["tasks"][3]["work"]["rows"] = 7;
        }) == "no failure");
}

TEST_CASE("a task's name follows from its parts", "[models][graph][io]") {
  CHECK(failure([](Json& json) { json["tasks"][0]["task"] = "gate"; }) ==
        "g.json: task.task is gate, must be block0.forward.gate.0");
}

TEST_CASE("dependencies and queue orders name known tasks", "[models][graph][io]") {
  CHECK(failure([](Json& json) { json["dependencies"][0][1] = "nobody"; }) ==
        "g.json: graph.dependencies names unknown task \"nobody\"");
  CHECK_THAT(failure([](Json& json) { json["dependencies"][0] = {"block0.forward.gate.0"}; }),
             Contains("dependencies must hold [before, after]"));
  CHECK(failure([](Json& json) { json["queue_order"]["compute"][0] = 7; }) ==
        "g.json: queue_order.compute names unknown task 7");
}

TEST_CASE("a queue's order holds that queue's tasks, each once", "[models][graph][io]") {
  const auto move_gate = [](Json& json) {
    json["queue_order"]["compute"].erase(0);
    json["queue_order"]["communication"].push_back("block0.forward.gate.0");
  };
  CHECK(failure(move_gate) ==
        "g.json: task graph: block0.forward.gate.0 is for queue compute and is listed in queue "
        "communication");
  CHECK_THAT(failure([](Json& json) { json["queue_order"]["compute"].erase(0); }),
             Contains("block0.forward.gate.0 appears 0 times"));
  CHECK_THAT(failure([](Json& json) { json["tasks"].push_back(json["tasks"][0]); }),
             Contains("two tasks are block0.forward.gate.0"));
}

TEST_CASE("a cycle in a file names its tasks", "[models][graph][io]") {
  const auto close_cycle = [](Json& json) {
    json["dependencies"].push_back({"block0.forward.expert.0", "block0.forward.dispatch.0"});
  };
  CHECK(failure(close_cycle) ==
        "g.json: task graph has a cycle: block0.forward.dispatch.0 -> block0.forward.expert.0 -> "
        "block0.forward.dispatch.0");
}

TEST_CASE("DOT holds every task and every precedence", "[models][graph][io]") {
  const TaskGraph graph = build_graph("pipemoe", kEvenLayer, authors_cluster(16), {3, 2});
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
  const TaskGraph graph = build_graph("pipemoe", kEvenLayer, authors_cluster(16), {3, 2});
  const std::string xml = to_graphml(graph);
  CHECK_THAT(xml, StartsWith("<?xml"));
  CHECK(occurrences(xml, "<node ") == graph.size());
  CHECK(occurrences(xml, "</node>") == graph.size());
  CHECK(occurrences(xml, "<edge ") == num_precedences(graph));
  CHECK(occurrences(xml, ">data<") == graph.dependencies().size());
  CHECK(occurrences(xml, ">queue_order<") == num_precedences(graph) - graph.dependencies().size());
  for (const Task& task : graph.tasks()) CHECK(occurrences(xml, ">" + task.name() + "<") == 1);
  // Degree 2 halves 1024 rows of 8 fp32 numbers: two combines and two dispatches of 16384 bytes.
  CHECK(occurrences(xml, ">16384<") == 4);
}

}  // namespace pipemoe::task_graph_io_test
