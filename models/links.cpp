#include "models/links.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "models/costs.hpp"
#include "models/error.hpp"

namespace pipemoe {
namespace {

/// Ends that differ by less, relatively, are one event.
constexpr double kSameTime = 1e-12;

}  // namespace

// Named, since LinkNetwork has members of these types.
namespace link_classes {

struct Use {
  std::uint32_t link = 0;
  double flows = 0;  ///< of this class, on one such link
};

// Equal flows.
struct FlowClass {
  double bytes = 0;  ///< of one
  std::vector<Use> uses;
  std::vector<std::uint32_t> rank_classes;  ///< whose parts wait for it; empty: all
};

// A collective's flows, over links that stand for classes of equal links.
struct Pattern {
  std::vector<FlowClass> flows;
};

struct Patterns {
  std::vector<double> capacity;  ///< of each class of links
  std::vector<Pattern> of;       ///< each collective
};

}  // namespace link_classes

namespace {

using namespace link_classes;
using Collectives = std::vector<const Collective*>;

// On a star where every collective loads each node alike, one flow of one node stands for all.
std::optional<Patterns> equal_nodes(const Cluster& cluster, const Collectives& collectives) {
  enum : std::uint32_t { kGpu, kNic };
  Patterns patterns{{cluster.gpu_link.payload().value, cluster.nic.payload().value}, {}};
  for (const Collective* collective : collectives) {
    const auto group = node_group(cluster, collective->group);
    const TrafficMatrix& traffic = collective->traffic;
    Pattern& pattern = patterns.of.emplace_back();
    double one = 0, peers = 1;  // rounded as node_traffic rounds
    if (traffic.is_uniform() && group) {
      if (cluster.fat_tree && group->count > 1) return std::nullopt;
      peers = is_ring(collective->kind) ? 1 : static_cast<double>(group->count - 1);
      if (group->count > 1) {
        one = whole_bytes(peers * bytes_to_each_node(cluster, *collective)) / peers;
      }
    } else if (traffic.block_size() > 0 && traffic.block_size() % cluster.gpus_per_node == 0) {
      if (cluster.fat_tree) return std::nullopt;
      const std::int64_t nodes = traffic.block_size() / cluster.gpus_per_node;
      const std::int64_t shift = traffic.block_shift() % (cluster.nodes / nodes);
      peers = static_cast<double>(shift == 0 ? nodes - 1 : nodes);
      one = whole_bytes(traffic.per_rank().amount() * static_cast<double>(cluster.gpus_per_node) /
                        static_cast<double>(nodes));
    } else {
      return std::nullopt;
    }
    if (one > 0 && peers > 0) pattern.flows.push_back({one, {{kNic, peers}}, {}});
    const double sent = whole_bytes(bytes_sent_by_each(*collective, cluster.num_ranks()));
    if (sent > 0) pattern.flows.push_back({sent, {{kGpu, 1}}, {}});
  }
  return patterns;
}

// On a fat tree, where every collective is an all-to-all of equal parts between all ranks, nodes
// differ only by whether their leaf is full.
std::optional<Patterns> equal_leaves(const Cluster& cluster, const Collectives& collectives) {
  if (!cluster.fat_tree) return std::nullopt;
  const std::int64_t per_leaf = cluster.fat_tree->nodes_per_leaf;
  const std::int64_t leaves = cluster.nodes / per_leaf, rest = cluster.nodes % per_leaf;
  const auto m = static_cast<double>(per_leaf), full = static_cast<double>(leaves),
             p = static_cast<double>(rest);
  const double nic = cluster.nic.payload().value;
  const double uplink = m * nic / cluster.fat_tree->oversubscription;
  // Links of full leaves, then of the one that is not full. A node's way out and its way in carry
  // as many flows of the same classes, mirrored; both are there, for classes end at their own
  // times.
  enum : std::uint32_t { kGpu, kOut, kIn, kUp, kDown, kRestOut, kRestIn, kRestUp, kRestDown };
  Patterns patterns{
      {cluster.gpu_link.payload().value, nic, nic, uplink, uplink, nic, nic, uplink, uplink}, {}};
  for (const Collective* collective : collectives) {
    const bool all = collective->kind == CollectiveKind::AllToAll &&
                     collective->traffic.is_uniform() && collective->group == cluster.all_ranks();
    if (!all) return std::nullopt;
    const double bytes = whole_bytes(bytes_to_each_node(cluster, *collective));
    Pattern& pattern = patterns.of.emplace_back();
    const auto add = [&](double flows, std::vector<Use> uses) {
      if (flows > 0 && bytes > 0) pattern.flows.push_back({bytes, std::move(uses), {}});
    };
    add(full * (m - 1), {{kOut, m - 1}, {kIn, m - 1}});
    add(full * (full - 1), {{kOut, (full - 1) * m},
                            {kUp, m * (full - 1) * m},
                            {kDown, m * (full - 1) * m},
                            {kIn, (full - 1) * m}});
    add(full * p, {{kOut, p}, {kUp, m * p}, {kRestDown, p * full * m}, {kRestIn, full * m}});
    add(full * p, {{kRestOut, full * m}, {kRestUp, p * full * m}, {kDown, m * p}, {kIn, p}});
    add(p * (p - 1), {{kRestOut, p - 1}, {kRestIn, p - 1}});
    const double sent = whole_bytes(bytes_sent_by_each(*collective, cluster.num_ranks()));
    if (sent > 0) pattern.flows.push_back({sent, {{kGpu, 1}}, {}});
  }
  return patterns;
}

// One flow on single links, by their numbers.
struct SingleFlow {
  std::uint32_t pattern = 0;
  double bytes = 0, count = 1;
  std::vector<std::uint32_t> links;
  std::vector<std::int64_t>
      ranks;  ///< whose parts wait for it, of a collective that is not balanced
  std::uint32_t color = 0;
};

struct SingleLinks {
  const Cluster& cluster;
  std::vector<double> capacity{};

  explicit SingleLinks(const Cluster& of) : cluster(of) {
    const auto ranks = static_cast<std::size_t>(of.num_ranks());
    const auto nodes = static_cast<std::size_t>(of.nodes);
    capacity.assign(2 * ranks, of.gpu_link.payload().value);
    capacity.insert(capacity.end(), 2 * nodes, of.nic.payload().value);
    if (!of.fat_tree) return;
    const auto [per_leaf, oversubscription] = *of.fat_tree;
    const std::int64_t leaves = (of.nodes + per_leaf - 1) / per_leaf;
    capacity.insert(capacity.end(), 2 * static_cast<std::size_t>(leaves),
                    static_cast<double>(per_leaf) * of.nic.payload().value / oversubscription);
  }
  std::uint32_t gpu(std::int64_t rank, bool in) const { return id(2 * rank + in); }
  std::uint32_t nic(std::int64_t node, bool in) const {
    return id(2 * cluster.num_ranks() + 2 * node + in);
  }
  std::uint32_t uplink(std::int64_t leaf, bool in) const {
    return id(2 * (cluster.num_ranks() + cluster.nodes) + 2 * leaf + in);
  }
  std::vector<std::uint32_t> way(std::int64_t from, std::int64_t to) const {
    std::vector<std::uint32_t> links{nic(from, false), nic(to, true)};
    if (!cluster.fat_tree) return links;
    const std::int64_t per_leaf = cluster.fat_tree->nodes_per_leaf;
    if (from / per_leaf != to / per_leaf) {
      links.push_back(uplink(from / per_leaf, false));
      links.push_back(uplink(to / per_leaf, true));
    }
    return links;
  }

 private:
  static std::uint32_t id(std::int64_t number) { return static_cast<std::uint32_t>(number); }
};

std::vector<SingleFlow> single_flows(const SingleLinks& links, const Collectives& collectives) {
  const Cluster& cluster = links.cluster;
  std::vector<SingleFlow> flows;
  for (std::uint32_t pattern = 0; pattern < collectives.size(); ++pattern) {
    const Collective* collective = collectives[pattern];
    const NodeTraffic traffic = node_traffic(cluster, *collective);
    const bool balanced = collective->traffic.is_balanced();
    for (const NodeFlow& flow : traffic.between) {
      SingleFlow one{pattern, flow.bytes, flow.count, links.way(flow.from, flow.to), {}, 0};
      for (std::int64_t i = 0; i < (balanced ? 0 : cluster.gpus_per_node); ++i) {
        one.ranks.push_back(flow.from * cluster.gpus_per_node + i);
        one.ranks.push_back(flow.to * cluster.gpus_per_node + i);
      }
      flows.push_back(std::move(one));
    }
    for (const GpuFlow& gpu : traffic.gpus) {
      const std::vector<std::int64_t> ranks(balanced ? 0 : 1, gpu.rank);
      if (gpu.sent > 0) {
        flows.push_back({pattern, gpu.sent, 1, {links.gpu(gpu.rank, false)}, ranks, 0});
      }
      if (gpu.received > 0) {
        flows.push_back({pattern, gpu.received, 1, {links.gpu(gpu.rank, true)}, ranks, 0});
      }
    }
  }
  return flows;
}

// Gives equal numbers to equal keys, in the order of their first appearance.
template <class Key>
class Numbering {
 public:
  std::uint32_t operator()(Key key) {
    return numbers_.emplace(std::move(key), static_cast<std::uint32_t>(numbers_.size()))
        .first->second;
  }
  std::size_t size() const { return numbers_.size(); }

 private:
  std::map<Key, std::uint32_t> numbers_;
};

// Colours flows and links until flows of one colour use links of the same colours, and links of one
// colour carry as many flows of each colour: then all of one colour have one rate at all times.
std::vector<std::uint32_t> color(const SingleLinks& links, std::vector<SingleFlow>& flows) {
  std::vector<std::uint32_t> of_link(links.capacity.size());
  Numbering<double> capacities;
  for (std::size_t i = 0; i < of_link.size(); ++i) of_link[i] = capacities(links.capacity[i]);
  for (std::size_t before = 0, colors = capacities.size(); before != colors;) {
    Numbering<std::tuple<std::uint32_t, double, double, std::vector<std::uint32_t>>> flow_keys;
    std::vector<std::vector<std::uint32_t>> on_link(of_link.size());
    for (SingleFlow& flow : flows) {
      std::vector<std::uint32_t> colors_of_links;
      for (const std::uint32_t link : flow.links) colors_of_links.push_back(of_link[link]);
      std::sort(colors_of_links.begin(), colors_of_links.end());
      flow.color = flow_keys({flow.pattern, flow.bytes, flow.count, std::move(colors_of_links)});
      for (const std::uint32_t link : flow.links) on_link[link].push_back(flow.color);
    }
    Numbering<std::pair<std::uint32_t, std::vector<std::uint32_t>>> link_keys;
    for (std::size_t i = 0; i < of_link.size(); ++i) {
      std::sort(on_link[i].begin(), on_link[i].end());
      of_link[i] = link_keys({of_link[i], std::move(on_link[i])});
    }
    before = std::exchange(colors, flow_keys.size() + link_keys.size());
  }
  return of_link;
}

Patterns by_colors(const Cluster& cluster, const Collectives& collectives,
                   const std::vector<std::size_t>& class_of) {
  const SingleLinks links(cluster);
  std::vector<SingleFlow> flows = single_flows(links, collectives);
  const std::vector<std::uint32_t> of_link = color(links, flows);
  const std::uint32_t colors = 1 + *std::max_element(of_link.begin(), of_link.end());
  Patterns patterns{std::vector<double>(colors), std::vector<Pattern>(collectives.size())};
  std::vector<std::uint32_t> first(colors, ~std::uint32_t{0});  // a link of each colour
  for (std::uint32_t i = 0; i < of_link.size(); ++i) {
    patterns.capacity[of_link[i]] = links.capacity[i];
    if (first[of_link[i]] == ~std::uint32_t{0}) first[of_link[i]] = i;
  }
  std::map<std::uint32_t, std::size_t> known;  // colour of flows, where in its pattern
  for (const SingleFlow& flow : flows) {
    auto& classes = patterns.of[flow.pattern].flows;
    const auto [found, is_new] = known.emplace(flow.color, classes.size());
    if (is_new) classes.push_back({flow.bytes / flow.count, {}, {}});
    FlowClass& of = classes[found->second];
    for (const std::uint32_t link : flow.links) {
      if (first[of_link[link]] != link) continue;
      const auto use = std::find_if(of.uses.begin(), of.uses.end(),
                                    [&](const Use& one) { return one.link == of_link[link]; });
      if (use == of.uses.end()) {
        of.uses.push_back({of_link[link], flow.count});
      } else {
        use->flows += flow.count;
      }
    }
    if (class_of.empty()) continue;
    for (const std::int64_t rank : flow.ranks) {
      const auto of_rank = static_cast<std::uint32_t>(class_of[static_cast<std::size_t>(rank)]);
      if (std::find(of.rank_classes.begin(), of.rank_classes.end(), of_rank) ==
          of.rank_classes.end()) {
        of.rank_classes.push_back(of_rank);
      }
    }
  }
  return patterns;
}

Patterns make_patterns(const Cluster& cluster, const Collectives& collectives,
                       const std::vector<std::size_t>& class_of) {
  if (auto patterns = equal_nodes(cluster, collectives)) return std::move(*patterns);
  if (auto patterns = equal_leaves(cluster, collectives)) return std::move(*patterns);
  return by_colors(cluster, collectives, class_of);
}

}  // namespace

namespace link_classes {

// Flows in flight and their rates: progressive filling, where the link that leaves its flows the
// least fixes their rate, until every flow has one.
class MaxMin {
 public:
  explicit MaxMin(std::vector<double> capacity)
      : capacity_(std::move(capacity)), left_(capacity_.size()), flows_(capacity_.size()) {}

  void add(TaskId task, const FlowClass& flow) {
    active_.push_back({&flow, flow.bytes, 0, task});
    solved_ = false;
  }
  bool idle() const { return active_.empty(); }
  double clock() const { return clock_; }
  void set_clock(double now) { clock_ = now; }

  double next_end() {
    if (!solved_) solve();
    return next_;
  }

  // What is in flight goes on until `to`, or the next end, whichever is first.
  void move(double to) {
    const double elapsed = std::min(to, next_end()) - clock_;
    for (Active& flow : active_) flow.left -= flow.rate * elapsed;
    clock_ += elapsed;
  }

  // Moves to the next end; calls ended(task, flow) for each flow that ends there.
  template <class Ended>
  void end_next(Ended ended) {
    const double to = next_end(), elapsed = to - clock_;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < active_.size(); ++i) {
      Active& flow = active_[i];
      if (flow.left <= flow.rate * (elapsed + kSameTime * to)) {
        ended(flow.task, *flow.flow);
        solved_ = false;
        continue;
      }
      flow.left -= flow.rate * elapsed;
      active_[kept++] = flow;
    }
    active_.resize(kept);
    clock_ = to;
  }

 private:
  struct Active {
    const FlowClass* flow;
    double left;  ///< bytes of one flow
    double rate;
    TaskId task;
  };

  void solve() {
    left_ = capacity_;
    std::fill(flows_.begin(), flows_.end(), 0);
    for (Active& active : active_) {
      active.rate = -1;
      for (const Use& use : active.flow->uses) flows_[use.link] += use.flows;
    }
    for (std::size_t fixed = 0; fixed < active_.size();) {
      double share = kNever.count();
      std::uint32_t link = 0;
      for (std::uint32_t i = 0; i < left_.size(); ++i) {
        if (flows_[i] > 0.5 && left_[i] < share * flows_[i]) {
          share = left_[i] / flows_[i];
          link = i;
        }
      }
      ensure(share < kNever.count(), "a flow without a link");
      for (Active& active : active_) {
        if (active.rate >= 0) continue;
        const auto& uses = active.flow->uses;
        if (std::none_of(uses.begin(), uses.end(),
                         [&](const Use& use) { return use.link == link; }))
          continue;
        active.rate = share;
        ++fixed;
        for (const Use& use : uses) {
          left_[use.link] = std::max(0.0, left_[use.link] - use.flows * share);
          flows_[use.link] -= use.flows;
        }
      }
    }
    next_ = kNever.count();
    for (const Active& active : active_) {
      next_ = std::min(next_, clock_ + active.left / active.rate);
    }
    solved_ = true;
  }

  std::vector<double> capacity_, left_, flows_;
  std::vector<Active> active_;
  double clock_ = 0, next_ = kNever.count();
  bool solved_ = false;
};

}  // namespace link_classes

Seconds time_on_links(const Cluster& cluster, const Collective& collective) {
  const Patterns patterns = make_patterns(cluster, {&collective}, {});
  MaxMin flows(patterns.capacity);
  for (const FlowClass& flow : patterns.of.front().flows) flows.add(0, flow);
  while (!flows.idle()) flows.end_next([](TaskId, const FlowClass&) {});
  return Seconds{flows.clock()};
}

struct LinkNetwork::State {
  struct Open {
    std::uint32_t flows = 0;                ///< of all ranks
    std::vector<std::uint32_t> by_class{};  ///< those that each class of ranks waits for
  };

  Patterns patterns;
  std::vector<std::uint32_t> pattern_of;  // by task
  std::size_t num_classes = 1;
  MaxMin flows{{}};
  std::vector<Open> open;  // by task
};

LinkNetwork::LinkNetwork(const Costs& costs) : state_(std::make_unique<State>()) {
  const TaskGraph& graph = costs.graph();
  State& state = *state_;
  Collectives collectives;
  state.pattern_of.resize(graph.size());
  for (TaskId id = 0; id < graph.size(); ++id) {
    const Collective* collective = collective_of(graph.task(id).work);
    if (collective == nullptr) continue;
    const auto found = std::find_if(collectives.begin(), collectives.end(),
                                    [&](const Collective* one) { return *one == *collective; });
    state.pattern_of[id] = static_cast<std::uint32_t>(found - collectives.begin());
    if (found == collectives.end()) collectives.push_back(collective);
  }
  state.num_classes = costs.num_classes();
  std::vector<std::size_t> class_of;
  if (state.num_classes > 1) {
    for (std::int64_t rank = 0; rank < graph.num_ranks(); ++rank) {
      class_of.push_back(costs.class_of(rank));
    }
  }
  state.patterns = make_patterns(costs.cluster(), collectives, class_of);
  state.flows = MaxMin(state.patterns.capacity);
  state.open.resize(graph.size());
}

LinkNetwork::~LinkNetwork() = default;

bool LinkNetwork::begin(TaskId task, Seconds now) {
  State& state = *state_;
  const Pattern& pattern = state.patterns.of[state.pattern_of[task]];
  if (pattern.flows.empty()) return false;
  if (state.flows.idle()) {
    state.flows.set_clock(now.count());
  } else {
    state.flows.move(now.count());
  }
  State::Open& open = state.open[task];
  open.flows = static_cast<std::uint32_t>(pattern.flows.size());
  open.by_class.assign(state.num_classes > 1 ? state.num_classes : 0, 0);
  for (const FlowClass& flow : pattern.flows) {
    state.flows.add(task, flow);
    for (const std::uint32_t of : flow.rank_classes) ++open.by_class[of];
  }
  return true;
}

Seconds LinkNetwork::next_end() {
  return state_->flows.idle() ? kNever : Seconds{state_->flows.next_end()};
}

void LinkNetwork::end_next(std::vector<EndedPart>& ended) {
  State& state = *state_;
  state.flows.end_next([&](TaskId task, const FlowClass& flow) {
    State::Open& open = state.open[task];
    for (const std::uint32_t of : flow.rank_classes) {
      if (--open.by_class[of] == 0) ended.push_back({task, of});
    }
    if (--open.flows == 0) ended.push_back({task, EndedPart::kAllRanks});
  });
}

}  // namespace pipemoe
