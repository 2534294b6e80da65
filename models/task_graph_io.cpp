#include "models/task_graph_io.hpp"

#include <fmt/core.h>

#include <boost/graph/graphml.hpp>
#include <boost/graph/graphviz.hpp>
#include <boost/property_map/function_property_map.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "models/error.hpp"
#include "models/json_reader.hpp"

namespace pipemoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSchema = "pipemoe.task_graph/2";

// ---- writing ----

struct WriteWork {
  Json& json;

  void operator()(const Gate& gate) const { json["traffic_bytes"] = gate.traffic.count; }
  void operator()(const Permute& permute) const { json["traffic_bytes"] = permute.traffic.count; }
  void operator()(const Unpermute& unpermute) const {
    json["traffic_bytes"] = unpermute.traffic.count;
  }
  void operator()(const AllToAll& exchange) const {
    write_traffic(exchange.traffic);
    if (exchange.experts == ExpertSizes{}) return;
    json["experts_per_rank"] = exchange.experts.experts_per_rank;
    json["model_dim"] = exchange.experts.model_dim;
    json["hidden_dim"] = exchange.experts.hidden_dim;
  }
  void write_traffic(const TrafficMatrix& traffic) const {
    if (traffic.is_balanced()) {
      json["bytes_per_rank"] = traffic.per_rank().count;
      if (traffic.is_uniform()) return;
      json["group_size"] = traffic.group_size();
      json["group_shift"] = traffic.group_shift();
      return;
    }
    json["bytes_by_pair"] = Json::array();
    for (const Bytes bytes : traffic.pairs()) json["bytes_by_pair"].push_back(bytes.count);
  }
  void operator()(const ExpertFfn& expert) const {
    json["dtype"] = to_string(expert.dtype);
    json["both_gradients"] = expert.pass == Pass::Backward;
    json["activation"] = to_string(expert.activation);
    json["activation_traffic_bytes"] = expert.activation_traffic.count;
    json["layout_traffic_bytes"] = expert.layout_traffic.count;
    json["gemms"] = Json::array();
    for (const GemmShape& gemm : expert.gemms) {
      json["gemms"].push_back(
          {{"groups", gemm.groups}, {"rows", gemm.rows}, {"n", gemm.n}, {"k", gemm.k}});
    }
  }
};

Json task_json(const Task& task) {
  Json json{{"task", task.name()},
            {"operation", to_string(kind_of(task.operation))},
            {"layer", task.layer},
            {"chunk", task.chunk},
            {"phase", to_string(task.phase)},
            {"stream", to_string(task.stream)}};
  std::visit(WriteWork{json}, task.operation);
  return json;
}

// ---- reading ----

constexpr std::int64_t kMaxCount = std::int64_t{1} << 62;

Bytes read_bytes(JsonObject& object, const char* key) {
  return {object.integer(key, 0, kMaxCount)};
}

TrafficMatrix read_traffic(JsonObject& object, std::int64_t num_ranks) {
  if (!object.has("bytes_by_pair")) {
    const Bytes bytes = read_bytes(object, "bytes_per_rank");
    if (!object.has("group_size")) return TrafficMatrix::uniform(bytes);
    const std::int64_t size = object.integer("group_size", 1, num_ranks);
    if (num_ranks % size != 0) object.fail("group_size", "must divide the ranks");
    return TrafficMatrix::between_groups(bytes, size,
                                         object.integer("group_shift", 0, num_ranks / size - 1));
  }
  std::vector<Bytes> pairs;
  for (const auto& value : object.array("bytes_by_pair")) {
    if (!value.is_number_integer()) object.fail("bytes_by_pair", "must hold integers");
    pairs.push_back({value.get<std::int64_t>()});
  }
  return TrafficMatrix::of_pairs(num_ranks, std::move(pairs));
}

GemmShapes read_gemms(JsonObject& object) {
  GemmShapes gemms;
  for (const auto& item : object.array("gemms")) {
    JsonObject gemm(item, object.path("gemms"));
    if (gemms.size() == gemms.capacity()) object.fail("gemms", "must hold at most 4");
    gemms.push_back({gemm.integer("groups", 1, kMaxCount), gemm.integer("rows", 0, kMaxCount),
                     gemm.integer("n", 1, kMaxCount), gemm.integer("k", 1, kMaxCount)});
    gemm.finish();
  }
  return gemms;
}

ExpertFfn read_expert(JsonObject& object, Pass pass) {
  ExpertFfn expert;
  expert.pass = pass;
  expert.dtype = object.word("dtype", dtype_from);
  if (object.boolean("both_gradients")) {
    if (pass != Pass::Forward) object.fail("both_gradients", "is for operation expert only");
    expert.pass = Pass::Backward;
  }
  expert.activation = object.word("activation", activation_from);
  expert.activation_traffic = read_bytes(object, "activation_traffic_bytes");
  expert.layout_traffic = read_bytes(object, "layout_traffic_bytes");
  expert.gemms = read_gemms(object);
  return expert;
}

AllToAll read_exchange(JsonObject& object, Purpose purpose, std::int64_t num_ranks) {
  AllToAll exchange{purpose, read_traffic(object, num_ranks)};
  if (!object.has("experts_per_rank")) return exchange;
  exchange.experts = {object.integer("experts_per_rank", 1, kMaxCount),
                      object.integer("model_dim", 1, kMaxCount),
                      object.integer("hidden_dim", 1, kMaxCount)};
  return exchange;
}

Operation read_operation(JsonObject& object, std::int64_t num_ranks) {
  switch (object.word("operation", operation_kind_from)) {
    case OperationKind::Gate:
      return Gate{read_bytes(object, "traffic_bytes")};
    case OperationKind::Permute:
      return Permute{read_bytes(object, "traffic_bytes")};
    case OperationKind::Unpermute:
      return Unpermute{read_bytes(object, "traffic_bytes")};
    case OperationKind::Dispatch:
      return read_exchange(object, Purpose::Dispatch, num_ranks);
    case OperationKind::Combine:
      return read_exchange(object, Purpose::Combine, num_ranks);
    case OperationKind::Expert:
      return read_expert(object, Pass::Forward);
    case OperationKind::ExpertInputGradient:
      return read_expert(object, Pass::InputGradient);
    case OperationKind::ExpertWeightGradient:
      return read_expert(object, Pass::WeightGradient);
  }
  throw std::logic_error("pipemoe bug: unknown operation kind");
}

Task read_task(JsonObject& object, std::int64_t num_ranks) {
  constexpr std::int64_t kMaxIndex = 1'000'000;
  Task task;
  task.layer = static_cast<int>(object.integer("layer", 0, kMaxIndex));
  task.chunk = static_cast<int>(object.integer("chunk", 0, kMaxIndex));
  task.phase = object.word("phase", phase_from);
  task.stream = object.word("stream", stream_from);
  task.operation = read_operation(object, num_ranks);
  const std::string name = object.text("task");
  if (name != task.name()) object.fail("task", fmt::format("is {}, must be {}", name, task.name()));
  object.finish();
  return task;
}

class NamedTasks {
 public:
  void add(const std::string& name, TaskId id) { ids_.emplace(name, id); }
  TaskId find(const JsonObject& object, const char* key, const Json& name) const {
    const auto found = name.is_string() ? ids_.find(name.get<std::string>()) : ids_.end();
    if (found == ids_.end()) object.fail(key, "names unknown task " + name.dump());
    return found->second;
  }

 private:
  std::map<std::string, TaskId> ids_;
};

TaskGraph read_graph(const Json& json) {
  JsonObject root(json, "graph");
  if (const std::string schema = root.text("schema"); schema != kSchema) {
    root.fail("schema", fmt::format("is {}, must be {}", schema, kSchema));
  }
  const std::int64_t num_ranks = root.integer("num_ranks", 1, 1 << 26);
  TaskGraphBuilder builder(root.text("schedule"), num_ranks);
  NamedTasks names;
  for (const auto& item : root.array("tasks")) {
    JsonObject object(item, "task");
    const Task task = read_task(object, num_ranks);
    names.add(task.name(), builder.add(task));
  }
  for (const auto& edge : root.array("dependencies")) {
    if (!edge.is_array() || edge.size() != 2)
      root.fail("dependencies", "must hold [before, after]");
    builder.depend(names.find(root, "dependencies", edge[0]),
                   names.find(root, "dependencies", edge[1]));
  }
  JsonObject orders(root.member("stream_order"), "stream_order");
  for (const Stream stream : kStreams) {
    const std::string key = to_string(stream);
    for (const auto& name : orders.array(key.c_str())) {
      builder.enqueue(names.find(orders, key.c_str(), name), stream);
    }
  }
  orders.finish();
  root.finish();
  return std::move(builder).build();
}

// ---- properties shared by DOT and GraphML ----

template <class Function>
auto vertex_property(Function function) {
  return boost::make_function_property_map<TaskId>(std::move(function));
}

}  // namespace

std::string to_json(const TaskGraph& graph) {
  Json json{{"schema", kSchema}, {"schedule", graph.schedule()}, {"num_ranks", graph.num_ranks()}};
  json["tasks"] = Json::array();
  for (const Task& task : graph.tasks()) json["tasks"].push_back(task_json(task));
  json["dependencies"] = Json::array();
  for (const auto& [before, after] : graph.dependencies()) {
    json["dependencies"].push_back({graph.task(before).name(), graph.task(after).name()});
  }
  for (const Stream stream : kStreams) {
    Json& order = json["stream_order"][to_string(stream)] = Json::array();
    for (const TaskId id : graph.stream_order(stream)) order.push_back(graph.task(id).name());
  }
  return json.dump(1) + "\n";
}

TaskGraph task_graph_from_json(std::string_view text, const std::string& origin) {
  try {
    return read_graph(Json::parse(text));
  } catch (const nlohmann::json::exception& error) {
    throw InputError(fmt::format("{}: {}", origin, error.what()));
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: {}", origin, error.what()));
  }
}

std::string to_dot(const TaskGraph& graph) {
  const auto write_vertex = [&](std::ostream& out, TaskId id) {
    const Task& task = graph.task(id);
    out << fmt::format("[label=\"{} {}\", group={}]", to_string(kind_of(task.operation)),
                       task.chunk, to_string(task.stream));
  };
  const auto write_edge = [&](std::ostream& out, const auto& edge) {
    const bool order = graph.structure()[edge] == Precedence::StreamOrder;
    out << (order ? "[style=dashed]" : "[style=solid]");
  };
  const auto write_graph = [](std::ostream& out) {
    out << "rankdir=LR;\nnode [shape=box, fontname=\"Helvetica\"];\n";
  };
  std::ostringstream text;
  const auto names = vertex_property([&](TaskId id) { return graph.task(id).name(); });
  boost::write_graphviz(text, graph.structure(), write_vertex, write_edge, write_graph, names);
  return text.str();
}

std::string to_graphml(const TaskGraph& graph) {
  const auto of_task = [&](auto member) {
    return vertex_property([&graph, member](TaskId id) { return member(graph.task(id)); });
  };
  boost::dynamic_properties properties;
  const auto add = [&](const char* name, auto member) {
    properties.property(name, of_task(member));
  };
  add("task", [](const Task& task) { return task.name(); });
  add("operation", [](const Task& task) { return to_string(kind_of(task.operation)); });
  add("layer", [](const Task& task) { return task.layer; });
  add("chunk", [](const Task& task) { return task.chunk; });
  add("phase", [](const Task& task) { return to_string(task.phase); });
  add("stream", [](const Task& task) { return to_string(task.stream); });
  add("exchanged_bytes", [](const Task& task) { return exchanged_bytes(task.operation).count; });
  add("flops", [](const Task& task) { return expert_flops(task.operation).count; });
  using EdgeDescriptor = boost::graph_traits<TaskGraph::Structure>::edge_descriptor;
  properties.property("precedence", boost::make_function_property_map<EdgeDescriptor>(
                                        [&](const EdgeDescriptor& edge) -> std::string {
                                          return graph.structure()[edge] == Precedence::Data
                                                     ? "data"
                                                     : "stream_order";
                                        }));
  std::ostringstream text;
  boost::write_graphml(text, graph.structure(), properties, true);
  return text.str();
}

}  // namespace pipemoe
