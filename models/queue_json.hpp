// Queues in JSON, as task graphs and timelines have them.
#pragma once

#include <vector>

#include "models/json_reader.hpp"
#include "models/task_graph.hpp"

namespace pipemoe {

inline JsonObject::Json queue_json(const Queue& queue) {
  return {
      {"name", queue.name}, {"resource", to_string(queue.resource)}, {"priority", queue.priority}};
}

/// Member "queues" of an object.
inline std::vector<Queue> read_queues(JsonObject& root) {
  constexpr std::int64_t kMostPriority = 100;
  std::vector<Queue> queues;
  for (const auto& json : root.array("queues")) {
    JsonObject object(json, root.path("queues"));
    Queue queue;
    queue.name = object.text("name");
    queue.resource = object.word("resource", resource_from);
    queue.priority = static_cast<int>(object.integer("priority", -kMostPriority, kMostPriority));
    object.finish();
    queues.push_back(std::move(queue));
  }
  if (queues.empty() || queues.size() > kMaxQueues) {
    root.fail("queues", fmt::format("has {} queues, must have 1..{}", queues.size(), kMaxQueues));
  }
  return queues;
}

/// Member "queue": the name of one of them.
inline QueueId read_queue_name(JsonObject& object, const std::vector<Queue>& queues) {
  const std::string name = object.text("queue");
  for (std::size_t i = 0; i < queues.size(); ++i) {
    if (queues[i].name == name) return static_cast<QueueId>(i);
  }
  object.fail("queue", fmt::format("is {}, which is no queue of the graph", name));
}

}  // namespace pipemoe
