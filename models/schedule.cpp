#include "models/schedule.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "models/error.hpp"
#include "models/schedules/list.hpp"

namespace pipemoe {
namespace {

constexpr const char* kForwardDegree = "forward_degree";
constexpr const char* kBackwardDegree = "backward_degree";
constexpr const char* kDegree = "degree";

WorkTotals unpipelined(const MoeLayer& layer, ProductKind kind, std::int64_t num_ranks) {
  return {layer.all_to_all_bytes(), layer.all_to_all_bytes(),
          layer.products(kind, layer.rows(), num_ranks).flops()};
}

}  // namespace

std::int64_t value_of(const Choice& choice, const std::string& knob) {
  for (const auto& [name, value] : choice) {
    if (name == knob) return value;
  }
  throw InputError(fmt::format("{} is not chosen", knob));
}

std::string to_string(const Choice& choice) {
  std::string text;
  for (const auto& [name, value] : choice) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, value);
  }
  return text;
}

std::string to_string(Degrees degrees) {
  if (degrees.forward_degree == degrees.backward_degree) {
    return fmt::format("{}", degrees.forward_degree);
  }
  return fmt::format("{}/{}", degrees.forward_degree, degrees.backward_degree);
}

Degrees degrees_from(const std::string& text) {
  const auto slash = text.find('/');
  const auto degree = [&](const std::string& part) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < 1) {
      throw InputError(fmt::format("is \"{}\", must be a degree, or forward's / backward's", text));
    }
    return value;
  };
  if (slash == std::string::npos) return {degree(text), degree(text)};
  return {degree(text.substr(0, slash)), degree(text.substr(slash + 1))};
}

Degrees degrees_of(const TaskGraph& graph) {
  Degrees degrees;
  for (const Task& task : graph.tasks()) {
    auto& degree =
        task.key.pass == Pass::Forward ? degrees.forward_degree : degrees.backward_degree;
    degree = std::max(degree, std::int64_t{task.key.chunk} + 1);
  }
  return degrees;
}

const std::vector<Schedule>& all_schedules() {
  static const std::vector<Schedule> all = schedules::list();
  return all;
}

const Schedule& find_schedule(const std::string& name) {
  std::vector<std::string> names;
  for (const Schedule& schedule : all_schedules()) {
    if (schedule.name == name) return schedule;
    names.push_back(schedule.name);
  }
  throw InputError(fmt::format("schedule is {}, must be one of {}", name, fmt::join(names, ", ")));
}

TaskGraph build_graph(const Schedule& schedule, const MoeLayer& layer, const Cluster& cluster,
                      const Choice& choice) {
  const std::int64_t ranks = cluster.num_ranks();
  check_fits_ranks(layer, ranks);
  TaskGraph graph = schedule.build(layer, cluster, choice);
  ensure(
      equal_work(total_work(graph, Pass::Forward), unpipelined(layer, ProductKind::Forward, ranks)),
      "a schedule lost or added forward work");
  ensure(equal_work(total_work(graph, Pass::Backward),
                    unpipelined(layer, ProductKind::BothGradients, ranks)),
         "a schedule lost or added backward work");
  check_conservation(graph);
  return graph;
}

Choice choice_of(const Schedule& schedule, const MoeLayer& layer, const Cluster& cluster,
                 Degrees degrees) {
  Choice choice;
  Degrees taken;
  for (const Knob& knob : schedule.knobs(layer, cluster, 1)) {
    if (knob.name == kForwardDegree) {
      choice.emplace_back(knob.name, taken.forward_degree = degrees.forward_degree);
    } else if (knob.name == kBackwardDegree) {
      choice.emplace_back(knob.name, taken.backward_degree = degrees.backward_degree);
    } else if (knob.name == kDegree) {
      if (degrees.forward_degree != degrees.backward_degree) {
        throw InputError(fmt::format("schedule {} has one degree for both passes: {} and {} given",
                                     schedule.name, degrees.forward_degree,
                                     degrees.backward_degree));
      }
      choice.emplace_back(knob.name, degrees.forward_degree);
      taken = degrees;
    } else {
      choice.emplace_back(knob.name, knob.values.front());
    }
  }
  if (taken == degrees) return choice;
  throw InputError(
      fmt::format("schedule {} has no degrees to choose: {} and {} given, leave them out or at 1",
                  schedule.name, degrees.forward_degree, degrees.backward_degree));
}

TaskGraph build_graph(const std::string& schedule, const MoeLayer& layer, const Cluster& cluster,
                      Degrees degrees) {
  const Schedule& found = find_schedule(schedule);
  return build_graph(found, layer, cluster, choice_of(found, layer, cluster, degrees));
}

namespace schedules {

std::vector<std::int64_t> degrees_up_to(const MoeLayer& layer, std::int64_t max_degree) {
  std::vector<std::int64_t> degrees;
  for (std::int64_t degree = 1; degree <= std::min(max_degree, layer.slots()); ++degree) {
    degrees.push_back(degree);
  }
  return degrees;
}

std::vector<Knob> both_degrees(const MoeLayer& layer, const Cluster&, std::int64_t max_degree) {
  const std::vector<std::int64_t> degrees = degrees_up_to(layer, max_degree);
  return {{kForwardDegree, degrees, Pass::Forward}, {kBackwardDegree, degrees, Pass::Backward}};
}

std::vector<Knob> no_knobs(const MoeLayer&, const Cluster&, std::int64_t) { return {}; }

Degrees chosen_degrees(const Choice& choice) {
  return {value_of(choice, kForwardDegree), value_of(choice, kBackwardDegree)};
}

std::int64_t chosen_degree(const Choice& choice) { return value_of(choice, kDegree); }

}  // namespace schedules
}  // namespace pipemoe
