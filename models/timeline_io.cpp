#include "models/timeline_io.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "models/error.hpp"
#include "models/json_reader.hpp"
#include "models/limits.hpp"
#include "models/task_json.hpp"

namespace pipemoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kTimelineSchema = "pipemoe.timeline/2";

Json provenance_json(const Provenance& from) {
  return {{"program", from.program},
          {"commit", from.commit},
          {"host", from.host},
          {"made_by", from.made_by},
          {"versions", from.versions},
          {"notes", from.notes},
          {"configuration", Json::parse(from.configuration)}};
}

std::string printable_text(const Json& json, const JsonObject& object, const std::string& key) {
  if (!json.is_string()) object.fail(key, "must hold texts");
  std::string text = json.get<std::string>();
  if (!is_printable(text)) object.fail(key, "must hold no control characters");
  return text;
}

Provenance read_provenance(const Json& json) {
  JsonObject object(json, "provenance");
  Provenance from;
  from.program = object.text("program");
  from.commit = object.text("commit");
  from.host = object.text("host");
  from.made_by = object.text("made_by");
  if (!object.member("versions").is_object()) object.fail("versions", "must be an object");
  for (const auto& [name, version] : object.member("versions").items()) {
    if (!is_printable(name)) object.fail("versions", "must hold no control characters");
    from.versions[name] = printable_text(version, object, "versions");
  }
  for (const auto& note : object.array("notes")) {
    from.notes.push_back(printable_text(note, object, "notes"));
  }
  from.configuration = object.member("configuration").dump();
  object.finish();
  return from;
}

Json span_json(const Timeline& timeline, const Span& span) {
  Json json = key_json(span.task);
  json["queue"] = timeline.queues[span.queue].name;
  json["rank"] = span.rank;
  json["start_s"] = span.start.count();
  json["end_s"] = span.end.count();
  return json;
}

Span read_span(const Json& json, const std::vector<Queue>& queues) {
  constexpr std::int64_t kMaxIndex = 100'000'000;
  JsonObject object(json, "span");
  Span span;
  span.task = read_key(object, kMaxIndex);
  span.queue = read_queue_name(object, queues);
  span.rank = static_cast<int>(object.integer("rank", 0, kMaxIndex));
  span.start = Seconds{object.number("start_s")};
  span.end = Seconds{object.number("end_s")};
  if (span.start < Seconds{} || span.end < span.start) {
    object.fail("end_s", "must not be before start_s, nor start_s before 0");
  }
  if (span.end.count() > kLongestTimeline) {
    object.fail("end_s",
                fmt::format("is {}, must be at most {:g}", span.end.count(), kLongestTimeline));
  }
  object.finish();
  return span;
}

std::optional<BasisShares> read_basis(JsonObject& root) {
  if (!root.has("basis")) return std::nullopt;
  JsonObject object(root.member("basis"), "basis");
  BasisShares shares{};
  constexpr double kMostShare = 1 + 1e-6;  // shares are sums of rounded ones
  for (const Basis basis : kBases) {
    const std::string name = to_string(basis);
    const double share = object.number(name.c_str());
    if (share < 0 || share > kMostShare)
      object.fail(name, fmt::format("is {}, must be 0..1", share));
    shares[static_cast<std::size_t>(basis)] = share;
  }
  object.finish();
  return shares;
}

std::vector<Seconds> read_repeats(JsonObject& root) {
  std::vector<Seconds> repeats;
  if (!root.has("repeats_s")) return repeats;
  for (const auto& value : root.array("repeats_s")) {
    const double seconds = value.is_number() ? value.get<double>() : -1;
    if (!(seconds >= 0 && seconds <= kLongestTimeline)) {
      root.fail("repeats_s", fmt::format("must hold numbers 0..{:g}", kLongestTimeline));
    }
    repeats.push_back(Seconds{seconds});
  }
  return repeats;
}

Timeline read_timeline(const Json& json) {
  JsonObject root(json, "timeline");
  if (const std::string schema = root.text("schema"); schema != kTimelineSchema) {
    root.fail("schema", fmt::format("is {}, must be {}", schema, kTimelineSchema));
  }
  Timeline timeline;
  timeline.provenance = read_provenance(root.member("provenance"));
  timeline.queues = read_queues(root);
  for (const auto& span : root.array("spans")) {
    timeline.spans.push_back(read_span(span, timeline.queues));
  }
  timeline.repeats = read_repeats(root);
  timeline.basis = read_basis(root);
  for (const char* derived : {"makespan_s", "forward_s", "backward_s"}) root.number(derived);
  root.finish();
  return timeline;
}

Json track_name(const char* what, int process, int thread, const std::string& name) {
  return {
      {"name", what}, {"ph", "M"}, {"pid", process}, {"tid", thread}, {"args", {{"name", name}}}};
}

Json trace_event(const Span& span, int process) {
  constexpr double kMicrosecondsPerSecond = 1e6;
  return {{"name", fmt::format("{} {}", to_string(span.task.step), span.task.chunk)},
          {"cat", to_string(span.task.pass)},
          {"ph", "X"},
          {"ts", span.start.count() * kMicrosecondsPerSecond},
          {"dur", span.duration().count() * kMicrosecondsPerSecond},
          {"pid", process},
          {"tid", static_cast<int>(span.queue)},
          {"args", {{"task", span.task.name()}}}};
}

}  // namespace

std::string to_json(const Timeline& timeline) {
  Json json{{"schema", kTimelineSchema},
            {"provenance", provenance_json(timeline.provenance)},
            {"makespan_s", timeline.makespan().count()},
            {"forward_s", timeline.forward().count()},
            {"backward_s", timeline.backward().count()}};
  for (const Seconds repeat : timeline.repeats) json["repeats_s"].push_back(repeat.count());
  if (timeline.basis) {
    for (const auto& [basis, share] : named(*timeline.basis)) json["basis"][basis] = share;
  }
  json["queues"] = Json::array();
  for (const Queue& queue : timeline.queues) json["queues"].push_back(queue_json(queue));
  json["spans"] = Json::array();
  for (const Span& span : timeline.spans) json["spans"].push_back(span_json(timeline, span));
  return json.dump(1) + "\n";
}

Timeline timeline_from_json(std::string_view text, const std::string& origin) {
  const Json json = parse_json(text, origin);
  try {
    return read_timeline(json);
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: {}", origin, error.what()));
  }
}

std::string to_csv(const Timeline& timeline) {
  std::string text = "task,microbatch,block,pass,step,chunk,stage,queue,rank,start_s,end_s\n";
  for (const Span& span : timeline.spans) {
    const TaskKey& task = span.task;
    text += fmt::format("{},{},{},{},{},{},{},{},{},{},{}\n", task.name(), task.microbatch,
                        task.block, to_string(task.pass), to_string(task.step), task.chunk,
                        task.stage, timeline.queues[span.queue].name, span.rank, span.start.count(),
                        span.end.count());
  }
  return text;
}

std::string to_chrome_trace(const std::vector<std::pair<std::string, const Timeline*>>& timelines) {
  Json events = Json::array();
  int first_process = 1;
  for (const auto& [title, timeline] : timelines) {
    std::set<int> ranks;
    std::set<std::pair<int, QueueId>> tracks;
    for (const Span& span : timeline->spans) {
      ranks.insert(span.rank);
      tracks.emplace(span.rank, span.queue);
    }
    for (const int rank : ranks) {
      events.push_back(track_name("process_name", first_process + rank, 0,
                                  fmt::format("{}, rank {}", title, rank)));
    }
    for (const auto& [rank, queue] : tracks) {
      events.push_back(
          track_name("thread_name", first_process + rank, queue, timeline->queues[queue].name));
    }
    for (const Span& span : timeline->spans) {
      events.push_back(trace_event(span, first_process + span.rank));
    }
    first_process += ranks.empty() ? 1 : *ranks.rbegin() + 1;
  }
  return Json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump() + "\n";
}

}  // namespace pipemoe
