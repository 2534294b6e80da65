#include "models/task_graph_io.hpp"

#include <fmt/core.h>

#include <boost/graph/graphml.hpp>
#include <boost/graph/graphviz.hpp>
#include <boost/property_map/function_property_map.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "models/boost_graph.hpp"
#include "models/error.hpp"
#include "models/json_reader.hpp"
#include "models/task_json.hpp"

namespace pipemoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kGraphSchema = "pipemoe.task_graph/3";

// ---- writing ----

Json amount_json(std::int64_t amount) { return amount; }
Json amount_json(Bytes bytes) { return bytes.count; }
Json amount_json(Seconds time) { return time.count(); }

// A number, or a list with one for each rank.
template <class T>
Json per_rank_json(const PerRank<T>& values) {
  if (values.is_uniform()) return amount_json(values[0]);
  Json list = Json::array();
  for (const T& value : values.each()) list.push_back(amount_json(value));
  return list;
}

void write_traffic(Json& json, const TrafficMatrix& traffic) {
  if (!traffic.is_balanced()) {
    json["bytes_by_pair"] = Json::array();
    for (const Bytes bytes : traffic.pairs()) json["bytes_by_pair"].push_back(bytes.count);
    return;
  }
  json["bytes_per_rank"] = traffic.per_rank().count;
  if (traffic.is_uniform()) return;
  json["block_size"] = traffic.block_size();
  json["block_shift"] = traffic.block_shift();
}

Json work_json(const Work& work) {
  return std::visit(
      Overloaded{
          [](const Products& products) {
            Json json{{"shape", "products"},
                      {"kind", to_string(products.kind)},
                      {"dtype", to_string(products.dtype)},
                      {"activation", to_string(products.activation)},
                      {"rows", per_rank_json(products.rows)},
                      {"activation_bytes_per_row", products.activation_bytes_per_row.count},
                      {"layout_bytes_per_row", products.layout_bytes_per_row.count}};
            json["gemms"] = Json::array();
            for (const GemmShape& gemm : products.shapes) {
              json["gemms"].push_back({{"groups", gemm.groups}, {"n", gemm.n}, {"k", gemm.k}});
            }
            return json;
          },
          [](const MemoryTraffic& memory) {
            return Json{{"shape", "memory_traffic"},
                        {"kernel", to_string(memory.kernel)},
                        {"bytes", per_rank_json(memory.bytes)}};
          },
          [](const Collective& collective) {
            Json json{{"shape", "collective"},
                      {"kind", to_string(collective.kind)},
                      {"group", to_string(collective.group)}};
            write_traffic(json, collective.traffic);
            return json;
          },
          [](const Timed& timed) {
            return Json{{"shape", "timed"}, {"seconds", per_rank_json(timed.duration)}};
          }},
      work);
}

Json task_json(const TaskGraph& graph, const Task& task) {
  Json json = key_json(task.key);
  json["queue"] = graph.queues()[task.queue].name;
  json["work"] = work_json(task.work);
  return json;
}

// ---- reading ----

constexpr std::int64_t kMaxCount = std::int64_t{1} << 62;
constexpr std::int64_t kMaxRows = std::int64_t{1} << 40;
constexpr std::int64_t kLargestDim = std::int64_t{1} << 24;
constexpr double kMaxSeconds = 1e9;

template <class T, class Read>
PerRank<T> read_per_rank(JsonObject& object, const char* key, std::int64_t num_ranks, Read read) {
  const Json& value = object.member(key);
  if (!value.is_array()) return PerRank<T>(read(value));
  std::vector<T> each;
  for (const auto& one : value) each.push_back(read(one));
  if (each.size() != static_cast<std::size_t>(num_ranks)) {
    object.fail(
        key, fmt::format("has {} values, must have {}: one for each rank", each.size(), num_ranks));
  }
  return PerRank<T>(std::move(each));
}

std::int64_t read_count(const JsonObject& object, const char* key, const Json& value,
                        std::int64_t most) {
  if (!value.is_number_integer()) object.fail(key, "must be an integer, or a list of integers");
  const auto number = value.get<std::int64_t>();
  if (number < 0 || number > most) {
    object.fail(key, fmt::format("is {}, must be 0..{}", number, most));
  }
  return number;
}

GemmShapes read_gemms(JsonObject& object) {
  GemmShapes gemms;
  for (const auto& item : object.array("gemms")) {
    JsonObject gemm(item, object.path("gemms"));
    if (gemms.size() == gemms.capacity()) object.fail("gemms", "must hold at most 4");
    gemms.push_back({gemm.integer("groups", 1, kLargestDim), 0, gemm.integer("n", 1, kLargestDim),
                     gemm.integer("k", 1, kLargestDim)});
    gemm.finish();
  }
  return gemms;
}

Products read_products(JsonObject& object, std::int64_t num_ranks) {
  Products products;
  products.kind = object.word("kind", product_kind_from);
  products.dtype = object.word("dtype", dtype_from);
  products.activation = object.word("activation", activation_from);
  products.rows = read_per_rank<std::int64_t>(object, "rows", num_ranks, [&](const Json& value) {
    return read_count(object, "rows", value, kMaxRows);
  });
  constexpr std::int64_t kMaxRowBytes = std::int64_t{1} << 30;
  products.activation_bytes_per_row = {object.integer("activation_bytes_per_row", 0, kMaxRowBytes)};
  products.layout_bytes_per_row = {object.integer("layout_bytes_per_row", 0, kMaxRowBytes)};
  products.shapes = read_gemms(object);
  return products;
}

TrafficMatrix read_traffic(JsonObject& object, std::int64_t num_ranks) {
  if (object.has("bytes_by_pair")) {
    std::vector<Bytes> pairs;
    for (const auto& value : object.array("bytes_by_pair")) {
      pairs.push_back({read_count(object, "bytes_by_pair", value, kMaxCount)});
    }
    return TrafficMatrix::of_pairs(num_ranks, std::move(pairs));
  }
  const Bytes bytes{object.integer("bytes_per_rank", 0, kMaxCount)};
  if (!object.has("block_size")) return TrafficMatrix::uniform(bytes);
  const std::int64_t size = object.integer("block_size", 1, num_ranks);
  if (num_ranks % size != 0) object.fail("block_size", "must divide the ranks");
  return TrafficMatrix::between_blocks(bytes, size,
                                       object.integer("block_shift", 0, num_ranks / size - 1));
}

Work read_work(const Json& json, std::int64_t num_ranks) {
  JsonObject object(json, "work");
  const std::string shape = object.text("shape");
  Work work;
  if (shape == "products") {
    work = read_products(object, num_ranks);
  } else if (shape == "memory_traffic") {
    const MemoryKernel kernel = object.word("kernel", memory_kernel_from);
    work = MemoryTraffic{kernel,
                         read_per_rank<Bytes>(object, "bytes", num_ranks, [&](const Json& value) {
                           return Bytes{read_count(object, "bytes", value, kMaxCount)};
                         })};
  } else if (shape == "collective") {
    const CollectiveKind kind = object.word("kind", collective_kind_from);
    const Group group = object.word("group", group_from);
    work = Collective{kind, group, read_traffic(object, num_ranks)};
  } else if (shape == "timed") {
    work = Timed{read_per_rank<Seconds>(object, "seconds", num_ranks, [&](const Json& value) {
      const double seconds = value.is_number() ? value.get<double>() : -1;
      if (!(seconds >= 0 && seconds <= kMaxSeconds)) {
        object.fail("seconds",
                    fmt::format("must be a number of 0..{:g}, or a list of them", kMaxSeconds));
      }
      return Seconds{seconds};
    })};
  } else {
    object.fail("shape", fmt::format("is {}, must be one of products, memory_traffic, collective, "
                                     "timed",
                                     shape));
  }
  object.finish();
  return work;
}

Task read_task(JsonObject& object, const std::vector<Queue>& queues, std::int64_t num_ranks) {
  constexpr std::int64_t kMaxIndex = 1'000'000;
  Task task;
  task.key = read_key(object, kMaxIndex);
  task.queue = read_queue_name(object, queues);
  task.work = read_work(object.member("work"), num_ranks);
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
  if (const std::string schema = root.text("schema"); schema != kGraphSchema) {
    root.fail("schema", fmt::format("is {}, must be {}", schema, kGraphSchema));
  }
  const std::int64_t num_ranks = root.integer("num_ranks", 1, 1 << 26);
  const std::string schedule = root.text("schedule");
  const std::vector<Queue> queues = read_queues(root);
  TaskGraphBuilder builder(schedule, num_ranks, queues);
  NamedTasks names;
  for (const auto& item : root.array("tasks")) {
    JsonObject object(item, "task");
    const Task task = read_task(object, queues, num_ranks);
    names.add(task.name(), builder.add(task));
  }
  for (const auto& edge : root.array("dependencies")) {
    if (!edge.is_array() || edge.size() != 2) {
      root.fail("dependencies", "must hold [before, after]");
    }
    builder.depend(names.find(root, "dependencies", edge[0]),
                   names.find(root, "dependencies", edge[1]));
  }
  JsonObject orders(root.member("queue_order"), "queue_order");
  for (std::size_t i = 0; i < queues.size(); ++i) {
    const char* key = queues[i].name.c_str();
    for (const auto& name : orders.array(key)) {
      builder.enqueue(names.find(orders, key, name), static_cast<QueueId>(i));
    }
  }
  orders.finish();
  root.finish();
  TaskGraph graph = std::move(builder).build();
  check_conservation(graph);
  return graph;
}

// ---- properties shared by DOT and GraphML ----

template <class Function>
auto vertex_property(Function function) {
  return boost::make_function_property_map<TaskId>(std::move(function));
}

}  // namespace

std::string to_json(const TaskGraph& graph) {
  Json json{
      {"schema", kGraphSchema}, {"schedule", graph.schedule()}, {"num_ranks", graph.num_ranks()}};
  json["queues"] = Json::array();
  for (const Queue& queue : graph.queues()) json["queues"].push_back(queue_json(queue));
  json["tasks"] = Json::array();
  for (const Task& task : graph.tasks()) json["tasks"].push_back(task_json(graph, task));
  json["dependencies"] = Json::array();
  for (const auto& [before, after] : graph.dependencies()) {
    json["dependencies"].push_back({graph.task(before).name(), graph.task(after).name()});
  }
  for (std::size_t i = 0; i < graph.queues().size(); ++i) {
    Json& order = json["queue_order"][graph.queues()[i].name] = Json::array();
    for (const TaskId id : graph.queue_order(static_cast<QueueId>(i))) {
      order.push_back(graph.task(id).name());
    }
  }
  return json.dump(1) + "\n";
}

TaskGraph task_graph_from_json(std::string_view text, const std::string& origin) {
  const Json json = parse_json(text, origin);
  try {
    return read_graph(json);
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: {}", origin, error.what()));
  }
}

std::string to_dot(const TaskGraph& graph) {
  const BoostGraph structure = boost_graph(graph);
  const auto write_vertex = [&](std::ostream& out, TaskId id) {
    const Task& task = graph.task(id);
    out << fmt::format("[label=\"{} {}\", group={}]", to_string(task.key.step), task.key.chunk,
                       boost::escape_dot_string(graph.queues()[task.queue].name));
  };
  const auto write_edge = [&](std::ostream& out, const auto& edge) {
    const bool order = structure[edge] == Precedence::QueueOrder;
    out << (order ? "[style=dashed]" : "[style=solid]");
  };
  const auto write_graph = [](std::ostream& out) {
    out << "rankdir=LR;\nnode [shape=box, fontname=\"Helvetica\"];\n";
  };
  std::ostringstream text;
  const auto names = vertex_property([&](TaskId id) { return graph.task(id).name(); });
  boost::write_graphviz(text, structure, write_vertex, write_edge, write_graph, names);
  return text.str();
}

std::string to_graphml(const TaskGraph& graph) {
  const BoostGraph structure = boost_graph(graph);
  const auto of_task = [&](auto member) {
    return vertex_property([&graph, member](TaskId id) { return member(graph.task(id)); });
  };
  boost::dynamic_properties properties;
  const auto add = [&](const char* name, auto member) {
    properties.property(name, of_task(member));
  };
  add("task", [](const Task& task) { return task.name(); });
  add("microbatch", [](const Task& task) { return task.key.microbatch; });
  add("block", [](const Task& task) { return task.key.block; });
  add("pass", [](const Task& task) { return to_string(task.key.pass); });
  add("step", [](const Task& task) { return to_string(task.key.step); });
  add("chunk", [](const Task& task) { return task.key.chunk; });
  add("stage", [](const Task& task) { return task.key.stage; });
  add("queue", [&](const Task& task) { return graph.queues()[task.queue].name; });
  add("collective_bytes", [](const Task& task) { return collective_bytes(task.work).count; });
  add("flops", [](const Task& task) { return product_flops(task.work).count; });
  using EdgeDescriptor = boost::graph_traits<BoostGraph>::edge_descriptor;
  properties.property("precedence",
                      boost::make_function_property_map<EdgeDescriptor>(
                          [&](const EdgeDescriptor& edge) -> std::string {
                            return structure[edge] == Precedence::Data ? "data" : "queue_order";
                          }));
  std::ostringstream text;
  boost::write_graphml(text, structure, properties, true);
  return text.str();
}

}  // namespace pipemoe
