#include "exec/calibration/contention_fit.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "models/costs.hpp"
#include "models/error.hpp"
#include "models/fit.hpp"
#include "models/schedules/layer_tasks.hpp"

namespace pipemoe::exec {
namespace {

// What the tasks of a pass take by themselves: products in one stage or two, and as many times the
// same exchanges, one behind another.
struct TimesAlone {
  std::vector<double> products;
  double exchanges = 0;
};

TimesAlone times_alone(const ContentionRow& row, const MoeLayer& layer, const Cluster& cluster) {
  const schedules::LayerTasks tasks(layer, cluster.num_ranks());
  const CostModel cost(cluster);
  std::vector<ProductKind> kinds{ProductKind::InputGradient, ProductKind::WeightGradient};
  if (row.pass == Pass::Forward) kinds = {ProductKind::Forward};
  TimesAlone alone{std::vector<double>(kinds.size())};
  int chunk = 0;
  for (const std::int64_t rows : layer.chunk_rows(row.degree)) {
    for (std::size_t stage = 0; stage < kinds.size(); ++stage) {
      alone.products[stage] += cost(tasks.expert(kinds[stage], chunk, rows).work).total().count();
    }
    const TaskCost exchange =
        cost(tasks.all_to_all(Step::Dispatch, Pass::Forward, chunk, rows).work);
    const Seconds saved = chunk > 0 ? exchange.queued_saving : Seconds{};
    alone.exchanges += (exchange.total() - saved).count();
    ++chunk;
  }
  return alone;
}

// A row's slowdown of one queue, and its weight.
struct Weighted {
  ExpertSizes sizes;
  Pass pass;
  double slowdown;
  double weight;
};

// What rows say of one queue.
class OneQueue {
 public:
  void add(const ContentionRow& row, std::optional<double> slowdown, double weight) {
    if (slowdown && weight > 0) all_.push_back({row.sizes, row.pass, *slowdown, weight});
  }
  bool empty() const { return all_.empty(); }

  double median(Pass pass) const {
    std::vector<std::pair<double, double>> values;
    for (const Weighted& one : all_) {
      if (one.pass == pass) values.emplace_back(one.slowdown, one.weight);
    }
    return values.empty() ? 1 : std::max(1.0, weighted_median(std::move(values)));
  }

  double mean(const ExpertSizes& sizes, Pass pass, double otherwise) const {
    double sum = 0, weights = 0;
    for (const Weighted& one : all_) {
      if (one.pass != pass || one.sizes != sizes) continue;
      sum += one.weight * one.slowdown;
      weights += one.weight;
    }
    return weights > 0 ? std::max(1.0, sum / weights) : otherwise;
  }

  std::string range() const {
    const auto [least, most] = std::minmax_element(
        all_.begin(), all_.end(),
        [](const Weighted& a, const Weighted& b) { return a.slowdown < b.slowdown; });
    return fmt::format("{:.3f} to {:.3f}", least->slowdown, most->slowdown);
  }

 private:
  std::vector<Weighted> all_;
};

const MoeLayer& layer_of(const ContentionRow& row, const std::vector<MoeLayer>& layers,
                         const Cluster& cluster) {
  for (const MoeLayer& layer : layers) {
    if (layer.name == row.layer && layer.expert_sizes(cluster.num_ranks()) == row.sizes) {
      return layer;
    }
  }
  throw std::logic_error("pipemoe bug: contention of a layer that is not there");
}

}  // namespace

ContentionWeights weights_of(const ContentionRow& row, const MoeLayer& layer,
                             const Cluster& cluster) {
  const TimesAlone alone = times_alone(row, layer, cluster);
  const double compute = row.compute.value_or(1), communication = row.communication.value_or(1);
  double both = 0, computing = 0;
  for (const double products : alone.products) {
    both += std::min(products * compute, alone.exchanges * communication);
    computing += products;
  }
  const double communicating = static_cast<double>(alone.products.size()) * alone.exchanges;
  const auto weight = [&](double time_alone, double slowdown) {
    const double beside = both / slowdown;  // as much of it ran beside the other queue
    return both > 0 ? beside / (time_alone - beside + both) : 0;
  };
  return {weight(computing, compute), weight(communicating, communication)};
}

std::optional<Contention> fit_contention(const std::vector<ContentionRow>& rows,
                                         const std::vector<MoeLayer>& layers,
                                         const Cluster& cluster) {
  OneQueue products, collectives;
  Contention contention;
  for (const ContentionRow& row : rows) {
    const ContentionWeights weights = weights_of(row, layer_of(row, layers, cluster), cluster);
    products.add(row, row.compute, weights.products);
    collectives.add(row, row.communication, weights.collectives);
    const auto same = [&](const ExpertContention& one) { return one.sizes == row.sizes; };
    if (std::none_of(contention.experts.begin(), contention.experts.end(), same)) {
      contention.experts.push_back({row.sizes, {}});
    }
  }
  if (products.empty() || collectives.empty()) return std::nullopt;
  const auto general = [&](Pass pass) {
    return Slowdowns{products.median(pass), collectives.median(pass)};
  };
  contention.general = {general(Pass::Forward), general(Pass::Backward)};
  for (auto& [sizes, own] : contention.experts) {
    const auto of_pass = [&, of = sizes](Pass pass, const Slowdowns& otherwise) {
      return Slowdowns{products.mean(of, pass, otherwise.products),
                       collectives.mean(of, pass, otherwise.collectives)};
    };
    own = {of_pass(Pass::Forward, contention.general.forward),
           of_pass(Pass::Backward, contention.general.gradients)};
  }
  contention.source = fmt::format(
      "pipemoe calibrate, experts under exchanges: weighted means over degrees and ranks, the "
      "general ones weighted medians over layers too; compute {}, communication {}",
      products.range(), collectives.range());
  return contention;
}

}  // namespace pipemoe::exec
