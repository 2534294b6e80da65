#include "exec/arrivals.hpp"

#include <array>
#include <cstddef>

#include "exec/layer_graph.hpp"

namespace pipemoe::exec {
namespace {

constexpr std::size_t kNumStreams = kStreams.size();

std::size_t index(Stream stream) { return static_cast<std::size_t>(stream); }

// Of each task, which of its stream's it is, from 1.
std::vector<std::size_t> places(const TaskGraph& graph) {
  std::vector<std::size_t> places(graph.size());
  for (const Stream stream : kStreams) {
    std::size_t place = 0;
    for (const TaskId id : graph.stream_order(stream)) places[id] = ++place;
  }
  return places;
}

// By the stream of the exchange: the last that a task needs, or none.
struct Last {
  std::size_t place = 0;
  TaskId exchange = 0;
};
using LastOfStreams = std::array<Last, kNumStreams>;

}  // namespace

std::vector<std::vector<TaskId>> arrivals(const TaskGraph& graph) {
  const std::vector<std::size_t> place = places(graph);
  std::vector<LastOfStreams> needed(graph.size());
  for (const auto& [before, after] : graph.dependencies()) {
    if (!is_exchange(graph.task(before)) || is_exchange(graph.task(after))) continue;
    Last& last = needed[after][index(graph.task(before).stream)];
    if (place[before] > last.place) last = {place[before], before};
  }
  std::vector<std::vector<TaskId>> arrivals(graph.size());
  for (const Stream stream : kStreams) {
    std::array<std::size_t, kNumStreams> arrived{};
    for (const TaskId id : graph.stream_order(stream)) {
      for (std::size_t from = 0; from < kNumStreams; ++from) {
        const Last& last = needed[id][from];
        if (last.place <= arrived[from]) continue;
        arrived[from] = last.place;
        arrivals[id].push_back(last.exchange);
      }
    }
  }
  return arrivals;
}

}  // namespace pipemoe::exec
