#include "models/comparison.hpp"

#include <fmt/core.h>

#include <map>
#include <set>
#include <utility>

#include "models/error.hpp"

namespace pipemoe {
namespace {

using Keys = std::set<TaskKey>;
using StepOfPass = std::pair<Pass, Step>;

Keys keys_of(const Timeline& timeline) {
  Keys keys;
  for (const Span& span : timeline.spans) keys.insert(span.task);
  return keys;
}

void check_has_all(const Keys& of_one, const Keys& of_other, const char* one, const char* other) {
  for (const TaskKey& key : of_one) {
    if (of_other.contains(key)) continue;
    throw InputError(
        fmt::format("{} is in the {} timeline, not in the {} one", key.name(), one, other));
  }
}

// Every rank has every task once.
void check_ranks(const Timeline& timeline, const Keys& keys, const char* which) {
  std::set<std::pair<int, TaskKey>> seen;
  const auto fail = [&](const TaskKey& key, int rank, const char* how) {
    throw InputError(
        fmt::format("{} of rank {} is {} in the {} timeline", key.name(), rank, how, which));
  };
  for (const Span& span : timeline.spans) {
    if (!seen.emplace(span.rank, span.task).second) fail(span.task, span.rank, "twice");
  }
  for (const int rank : timeline.ranks()) {
    for (const TaskKey& key : keys) {
      if (!seen.contains({rank, key})) fail(key, rank, "nowhere");
    }
  }
}

// Time of each step's tasks on one rank, mean over the ranks.
std::map<StepOfPass, Seconds> sums(const Timeline& timeline) {
  std::map<StepOfPass, Seconds> all;
  for (const Span& span : timeline.spans) {
    all[{span.task.pass, span.task.step}] += span.duration();
  }
  for (auto& [step, sum] : all) sum /= static_cast<double>(timeline.ranks().size());
  return all;
}

Seconds mean_over_ranks(const Timeline& timeline, Seconds (Timeline::*of_rank)(int) const) {
  Seconds sum{};
  const std::vector<int> ranks = timeline.ranks();
  for (const int rank : ranks) sum += (timeline.*of_rank)(rank);
  return sum / static_cast<double>(ranks.size());
}

std::vector<StepComparison> compare_steps(const Keys& keys, const Timeline& predicted,
                                          const Timeline& measured) {
  std::map<StepOfPass, std::size_t> tasks;
  for (const TaskKey& key : keys) ++tasks[{key.pass, key.step}];
  std::map<StepOfPass, Seconds> predicted_sums = sums(predicted), measured_sums = sums(measured);
  std::vector<StepComparison> rows;
  for (const auto& [step, count] : tasks) {
    const Compared sum{predicted_sums[step], measured_sums[step]};
    const auto each = static_cast<double>(count);
    const Compared mean{sum.predicted / each, sum.measured / each};
    rows.push_back({step.first, step.second, count, mean, sum});
  }
  return rows;
}

}  // namespace

std::optional<double> Compared::relative_error() const {
  if (measured <= Seconds{}) return std::nullopt;
  return error() / measured;
}

Comparison compare(const Timeline& predicted, const Timeline& measured) {
  const Keys of_predicted = keys_of(predicted), of_measured = keys_of(measured);
  check_has_all(of_predicted, of_measured, "predicted", "measured");
  check_has_all(of_measured, of_predicted, "measured", "predicted");
  if (of_predicted.empty()) throw InputError("the timelines hold no tasks to compare");
  check_ranks(predicted, of_predicted, "predicted");
  check_ranks(measured, of_measured, "measured");
  const auto of_ranks = [&](Seconds (Timeline::*of_rank)(int) const) {
    return Compared{mean_over_ranks(predicted, of_rank), mean_over_ranks(measured, of_rank)};
  };
  return {.steps = compare_steps(of_predicted, predicted, measured),
          .forward = {predicted.forward(), measured.forward()},
          .backward = {predicted.backward(), measured.backward()},
          .makespan = {predicted.makespan(), measured.makespan()},
          .communication = of_ranks(&Timeline::communication),
          .exposed_communication = of_ranks(&Timeline::exposed_communication)};
}

}  // namespace pipemoe
