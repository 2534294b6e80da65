#include "exec/calibration/measured_graphs.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>
#include <string>
#include <vector>

using namespace pipemoe;
using namespace pipemoe::exec;

namespace {

constexpr std::int64_t kRanks = 4;
constexpr std::size_t kDegree = 3;

MoeLayer layer() {
  return {.tokens_per_rank = 512, .model_dim = 64, .hidden_dim = 32, .num_experts = 8, .top_k = 2};
}

bool is_exchange(const TaskGraph& graph, TaskId id) {
  return collective_of(graph.task(id).work) != nullptr;
}

// Every task, in an order in which they can run.
std::vector<bool> exchanges_in_order(const TaskGraph& graph) {
  std::vector<bool> exchanges;
  for (const TaskId id : graph.topological_order()) exchanges.push_back(is_exchange(graph, id));
  return exchanges;
}

// No two tasks may run at once: the longest path has them all.
bool is_chain(const TaskGraph& graph) {
  std::vector<std::size_t> depth(graph.size(), 1);
  for (const TaskId id : graph.topological_order()) {
    for (const auto& successor : graph.successors(id)) {
      depth[successor.task] = std::max(depth[successor.task], depth[id] + 1);
    }
  }
  return *std::max_element(depth.begin(), depth.end()) == graph.size();
}

// What must have ended when the task starts.
std::set<TaskId> before(const TaskGraph& graph, TaskId task) {
  std::vector<std::set<TaskId>> all(graph.size());
  for (const TaskId id : graph.topological_order()) {
    for (const auto& successor : graph.successors(id)) {
      all[successor.task].insert(all[id].begin(), all[id].end());
      all[successor.task].insert(id);
    }
  }
  return all[task];
}

}  // namespace

TEST_CASE("the same tasks run serially, in groups and without exchanges", "[exec][calibrate]") {
  const TaskGraph serial = serial_chunks(layer(), kRanks, kDegree);
  const TaskGraph grouped = grouped_chunks(layer(), kRanks, kDegree);
  const TaskGraph computations = computations_only(layer(), kRanks, kDegree);
  for (const TaskGraph* graph : {&serial, &grouped, &computations}) CHECK(is_chain(*graph));
  const auto keys = [](const TaskGraph& graph, bool exchanges) {
    std::set<std::string> all;
    for (TaskId id = 0; id < graph.size(); ++id) {
      if (exchanges || !is_exchange(graph, id)) all.insert(graph.task(id).name());
    }
    return all;
  };
  CHECK(keys(serial, true) == keys(grouped, true));
  CHECK(keys(serial, false) == keys(computations, true));
  CHECK(serial.size() == 6 + 7 * kDegree);
}

TEST_CASE("grouped exchanges follow each other", "[exec][calibrate]") {
  const auto exchanges = exchanges_in_order(grouped_chunks(layer(), kRanks, kDegree));
  const auto first = std::find(exchanges.begin(), exchanges.end(), true);
  CHECK(first - exchanges.begin() == 2);
  CHECK(std::find(first, exchanges.end(), false) - first == 4 * kDegree);
  CHECK(std::count(exchanges.begin(), exchanges.end(), true) == 4 * kDegree);
}

namespace {

std::vector<TaskId> tasks_of(const TaskGraph& graph, Step step, Pass pass) {
  std::vector<TaskId> all;
  for (TaskId id = 0; id < graph.size(); ++id) {
    const Task& task = graph.task(id);
    if (task.key.step == step && task.key.pass == pass) all.push_back(id);
  }
  return all;
}

std::multiset<std::string> names(const TaskGraph& graph) {
  std::multiset<std::string> all;
  for (const Task& task : graph.tasks()) all.insert(task.name());
  return all;
}

}  // namespace

TEST_CASE("experts run beside exchanges that touch none of their buffers", "[exec][calibrate]") {
  const TaskGraph graph = experts_under_exchanges(layer(), kRanks, kDegree);
  const auto of = [&](Step step, Pass pass) {
    const auto tasks = tasks_of(graph, step, pass);
    REQUIRE(tasks.size() == kDegree);
    return tasks;
  };
  const auto apart = [&](const std::vector<TaskId>& some, const std::vector<TaskId>& others) {
    return !before(graph, some.back()).contains(others.front()) &&
           !before(graph, others.back()).contains(some.front());
  };
  const auto forward = of(Step::Expert, Pass::Forward);
  const auto input_gradients = of(Step::ExpertInputGradient, Pass::Backward);
  const auto weight_gradients = of(Step::ExpertWeightGradient, Pass::Backward);
  const auto dispatches = of(Step::Dispatch, Pass::Forward);
  const auto gradients = of(Step::Combine, Pass::Backward);
  const auto outputs = of(Step::Combine, Pass::Forward);
  CHECK(apart(forward, gradients));
  CHECK(apart(input_gradients, dispatches));
  CHECK(apart(weight_gradients, outputs));
  // Rows and gradients are read by experts of other parts alone, outputs written by those of one.
  CHECK(before(graph, dispatches.front()).contains(forward.back()));
  CHECK(before(graph, weight_gradients.front()).contains(dispatches.back()));
  CHECK(before(graph, input_gradients.front()).contains(gradients.back()));
  CHECK(before(graph, outputs.front()).contains(forward.back()));
}

// A device that is given the experts first starts the exchanges when the host has launched them
// all.
TEST_CASE("exchanges are given to the device before the experts beside them", "[exec][calibrate]") {
  const auto exchanges = exchanges_in_order(experts_under_exchanges(layer(), kRanks, kDegree));
  std::vector<bool> expected(4, false);  // gate, permute, both unpermutes
  for (int part = 0; part < 3; ++part) {
    expected.insert(expected.end(), kDegree, true);
    expected.insert(expected.end(), kDegree, false);
  }
  CHECK(exchanges == expected);
}

TEST_CASE("the same experts and exchanges one after another", "[exec][calibrate]") {
  const TaskGraph then = experts_then_exchanges(layer(), kRanks, kDegree);
  const TaskGraph under = experts_under_exchanges(layer(), kRanks, kDegree);
  CHECK(is_chain(then));
  CHECK_FALSE(is_chain(under));
  CHECK(names(then) == names(under));
}
