// Queues and keys of tasks in JSON, as task graphs and timelines have them.
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

/// Makes an object of a task's name and key, to which the caller adds what else it holds.
inline JsonObject::Json key_json(const TaskKey& key) {
  return {{"task", key.name()},          {"microbatch", key.microbatch}, {"block", key.block},
          {"pass", to_string(key.pass)}, {"step", to_string(key.step)},  {"chunk", key.chunk},
          {"stage", key.stage}};
}

/// Reads what `key_json` wrote. Indices up to `largest_index` are allowed.
inline TaskKey read_key(JsonObject& object, std::int64_t largest_index) {
  const auto index = [&](const char* key) {
    return static_cast<int>(object.integer(key, 0, largest_index));
  };
  const TaskKey key{index("microbatch"),
                    index("block"),
                    object.word("pass", pass_from),
                    object.word("step", step_from),
                    index("chunk"),
                    index("stage")};
  const std::string name = object.text("task");
  if (name != key.name()) object.fail("task", fmt::format("is {}, must be {}", name, key.name()));
  return key;
}

}  // namespace pipemoe
