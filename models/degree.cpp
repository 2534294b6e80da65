#include "models/degree.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include "models/cost_model.hpp"
#include "models/error.hpp"
#include "models/schedules/layer_tasks.hpp"

namespace pipemoe {
namespace {

// Keeps the smallest time, the smallest degree among equals.
class Best {
 public:
  Best(const PipelineCost& cost, std::int64_t max_degree) : cost_(cost), max_degree_(max_degree) {
    choice_.time = pipelined_time(cost, 1);
  }

  void consider(std::int64_t degree) {
    if (degree < 2 || degree > max_degree_) return;
    const Seconds time = pipelined_time(cost_, degree);
    if (time < choice_.time || (time == choice_.time && degree < choice_.degree)) {
      choice_ = {degree, time};
    }
  }

  // Both neighbours of a real-valued degree, and theirs: rounding may move it by one.
  void consider_around(double degree) {
    // False for NaN and infinities too: no such degree.
    if (!(degree > 0 && degree < static_cast<double>(max_degree_) + 2)) return;
    const auto below = static_cast<std::int64_t>(std::floor(degree));
    for (std::int64_t near = below - 1; near <= below + 2; ++near) consider(near);
  }

  const DegreeChoice& choice() const { return choice_; }

 private:
  const PipelineCost& cost_;
  std::int64_t max_degree_;
  DegreeChoice choice_;
};

// Real roots of a x^2 + b x + c without cancellation; NaN where there is none.
std::array<double, 2> roots(double a, double b, double c) {
  const double q = -0.5 * (b + std::copysign(std::sqrt(b * b - 4 * a * c), b));
  return {q / a, c / q};
}

bool are_equal(Degrees degrees) { return degrees.forward_degree == degrees.backward_degree; }

std::int64_t chunks(Degrees degrees) { return degrees.forward_degree + degrees.backward_degree; }

// Of candidates that take at most `tolerance` longer than the fastest those of the fewest chunks,
// and of these the fastest. `for_each` calls what it is given with every candidate.
template <class ForEach>
TimedDegrees fewest_chunks(ForEach for_each, double tolerance, bool only_equal) {
  Seconds fastest = Seconds::max();
  const auto counts = [&](const TimedDegrees& one) {
    return !only_equal || are_equal(one.degrees);
  };
  for_each([&](const TimedDegrees& one) {
    if (counts(one)) fastest = std::min(fastest, one.time);
  });
  ensure(fastest < Seconds::max(), "choose_degrees of nothing");
  std::optional<TimedDegrees> best;
  for_each([&](const TimedDegrees& one) {
    if (!counts(one) || one.time > (1 + tolerance) * fastest) return;
    const auto rank = [](const TimedDegrees& of) { return std::pair(chunks(of.degrees), of.time); };
    if (!best || rank(one) < rank(*best)) best = one;
  });
  return *best;
}

template <class ForEach>
Degrees choose(ForEach for_each, const DegreeRule& rule) {
  if (rule.equal) return fewest_chunks(for_each, rule.tolerance, true).degrees;
  const TimedDegrees any = fewest_chunks(for_each, rule.tolerance, false);
  if (rule.unequal_gain == 0) return any.degrees;
  const TimedDegrees equal = fewest_chunks(for_each, rule.tolerance, true);
  return any.time < (1 - rule.unequal_gain) * equal.time ? any.degrees : equal.degrees;
}

}  // namespace

Seconds pipelined_time(const PipelineCost& cost, std::int64_t degree) {
  const double r = static_cast<double>(degree);
  const Seconds all_to_all = cost.all_to_all_startup + cost.all_to_all_transfer / r;
  // r * e(r) and r * d(r) without dividing first: exact where start-up is zero.
  const Seconds experts = r * cost.expert_startup + cost.expert_work;
  const Seconds compute_bound = 2 * all_to_all + experts;
  if (degree == 1) return cost.fixed + compute_bound;
  const Seconds communication_bound = 2 * (r * cost.all_to_all_startup + cost.all_to_all_transfer);
  return cost.fixed + std::max(communication_bound, compute_bound);
}

DegreeChoice choose_degree(const PipelineCost& cost, std::int64_t max_degree) {
  ensure(max_degree >= 1, "max_degree must be at least 1");
  const double da = cost.all_to_all_startup.count(), db = cost.all_to_all_transfer.count();
  const double ea = cost.expert_startup.count(), eb = cost.expert_work.count();
  Best best(cost, max_degree);
  best.consider(2);
  best.consider(max_degree);
  best.consider_around(std::sqrt(2 * db / ea));
  for (const double crossing : roots(2 * da - ea, 2 * db - 2 * da - eb, -2 * db)) {
    best.consider_around(crossing);
  }
  return best.choice();
}

DegreeChoice choose_degree_exhaustively(const PipelineCost& cost, std::int64_t max_degree) {
  Best best(cost, max_degree);
  for (std::int64_t degree = 2; degree <= max_degree; ++degree) best.consider(degree);
  return best.choice();
}

Degrees choose_degrees(const std::vector<TimedDegrees>& candidates, const DegreeRule& rule) {
  return choose(
      [&](auto visit) {
        for (const TimedDegrees& one : candidates) visit(one);
      },
      rule);
}

Degrees choose_degrees(const std::vector<DegreeChoice>& forward,
                       const std::vector<DegreeChoice>& backward, const DegreeRule& rule) {
  return choose(
      [&](auto visit) {
        for (const DegreeChoice& f : forward) {
          for (const DegreeChoice& b : backward) {
            visit(TimedDegrees{{f.degree, b.degree}, f.time + b.time});
          }
        }
      },
      rule);
}

bool has_closed_form(const MoeLayer& layer, const Cluster& cluster) {
  if (cluster.overlap || cluster.all_to_all_queued.contains(cluster.num_ranks())) return false;
  const CostModel cost(cluster);
  const schedules::LayerTasks tasks(layer, cluster.num_ranks());
  const auto expert = [&](Pass pass) { return tasks.expert(pass, 0, layer.rows()); };
  return cost.is_line(tasks.all_to_all(Purpose::Dispatch, Phase::Forward, 0, layer.rows())) &&
         cost.is_line(expert(Pass::Forward)) && cost.is_line(expert(Pass::Backward));
}

PipelineCost pipeline_cost(const MoeLayer& layer, const Cluster& cluster, Phase phase) {
  ensure(has_closed_form(layer, cluster),
         "pipeline_cost of a table, of queued exchanges or with slowdowns");
  check_fits_ranks(layer, cluster.num_ranks());
  const CostModel cost_of(cluster);
  const schedules::LayerTasks tasks(layer, cluster.num_ranks());
  const Pass pass = phase == Phase::Forward ? Pass::Forward : Pass::Backward;
  const TaskCost all_to_all = cost_of(tasks.all_to_all(Purpose::Dispatch, phase, 0, layer.rows()));
  const TaskCost expert = cost_of(tasks.expert(pass, 0, layer.rows()));
  const Seconds fixed = cost_of(tasks.gate(phase)).total() + cost_of(tasks.permute(phase)).total() +
                        cost_of(tasks.unpermute(phase)).total();
  return {fixed, all_to_all.startup, all_to_all.work, expert.startup, expert.work};
}

}  // namespace pipemoe
