#include "models/costs.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "models/error.hpp"
#include "models/limits.hpp"
#include "models/links.hpp"
#include "models/names.hpp"

namespace pipemoe {
namespace {

constexpr Names<Basis, 4> kBasisNames{{{Basis::Measured, "measured"},
                                       {Basis::Interpolated, "interpolated"},
                                       {Basis::Estimated, "estimated"},
                                       {Basis::NotModelled, "not_modelled"}}};

/// A fit and its links are said to contradict each other where their slopes differ by more.
constexpr double kContradiction = 1.25;

template <class Map, class Key>
auto* find_or_null(const Map& map, const Key& key) {
  const auto found = map.find(key);
  return found == map.end() ? nullptr : &found->second;
}

template <class Amount>
TaskCost cost_of(const Fit<Amount>& fit, Amount amount, Basis basis) {
  TaskCost cost;
  cost.startup = fit.startup();
  cost.work = fit(amount) - cost.startup;
  cost.extrapolates = fit.extrapolates_at(amount);
  cost.is_line = fit.line() != nullptr;
  cost.basis = cost.extrapolates ? Basis::Estimated : basis;
  return cost;
}

// A task of two parts: its basis is the worse one of those that take time.
void add(TaskCost& sum, const TaskCost& part) {
  const bool first = sum.total() <= Seconds{};
  if (part.total() > Seconds{}) {
    sum.basis = first ? part.basis : std::max(sum.basis, part.basis);
  } else if (first) {
    sum.basis = std::max(sum.basis, part.basis);
  }
  sum.startup += part.startup;
  sum.work += part.work;
  sum.extrapolates |= part.extrapolates;
  sum.is_line &= part.is_line;
}

MemoryKernel activation_of(ProductKind kind) {
  return kind == ProductKind::Forward ? MemoryKernel::Activation : MemoryKernel::ActivationBackward;
}

// Seconds per byte of a fit over its largest amounts.
double slope(const Fit<Bytes>& fit) {
  if (const AlphaBeta<Bytes>* line = fit.line()) return line->beta.value;
  const auto& points = std::get<TimeTable>(fit.model).points;
  const auto& [n0, t0] = points[points.size() - 2];
  const auto& [n1, t1] = points.back();
  return (t1 - t0).count() / (n1 - n0);
}

}  // namespace

std::string to_string(Basis basis) { return name_of(kBasisNames, basis); }

MemoryKernel CostModel::resolve(MemoryKernel kernel) const {
  return cluster_.kernels.contains(kernel) ? kernel : general_kernel(kernel);
}

const Fit<Bytes>* CostModel::kernel_fit(MemoryKernel kernel, std::set<std::string>& missing) const {
  const MemoryKernel resolved = resolve(kernel);
  if (const KernelCost* cost = find_or_null(cluster_.kernels, resolved)) {
    return std::visit(Overloaded{[](const NotModelled&) -> const Fit<Bytes>* { return nullptr; },
                                 [](const Fit<Bytes>& fit) { return &fit; }},
                      *cost);
  }
  missing.insert(fmt::format("{}{} fit, which not_modelled does not list either", to_string(kernel),
                             kernel == resolved ? "" : " or " + to_string(resolved)));
  return nullptr;
}

const CollectiveFit* CostModel::collective_fit(CollectiveKind kind, Group group) const {
  return find_or_null(cluster_.collectives, std::pair(kind, group));
}

const ExpertFit* CostModel::expert_fit(const Products& products) const {
  for (const ExpertFit& one : cluster_.experts) {
    if (one.dtype == products.dtype && one.activation == products.activation &&
        one.kind == products.kind && one.shapes == products.shapes) {
      return &one;
    }
  }
  return nullptr;
}

TaskCost CostModel::kernel_cost(MemoryKernel kernel, Bytes bytes,
                                std::set<std::string>& missing) const {
  const Fit<Bytes>* fit = kernel_fit(kernel, missing);
  if (fit == nullptr) {
    TaskCost nothing;
    nothing.basis = Basis::NotModelled;
    return nothing;
  }
  if (bytes.count == 0) return {};
  return cost_of(*fit, bytes, Basis::Interpolated);
}

TaskCost CostModel::products_cost(const Products& products, std::size_t rank,
                                  std::set<std::string>& missing) const {
  if (const ExpertFit* whole = expert_fit(products)) {
    return cost_of(whole->fit, products.flops(rank), Basis::Measured);
  }
  TaskCost sum;
  add(sum, kernel_cost(activation_of(products.kind), products.activation_bytes(rank), missing));
  // Backward, gradients are packed just as rows are forward.
  const Bytes layout = products.layout_bytes(rank);
  if (layout.count > 0) add(sum, kernel_cost(MemoryKernel::Permute, layout, missing));
  sum.extrapolates = false;  // of the products alone
  const Fit<Flops>* gemm = find_or_null(cluster_.gemm, products.dtype);
  if (gemm == nullptr) {
    missing.insert(fmt::format("gemm fit for {}", to_string(products.dtype)));
    return sum;
  }
  for (const GemmShape& shape : products.gemms(rank)) {
    add(sum, cost_of(*gemm, shape.flops(), Basis::Interpolated));
  }
  return sum;
}

TaskCost CostModel::collective_cost(const Collective& collective,
                                    std::set<std::string>& missing) const {
  const Group all = cluster_.all_ranks();
  const bool charged_as_fit = collective.traffic.block_size() == 0;
  const CollectiveFit* own =
      charged_as_fit ? collective_fit(collective.kind, collective.group) : nullptr;
  TaskCost cost;
  if (own != nullptr) {
    cost = cost_of(*own, collective.bytes(), Basis::Interpolated);
    if (collective.traffic.is_balanced()) {
      cost.queued_saving = std::min(own->queued_saving, cost.startup);
    } else {
      cost.basis = Basis::Estimated;
    }
  } else {
    const Fit<Bytes>* startup = collective_fit(collective.kind, all);
    if (startup == nullptr) startup = collective_fit(CollectiveKind::AllToAll, all);
    if (startup == nullptr) {
      std::vector<std::string> fitted;
      for (const auto& [key, fit] : cluster_.collectives) {
        if (key.first == collective.kind) fitted.push_back(to_string(key.second));
      }
      missing.insert(fmt::format("{} fit for {} ranks (fitted: {})", to_string(collective.kind),
                                 to_string(collective.group), fmt::join(fitted, ", ")));
      return cost;
    }
    cost.startup = startup->startup();
    cost.work = time_on_links(cluster_, collective);
    cost.basis = Basis::Estimated;
  }
  cost.is_collective = true;
  return cost;
}

TaskCost CostModel::look_up(const Work& work, std::size_t rank,
                            std::set<std::string>& missing) const {
  return std::visit(
      Overloaded{[&](const Products& products) { return products_cost(products, rank, missing); },
                 [&](const MemoryTraffic& memory) {
                   return kernel_cost(memory.kernel, memory.bytes[rank], missing);
                 },
                 [&](const Collective& collective) { return collective_cost(collective, missing); },
                 [&](const Timed& timed) {
                   TaskCost cost;
                   cost.work = timed.duration[rank];
                   return cost;
                 }},
      work);
}

TaskCost CostModel::operator()(const Work& work, std::size_t rank) const {
  std::set<std::string> missing;
  const TaskCost cost = look_up(work, rank, missing);
  if (missing.empty()) return cost;
  throw InputError(fmt::format("cluster {} has no {}", cluster_.name, fmt::join(missing, ", no ")));
}

// Ranks are of one class when every task has equal work on them and they are in equal groups: with
// collectives of parts of the ranks each rank is then a class of its own.
void Costs::find_classes() {
  std::vector<std::vector<TaskId>> differing;
  std::vector<TaskId> uneven;
  bool subgroups = false;
  for (TaskId id = 0; id < graph_.size(); ++id) {
    const Work& work = graph_.task(id).work;
    if (differs_between_ranks(work)) uneven.push_back(id);
    const Collective* collective = collective_of(work);
    subgroups |= collective != nullptr && collective->group.count != graph_.num_ranks();
  }
  representatives_ = {0};
  if (uneven.empty()) return;
  const auto ranks = static_cast<std::size_t>(graph_.num_ranks());
  class_of_.resize(ranks);
  representatives_.clear();
  std::map<std::vector<double>, std::uint32_t> known;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    std::vector<double> amounts;
    if (subgroups) amounts.push_back(static_cast<double>(rank));
    for (const TaskId id : uneven) {
      amounts.push_back(std::visit(
          Overloaded{[&](const Products& of) { return static_cast<double>(of.rows[rank]); },
                     [&](const MemoryTraffic& of) { return of.bytes[rank].amount(); },
                     [&](const Collective&) { return 0.0; },
                     [&](const Timed& of) { return of.duration[rank].count(); }},
          graph_.task(id).work));
    }
    const auto next = static_cast<std::uint32_t>(representatives_.size());
    const auto [found, is_new] = known.emplace(std::move(amounts), next);
    if (is_new) representatives_.push_back(static_cast<std::int64_t>(rank));
    class_of_[rank] = found->second;
  }
}

namespace {

void check_length(const TaskCost& cost, const Task& task, const Cluster& cluster) {
  if (cost.total().count() <= kLongestTask) return;  // not-a-number fails it too
  throw InputError(fmt::format("on cluster {}, {} takes {:.3g} s, must be at most {:g} s",
                               cluster.name, task.name(), cost.total().count(), kLongestTask));
}

}  // namespace

Costs::Costs(const TaskGraph& graph, const Cluster& cluster) : graph_(graph), cluster_(cluster) {
  if (graph.num_ranks() != cluster.num_ranks()) {
    throw InputError(fmt::format("task graph is for {} ranks, cluster {} has {}", graph.num_ranks(),
                                 cluster.name, cluster.num_ranks()));
  }
  find_classes();
  const CostModel cost(cluster);
  std::map<std::string, std::pair<std::string, int>> lacking;  // what, first task, how many
  std::set<std::string> missing;
  // What flows on links take is looked up once: it is slow.
  std::vector<std::pair<const Collective*, TaskCost>> on_links;
  const auto look_up = [&](const Work& work, std::size_t rank) {
    const Collective* collective = collective_of(work);
    if (collective == nullptr) return cost.look_up(work, rank, missing);
    for (const auto& [known, known_cost] : on_links) {
      if (*known == *collective) return known_cost;
    }
    const TaskCost found = cost.look_up(work, rank, missing);
    if (found.basis == Basis::Estimated) on_links.emplace_back(collective, found);
    return found;
  };
  costs_.reserve(num_classes() * graph.size());
  for (std::size_t of = 0; of < num_classes(); ++of) {
    const auto rank = static_cast<std::size_t>(representatives_[of]);
    for (TaskId id = 0; id < graph.size(); ++id) {
      const Task& task = graph.task(id);
      TaskCost& entry = costs_.emplace_back(look_up(task.work, rank));
      entry.queue = task.queue;
      entry.pass = task.key.pass;
      check_length(entry, task, cluster);
      for (const std::string& what : missing) {
        ++lacking.emplace(what, std::pair(task.name(), 0)).first->second.second;
      }
      missing.clear();
    }
  }
  if (!lacking.empty()) {
    std::vector<std::string> list;
    for (const auto& [what, tasks] : lacking) {
      const auto& [first, count] = tasks;
      list.push_back(fmt::format("no {} for {}{}", what, first,
                                 count == 1 ? "" : fmt::format(" and {} more", count - 1)));
    }
    throw InputError(fmt::format("cluster {} has {}", cluster.name, fmt::join(list, "; ")));
  }
  if (!cluster.contention) return;
  slowed_by_.reserve(graph.size());
  for (const Task& task : graph.tasks()) slowed_by_.push_back(&cluster.contention->of(task));
}

std::size_t Costs::num_extrapolated() const {
  return static_cast<std::size_t>(std::count_if(
      costs_.begin(), costs_.end(), [](const TaskCost& cost) { return cost.extrapolates; }));
}

namespace {

// Gathers what a reader must know, each thing once.
class Notes {
 public:
  Notes(const Cluster& cluster) : cluster_(cluster), cost_(cluster) {}

  void add(const Work& work, std::size_t rank) {
    std::visit(Overloaded{[&](const Products& of) { add(of, rank); },
                          [&](const MemoryTraffic& of) { add(of.kernel, of.bytes[rank]); },
                          [&](const Collective& of) { add(of); }, [](const Timed&) {}},
               work);
  }

  std::vector<std::string> list() const {
    std::vector<std::string> all;
    const auto add = [&](const char* what, const std::set<std::string>& names,
                         const char* between) {
      if (!names.empty()) all.push_back(what + fmt::format("{}", fmt::join(names, between)));
    };
    add("not modelled on this cluster, cost nothing here: ", free_kernels_, ", ");
    add("no expert fit of these shapes, so the fits of their parts are summed: ", unfitted_, "; ");
    add("estimated from links, with the start-up of all ranks: ", estimated_, "; ");
    all.insert(all.end(), notes_.begin(), notes_.end());
    return all;
  }

 private:
  template <class Amount>
  void add_use(const std::string& what, const Fit<Amount>& fit, Amount amount) {
    if (!fit.extrapolates_at(amount)) return;
    const WorkRange range = required(fit.measured_range(), "extrapolation of no range");
    notes_.insert(fmt::format("{} extrapolates: {:.4g} is outside the fitted {:.4g}..{:.4g}", what,
                              amount.amount(), range.from, range.to));
  }

  void add(MemoryKernel kernel, Bytes bytes) {
    std::set<std::string> ignored;
    const std::string name = to_string(cost_.resolve(kernel));
    const Fit<Bytes>* fit = cost_.kernel_fit(kernel, ignored);
    if (fit == nullptr) {
      free_kernels_.insert(name);
    } else if (bytes.count > 0) {
      add_use(name, *fit, bytes);
    }
  }

  void add(const Products& products, std::size_t rank) {
    if (const ExpertFit* whole = cost_.expert_fit(products)) {
      add_use("expert " + to_string(products.kind), whole->fit, products.flops(rank));
      return;
    }
    add(activation_of(products.kind), products.activation_bytes(rank));
    if (products.layout_bytes(rank).count > 0) {
      add(MemoryKernel::Permute, products.layout_bytes(rank));
    }
    const Fit<Flops>& gemm = cluster_.gemm.at(products.dtype);
    for (const GemmShape& shape : products.gemms(rank)) add_use("gemm", gemm, shape.flops());
    if (cluster_.experts.empty() || products.shapes.empty()) return;
    const GemmShape& shape = products.shapes.front();
    unfitted_.insert(fmt::format("{} {} {} of {} x [{}, {}]", to_string(products.dtype),
                                 to_string(products.activation), to_string(products.kind),
                                 shape.groups, shape.k, shape.n));
  }

  void add(const Collective& collective) {
    const std::string kind = to_string(collective.kind);
    const bool as_fit = collective.traffic.block_size() == 0;
    const Fit<Bytes>* fit =
        as_fit ? cost_.collective_fit(collective.kind, collective.group) : nullptr;
    if (fit == nullptr) {
      estimated_.insert(as_fit ? fmt::format("{} of {} ranks", kind, to_string(collective.group))
                               : fmt::format("{} between blocks of {} ranks", kind,
                                             collective.traffic.block_size()));
      return;
    }
    if (!collective.traffic.is_balanced()) {
      notes_.insert(kind + " with uneven traffic is charged as its busiest rank's");
    }
    add_use(kind, *fit, collective.bytes());
    if (collective.group == cluster_.all_ranks()) compare_with_links(collective.kind, *fit);
  }

  void compare_with_links(CollectiveKind kind, const Fit<Bytes>& fit) {
    if (cluster_.num_ranks() == 1) return;
    constexpr Bytes kMany{std::int64_t{1} << 40};
    const Collective uniform{kind, cluster_.all_ranks(), TrafficMatrix::uniform(kMany)};
    const double links = time_on_links(cluster_, uniform).count() / kMany.amount();
    const double fitted = slope(fit);
    if (fitted <= kContradiction * links && links <= kContradiction * fitted) return;
    notes_.insert(fmt::format(
        "the {} fit of this profile takes {:.3g} s/byte, its links {:.3g}: simulate with --network "
        "links shows what the links say",
        to_string(kind), fitted, links));
  }

  const Cluster& cluster_;
  CostModel cost_;
  std::set<std::string> free_kernels_, unfitted_, estimated_, notes_;
};

}  // namespace

std::vector<std::string> Costs::notes() const {
  Notes notes(cluster_);
  for (const std::int64_t rank : representatives_) {
    for (const Task& task : graph_.tasks()) notes.add(task.work, static_cast<std::size_t>(rank));
  }
  return notes.list();
}

}  // namespace pipemoe
