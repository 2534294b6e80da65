#include "models/pipeline_model.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "models/error.hpp"

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

}  // namespace pipemoe
