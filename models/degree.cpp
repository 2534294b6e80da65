#include "models/degree.hpp"

#include <algorithm>
#include <array>
#include <cmath>
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

void FewestChunks::consider(Degrees degrees, Seconds time) {
  const std::int64_t chunks = degrees.forward_degree + degrees.backward_degree;
  if (time > most_ || std::pair(chunks, time) >= std::pair(chunks_, time_)) return;
  chunks_ = chunks;
  time_ = time;
  choice_ = degrees;
}

Degrees choose_degrees(const std::vector<DegreeChoice>& forward,
                       const std::vector<DegreeChoice>& backward, double tolerance, bool equal) {
  ensure(!forward.empty() && !backward.empty(), "choose_degrees of nothing");
  const auto for_each_pair = [&](auto visit) {
    for (std::size_t i = 0; i < forward.size(); ++i) {
      for (std::size_t j = equal ? i : 0; j < (equal ? i + 1 : backward.size()); ++j) {
        visit(Degrees{forward[i].degree, backward[j].degree}, forward[i].time + backward[j].time);
      }
    }
  };
  Seconds fastest = Seconds::max();
  for_each_pair([&](Degrees, Seconds time) { fastest = std::min(fastest, time); });
  FewestChunks fewest(fastest, tolerance);
  for_each_pair([&](Degrees degrees, Seconds time) { fewest.consider(degrees, time); });
  return fewest.choice();
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
