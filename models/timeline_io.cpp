#include "models/timeline_io.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "models/error.hpp"
#include "models/json_reader.hpp"

namespace pipemoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSchema = "pipemoe.timeline/1";

Json provenance_json(const Provenance& from) {
  return {{"program", from.program},
          {"commit", from.commit},
          {"host", from.host},
          {"made_by", from.made_by},
          {"versions", from.versions},
          {"notes", from.notes},
          {"configuration", Json::parse(from.configuration)}};
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
    if (!version.is_string()) object.fail("versions", "must hold texts");
    from.versions[name] = version.get<std::string>();
  }
  for (const auto& note : object.array("notes")) {
    if (!note.is_string()) object.fail("notes", "must hold texts");
    from.notes.push_back(note.get<std::string>());
  }
  from.configuration = object.member("configuration").dump();
  object.finish();
  return from;
}

Json span_json(const Span& span) {
  return {{"task", span.task.name()},
          {"operation", to_string(span.task.operation)},
          {"layer", span.task.layer},
          {"chunk", span.task.chunk},
          {"phase", to_string(span.task.phase)},
          {"stream", to_string(span.stream)},
          {"rank", span.rank},
          {"start_s", span.start.count()},
          {"end_s", span.end.count()}};
}

Span read_span(const Json& json) {
  constexpr std::int64_t kMaxIndex = 100'000'000;
  JsonObject object(json, "span");
  Span span;
  span.task.operation = object.word("operation", operation_kind_from);
  span.task.layer = static_cast<int>(object.integer("layer", 0, kMaxIndex));
  span.task.chunk = static_cast<int>(object.integer("chunk", 0, kMaxIndex));
  span.task.phase = object.word("phase", phase_from);
  span.stream = object.word("stream", stream_from);
  span.rank = static_cast<int>(object.integer("rank", 0, kMaxIndex));
  span.start = Seconds{object.number("start_s")};
  span.end = Seconds{object.number("end_s")};
  if (span.start < Seconds{} || span.end < span.start) {
    object.fail("end_s", "must not be before start_s, nor start_s before 0");
  }
  if (object.text("task") != span.task.name()) object.fail("task", "must be " + span.task.name());
  object.finish();
  return span;
}

std::vector<Seconds> read_repeats(JsonObject& root) {
  std::vector<Seconds> repeats;
  if (!root.has("repeats_s")) return repeats;
  for (const auto& value : root.array("repeats_s")) {
    const double seconds = value.is_number() ? value.get<double>() : -1;
    if (!std::isfinite(seconds) || seconds < 0) {
      root.fail("repeats_s", "must hold finite numbers of at least 0");
    }
    repeats.push_back(Seconds{seconds});
  }
  return repeats;
}

Timeline read_timeline(const Json& json) {
  JsonObject root(json, "timeline");
  if (root.text("schema") != kSchema) root.fail("schema", std::string("must be ") + kSchema);
  Timeline timeline;
  timeline.provenance = read_provenance(root.member("provenance"));
  for (const auto& span : root.array("spans")) timeline.spans.push_back(read_span(span));
  timeline.repeats = read_repeats(root);
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
  return {{"name", fmt::format("{} {}", to_string(span.task.operation), span.task.chunk)},
          {"cat", to_string(span.task.phase)},
          {"ph", "X"},
          {"ts", span.start.count() * kMicrosecondsPerSecond},
          {"dur", span.duration().count() * kMicrosecondsPerSecond},
          {"pid", process},
          {"tid", static_cast<int>(span.stream)},
          {"args", {{"task", span.task.name()}}}};
}

}  // namespace

std::string to_json(const Timeline& timeline) {
  Json json{{"schema", kSchema},
            {"provenance", provenance_json(timeline.provenance)},
            {"makespan_s", timeline.makespan().count()},
            {"forward_s", timeline.forward().count()},
            {"backward_s", timeline.backward().count()}};
  for (const Seconds repeat : timeline.repeats) json["repeats_s"].push_back(repeat.count());
  json["spans"] = Json::array();
  for (const Span& span : timeline.spans) json["spans"].push_back(span_json(span));
  return json.dump(1) + "\n";
}

Timeline timeline_from_json(std::string_view text, const std::string& origin) {
  try {
    return read_timeline(Json::parse(text));
  } catch (const nlohmann::json::exception& error) {
    throw InputError(fmt::format("{}: {}", origin, error.what()));
  } catch (const InputError& error) {
    throw InputError(fmt::format("{}: {}", origin, error.what()));
  }
}

std::string to_csv(const Timeline& timeline) {
  std::string text = "task,operation,layer,chunk,phase,stream,rank,start_s,end_s\n";
  for (const Span& span : timeline.spans) {
    text += fmt::format("{},{},{},{},{},{},{},{},{}\n", span.task.name(),
                        to_string(span.task.operation), span.task.layer, span.task.chunk,
                        to_string(span.task.phase), to_string(span.stream), span.rank,
                        span.start.count(), span.end.count());
  }
  return text;
}

std::string to_chrome_trace(const std::vector<std::pair<std::string, const Timeline*>>& timelines) {
  Json events = Json::array();
  int first_process = 1;
  for (const auto& [title, timeline] : timelines) {
    std::set<int> ranks;
    std::set<std::pair<int, Stream>> tracks;
    for (const Span& span : timeline->spans) {
      ranks.insert(span.rank);
      tracks.emplace(span.rank, span.stream);
    }
    for (const int rank : ranks) {
      events.push_back(track_name("process_name", first_process + rank, 0,
                                  fmt::format("{}, rank {}", title, rank)));
    }
    for (const auto& [rank, stream] : tracks) {
      events.push_back(track_name("thread_name", first_process + rank, static_cast<int>(stream),
                                  to_string(stream)));
    }
    for (const Span& span : timeline->spans) {
      events.push_back(trace_event(span, first_process + span.rank));
    }
    first_process += ranks.empty() ? 1 : *ranks.rbegin() + 1;
  }
  return Json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump() + "\n";
}

}  // namespace pipemoe
