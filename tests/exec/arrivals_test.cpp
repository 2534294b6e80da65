#include "exec/arrivals.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <vector>

#include "exec/calibration_graph.hpp"
#include "exec/layer_graph.hpp"
#include "models/schedule.hpp"
#include "tests/exec/executed_layer.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;

namespace {

// By name, of the tasks that wait for any.
std::map<std::string, std::vector<std::string>> named_arrivals(const TaskGraph& graph) {
  std::map<std::string, std::vector<std::string>> named;
  const auto all = arrivals(graph);
  for (TaskId id = 0; id < graph.size(); ++id) {
    for (const TaskId exchange : all[id]) {
      named[graph.task(id).name()].push_back(graph.task(exchange).name());
    }
  }
  return named;
}

}  // namespace

TEST_CASE("each chunk's experts await its exchange, the last task the last one", "[exec]") {
  const TaskGraph graph = schedule("pipemoe", prime_layer(2, 1.0), one_node(1), {2, 2});
  const auto named = named_arrivals(graph);
  using Names = std::vector<std::string>;
  CHECK(named.at("layer0.forward.expert.0") == Names{"layer0.forward.dispatch.0"});
  CHECK(named.at("layer0.forward.expert.1") == Names{"layer0.forward.dispatch.1"});
  CHECK(named.at("layer0.forward.unpermute.0") == Names{"layer0.forward.combine.1"});
  CHECK(named.at("layer0.backward.permute.0") == Names{"layer0.backward.dispatch.1"});
  CHECK(named.size() == 6);
}

TEST_CASE("whatever a computation needs has been awaited on its stream", "[exec]") {
  const std::int64_t degree = GENERATE(1, 2, 4, 8);
  const std::string name = GENERATE(as<std::string>{}, "pipemoe", "pipemoe-deferred", "tutel");
  CAPTURE(name, degree);
  const TaskGraph graph = schedule(name, prime_layer(2, 1.0), one_node(1), {degree, degree});
  const auto all = arrivals(graph);
  std::map<TaskId, std::size_t> place;  // of each exchange in its stream
  for (const Stream stream : kStreams) {
    for (const TaskId id : graph.stream_order(stream)) place.emplace(id, place.size());
  }
  for (const Stream stream : kStreams) {
    std::map<Stream, std::size_t> arrived;  // one behind the last
    for (const TaskId id : graph.stream_order(stream)) {
      for (const TaskId exchange : all[id]) {
        std::size_t& last = arrived[graph.task(exchange).stream];
        CHECK(place[exchange] + 1 > last);  // none twice
        last = place[exchange] + 1;
      }
      for (const auto& [before, after] : graph.dependencies()) {
        if (after != id || !is_exchange(graph.task(before))) continue;
        if (is_exchange(graph.task(id))) continue;
        CHECK(place[before] < arrived[graph.task(before).stream]);
      }
    }
  }
}

TEST_CASE("exchanges await nothing", "[exec]") {
  const TaskGraph graph = grouped_chunks(prime_layer(2, 1.0), 1, 3);
  const auto all = arrivals(graph);
  std::size_t count = 0;
  for (TaskId id = 0; id < graph.size(); ++id) {
    if (is_exchange(graph.task(id))) CHECK(all[id].empty());
    count += all[id].size();
  }
  CHECK(count == 1);
}
