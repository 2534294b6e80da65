#include "sim/network.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <simgrid/kernel/resource/Action.hpp>
#include <utility>

#include "models/costs.hpp"
#include "models/error.hpp"
#include "models/links.hpp"
#include "sim/platform.hpp"

namespace pipemoe::sim {
namespace {

namespace s4u = simgrid::s4u;

// SimGrid's run_until stops early when its clock is within 10 us of the aim, and makes at least one
// step, which ends at the first event: aimed so far past a known event, it stops exactly there.
// Aimed at the event itself it can fall short of it by a rounding.
constexpr double kPastEvent = 5e-6;

template <class Items>
auto* at(const Items& items, std::int64_t index) {
  return items[static_cast<std::size_t>(index)];
}

// Draws a collective as a level has it.
class LevelDrawing {
 public:
  LevelDrawing(const Costs& costs, NetworkLevel level)
      : costs_(costs), platform_(World::instance().cluster(costs.cluster())), level_(level) {
    ensure(level == NetworkLevel::Node || level == NetworkLevel::Gpu, "a level without SimGrid");
  }

  std::vector<Flow> operator()(const Collective& collective) const {
    return level_ == NetworkLevel::Node ? between_nodes(collective) : between_gpus(collective);
  }

 private:
  std::vector<Flow> between_nodes(const Collective& collective) const {
    const std::int64_t per_node = costs_.cluster().gpus_per_node;
    const bool balanced = collective.traffic.is_balanced();
    const NodeTraffic traffic = node_traffic(costs_.cluster(), collective);
    std::vector<Flow> flows;
    for (const NodeFlow& flow : traffic.between) {
      std::vector<std::int64_t> ranks;
      for (std::int64_t i = 0; i < (balanced ? 0 : per_node); ++i) {
        ranks.push_back(flow.from * per_node + i);
        ranks.push_back(flow.to * per_node + i);
      }
      add(flows, at(platform_.nodes, flow.from), at(platform_.nodes, flow.to), flow.bytes,
          flow.count, ranks);
    }
    for (const GpuFlow& flow : traffic.gpus) {
      s4u::Host* gpu = at(platform_.gpus, flow.rank);
      s4u::Host* node = at(platform_.nodes, flow.rank / per_node);
      const std::vector<std::int64_t> ranks(balanced ? 0 : 1, flow.rank);
      add(flows, gpu, node, flow.sent, 1, ranks);
      add(flows, node, gpu, flow.received, 1, ranks);
    }
    return flows;
  }

  std::vector<Flow> between_gpus(const Collective& collective) const {
    const bool balanced = collective.traffic.is_balanced();
    std::vector<Flow> flows;
    for (const RankFlow& flow : rank_traffic(collective, costs_.cluster().num_ranks())) {
      std::vector<std::int64_t> ranks;
      if (!balanced) ranks = {flow.from, flow.to};
      add(flows, at(platform_.gpus, flow.from), at(platform_.gpus, flow.to), flow.bytes, 1, ranks);
    }
    return flows;
  }

  void add(std::vector<Flow>& flows, s4u::Host* from, s4u::Host* to, double bytes, double count,
           const std::vector<std::int64_t>& ranks) const {
    const long long whole = std::llround(bytes);
    if (whole <= 0) return;
    Flow flow{from, to, static_cast<std::uint64_t>(whole), count};
    if (costs_.num_classes() > 1) {
      for (const std::int64_t rank : ranks) {
        flow.rank_classes.push_back(static_cast<std::uint32_t>(costs_.class_of(rank)));
      }
      std::sort(flow.rank_classes.begin(), flow.rank_classes.end());
      flow.rank_classes.erase(std::unique(flow.rank_classes.begin(), flow.rank_classes.end()),
                              flow.rank_classes.end());
    }
    flows.push_back(std::move(flow));
  }

  const Costs& costs_;
  const ClusterPlatform& platform_;
  NetworkLevel level_;
};

// In max-min sharing a flow's part of a link goes by the inverse of its penalty.
void share_as(double count, const s4u::Comm& transfer) {
  if (count == 1) return;
  auto& action = World::instance().network_model().get_started_action_set()->back();
  ensure(action.get_activity() == transfer.get_impl(), "SimGrid's newest action is another's");
  action.set_sharing_penalty(1 / count);
}

}  // namespace

SimulatedNetwork* SimulatedNetwork::active_ = nullptr;

SimulatedNetwork::SimulatedNetwork(const Costs& costs, NetworkLevel level)
    : SimulatedNetwork(costs, LevelDrawing(costs, level)) {}

SimulatedNetwork::SimulatedNetwork(const Costs& costs, const Drawing& draw)
    : num_classes_(costs.num_classes()), origin_(s4u::Engine::get_clock()) {
  ensure(active_ == nullptr, "two simulations at once");
  const TaskGraph& graph = costs.graph();
  std::vector<const Collective*> known;
  drawing_of_.resize(graph.size());
  open_.resize(graph.size());
  for (TaskId id = 0; id < graph.size(); ++id) {
    const Collective* collective = collective_of(graph.task(id).work);
    if (collective == nullptr) continue;
    const auto found = std::find_if(known.begin(), known.end(),
                                    [&](const Collective* one) { return *one == *collective; });
    drawing_of_[id] = static_cast<std::uint32_t>(found - known.begin());
    if (found != known.end()) continue;
    known.emplace_back(collective);
    drawn_.push_back(draw(*collective));
  }
  listen_once();
  active_ = this;
}

SimulatedNetwork::~SimulatedNetwork() {
  active_ = nullptr;
  if (in_flight_ == 0) return;
  for (const Moving& moving : moving_) {
    if (moving.transfer->get_state() == s4u::Activity::State::STARTED) moving.transfer->cancel();
  }
  World::instance().engine().run();
}

// SimGrid's callbacks are the process's and can't be taken back.
void SimulatedNetwork::listen_once() {
  static const bool listening = [] {
    s4u::Activity::on_completion_cb([](const s4u::Activity& activity) {
      if (active_ != nullptr) active_->flow_ended(*activity.get_data<Moving>());
    });
    return true;
  }();
  ensure(listening, "no completion callback");
}

bool SimulatedNetwork::begin(TaskId task, Seconds now) {
  const std::vector<Flow>& flows = drawn_[drawing_of_[task]];
  if (flows.empty()) return false;
  move_to(now.count());
  Open& open = open_[task];
  open.flows = flows.size();
  open.by_class.assign(num_classes_ > 1 ? num_classes_ : 0, 0);
  for (const Flow& flow : flows) {
    for (const std::uint32_t of : flow.rank_classes) ++open.by_class[of];
    start(task, flow);
  }
  next_end_known_ = false;
  return true;
}

void SimulatedNetwork::start(TaskId task, const Flow& flow) {
  Moving& moving = moving_.emplace_back(Moving{task, &flow});
  moving.transfer = s4u::Comm::sendto_init(flow.from, flow.to);
  moving.transfer->set_payload_size(flow.bytes);
  moving.transfer->set_data(&moving);
  moving.transfer->start();
  share_as(flow.count, *moving.transfer);
  ++in_flight_;
}

// SimGrid's clock stops while nothing moves, so what begins then begins at that clock's time.
void SimulatedNetwork::move_to(double now) {
  const double clock = s4u::Engine::get_clock();
  if (in_flight_ == 0 && ended_.empty()) {
    moving_.clear();  // not before: SimGrid still uses a transfer in its completion callback
    origin_ = clock - now;
    return;
  }
  const double rounding = 4 * std::numeric_limits<double>::epsilon() * (1 + clock);
  if (in_flight_ > 0 && now + rounding >= next_end().count()) return run_to_next_end();
  if (origin_ + now <= clock) return;
  World::instance().engine().run_until(origin_ + now);
  next_end_known_ = false;
}

Seconds SimulatedNetwork::next_end() {
  const double clock = s4u::Engine::get_clock();
  if (!ended_.empty()) return Seconds{clock - origin_};
  if (in_flight_ == 0) return kNever;
  if (!next_end_known_) {
    const double left = World::instance().network_model().next_occurring_event(clock);
    ensure(left >= 0, "SimGrid knows no end of what moves");
    next_end_ = clock + left - origin_;
    next_end_known_ = true;
  }
  return Seconds{next_end_};
}

void SimulatedNetwork::end_next(std::vector<EndedPart>& ended) {
  if (ended_.empty()) run_to_next_end();
  ended.insert(ended.end(), ended_.begin(), ended_.end());
  ended_.clear();
}

void SimulatedNetwork::run_to_next_end() {
  const std::size_t before = in_flight_;
  World::instance().engine().run_until(origin_ + next_end().count() + kPastEvent);
  next_end_known_ = false;
  ensure(in_flight_ < before, "SimGrid ran past the end of a flow");
}

void SimulatedNetwork::flow_ended(const Moving& moving) {
  --in_flight_;
  Open& open = open_[moving.task];
  for (const std::uint32_t of : moving.flow->rank_classes) {
    if (--open.by_class[of] == 0) ended_.push_back({moving.task, of});
  }
  if (--open.flows == 0) ended_.push_back({moving.task, EndedPart::kAllRanks});
}

}  // namespace pipemoe::sim
