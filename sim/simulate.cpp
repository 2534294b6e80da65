#include "sim/simulate.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <simgrid/kernel/Timer.hpp>
#include <simgrid/s4u.hpp>
#include <vector>

#include "models/cost_model.hpp"
#include "models/error.hpp"
#include "models/names.hpp"
#include "sim/flows.hpp"
#include "sim/platform.hpp"

namespace pipemoe::sim {
namespace {

namespace s4u = simgrid::s4u;

constexpr Names<Network, 3> kNetworks{
    {{Network::Fitted, "fitted"}, {Network::Node, "node"}, {Network::Gpu, "gpu"}}};

bool all_exchanges_uniform(const TaskGraph& graph) {
  return std::all_of(graph.tasks().begin(), graph.tasks().end(), [](const Task& task) {
    const auto* exchange = std::get_if<AllToAll>(&task.operation);
    return exchange == nullptr || exchange->traffic.is_uniform();
  });
}

// One run: a task starts when its last predecessor ends, as activities without actors. Activities
// are made when they start, from SimGrid's completion callback.
class Run {
 public:
  Run(const TaskGraph& graph, const Cluster& cluster, Network network,
      const ProgressCallback& progress)
      : graph_(graph),
        cost_(cluster),
        network_(network),
        progress_(progress),
        platform_(network == Network::Fitted ? nullptr : &World::instance().cluster(cluster)),
        node_flows_(node_flows_for(cluster, all_exchanges_uniform(graph))),
        waiting_for_(graph.size()),
        slows_(network == Network::Fitted && cluster.overlap.has_value()),
        activities_left_(graph.size()),
        starting_up_(graph.size()),
        fed_(graph.size()),
        start_(graph.size()),
        end_(graph.size()) {
    for (TaskId id = 0; id < graph.size(); ++id) {
      graph.for_each_successor(id, [&](TaskId after, Precedence) { ++waiting_for_[after]; });
    }
  }

  void simulate() {
    World& world = World::instance();
    static const bool listening = listen();
    ensure(listening, "no completion callback");
    activities_.reserve(2 * graph_.size());
    origin_ = s4u::Engine::get_clock();
    running_ = this;
    for (TaskId id = 0; id < graph_.size(); ++id) {
      if (waiting_for_[id] == 0) ready_.push_back(id);
    }
    start_ready();
    world.engine().run();
    running_ = nullptr;
    ensure(finished_ == graph_.size(), "the simulation ended before its tasks");
  }

  Seconds start(TaskId id) const { return start_[id]; }
  Seconds end(TaskId id) const { return end_[id]; }

 private:
  static bool listen() {
    s4u::Activity::on_completion_cb([](const s4u::Activity& activity) {
      running_->activity_ended(
          static_cast<TaskId>(reinterpret_cast<std::uintptr_t>(activity.get_data<void>())));
    });
    return true;
  }

  Seconds now() const { return Seconds{s4u::Engine::get_clock() - origin_}; }

  void start_ready() {
    while (!ready_.empty()) {  // tasks that take no time end here and make others ready
      const TaskId id = ready_.back();
      ready_.pop_back();
      TaskCost cost = cost_(graph_.task(id));
      cost.startup -= cost_.queued_saving(graph_.task(id), now() - fed_[id]);
      start(id, cost);
    }
  }

  void start(TaskId id, TaskCost cost) {
    start_[id] = now();
    const auto* exchange = std::get_if<AllToAll>(&graph_.task(id).operation);
    if (slows_ && cost.total() > Seconds{}) count_running(id, +1);
    if (exchange == nullptr) {
      compute(id, cost.total());
    } else if (cost.startup > Seconds{} && slows_) {
      starting_up_[id] = 1;
      send(id, World::instance().rank().start_up, cost.startup);
    } else if (cost.startup > Seconds{}) {
      simgrid::kernel::timer::Timer::set(s4u::Engine::get_clock() + cost.startup.count(),
                                         [this, id, exchange, cost] {
                                           transfer(id, *exchange, cost.work);
                                           start_ready();
                                         });
    } else {
      transfer(id, *exchange, cost.work);
    }
  }

  void compute(TaskId id, Seconds time) {
    if (time <= Seconds{}) return finish(id);
    if (slows_) return send(id, World::instance().rank().compute, time);
    auto activity = s4u::Exec::init();
    activity->set_flops_amount(time.count() * kHostSpeed)->set_host(World::instance().rank().gpu);
    activity->start();
    keep(id, std::move(activity));
  }

  void transfer(TaskId id, const AllToAll& exchange, Seconds fitted) {
    if (network_ == Network::Fitted) {
      if (fitted <= Seconds{}) return finish(id);
      return send(id, World::instance().rank().transfer, fitted);
    }
    const std::vector<Flow> flows =
        network_ == Network::Node ? node_level_flows(*platform_, exchange.traffic, node_flows_)
                                  : gpu_level_flows(*platform_, exchange.traffic);
    if (flows.empty()) return finish(id);
    for (const Flow& flow : flows) send(id, flow);
  }

  void send(TaskId id, const Flow& flow) {
    const auto bytes = static_cast<std::uint64_t>(std::llround(flow.bytes));
    keep(id, s4u::Comm::sendto_async(flow.from, flow.to, bytes));
  }

  // SimGrid never lets a flow run faster than its link was when it began, so it begins at full
  // speed.
  void send(TaskId id, const Channel& channel, Seconds alone) {
    const bool slowed = slowed_ != Slowdowns{};
    if (slowed) set_slowdowns({});
    send(id, Flow{channel.from, channel.to, alone.count() * kFittedBandwidth});
    if (slowed) set_slowdowns(slowed_);
  }

  // Tasks of both kinds at once slow each other.
  void count_running(TaskId id, int change) {
    const Task& task = graph_.task(id);
    if (task.stream == Stream::Compute) {
      computing_ = change > 0 ? &task : nullptr;
    } else {
      exchanging_ += change;
      in_flight_ += change * exchanged_bytes(task.operation).count;
    }
    const bool both = computing_ != nullptr && exchanging_ > 0;
    const Slowdowns now = both ? cost_.slowdowns(*computing_, Bytes{in_flight_}) : Slowdowns{};
    if (now == slowed_) return;
    slowed_ = now;
    set_slowdowns(now);
  }

  static void set_slowdowns(Slowdowns by) {
    const RankPlatform& rank = World::instance().rank();
    rank.compute.set_slowdown(by.compute);
    rank.start_up.set_slowdown(by.communication);
    rank.transfer.set_slowdown(by.communication);
  }

  // SimGrid still uses an activity inside its completion callback: all live until the run ends.
  template <class Activity>
  void keep(TaskId id, Activity activity) {
    activity->set_data(reinterpret_cast<void*>(static_cast<std::uintptr_t>(id)));
    ++activities_left_[id];
    activities_.push_back(std::move(activity));
  }

  void activity_ended(TaskId id) {
    if (--activities_left_[id] > 0) return;
    if (starting_up_[id] != 0) {
      starting_up_[id] = 0;
      transfer(id, std::get<AllToAll>(graph_.task(id).operation), cost_(graph_.task(id)).work);
    } else {
      finish(id);
    }
    start_ready();
  }

  void finish(TaskId id) {
    end_[id] = now();
    ++finished_;
    if (slows_ && cost_(graph_.task(id)).total() > Seconds{}) count_running(id, -1);
    if (progress_) progress_(finished_, graph_.size());
    graph_.for_each_successor(id, [&](TaskId after, Precedence why) {
      if (why == Precedence::Data) fed_[after] = now();
      if (--waiting_for_[after] == 0) ready_.push_back(after);
    });
  }

  inline static Run* running_ = nullptr;

  const TaskGraph& graph_;
  const CostModel cost_;
  const Network network_;
  const ProgressCallback progress_;
  const ClusterPlatform* platform_;
  const NodeFlows node_flows_;
  double origin_ = 0;
  std::vector<std::uint32_t> waiting_for_;
  const bool slows_;  // whether tasks slow each other
  const Task* computing_ = nullptr;
  int exchanging_ = 0;
  std::int64_t in_flight_ = 0;  // bytes a rank exchanges in them
  Slowdowns slowed_;
  std::vector<std::uint32_t> activities_left_;
  std::vector<char> starting_up_;
  std::vector<Seconds> fed_;  // when what a task needs was there
  std::vector<Seconds> start_, end_;
  std::vector<TaskId> ready_;
  std::vector<s4u::ActivityPtr> activities_;
  std::size_t finished_ = 0;
};

}  // namespace

std::string to_string(Network network) { return name_of(kNetworks, network); }

Network network_from(const std::string& name) {
  try {
    return value_of(kNetworks, name);
  } catch (const InputError& error) {
    throw InputError(std::string("network ") + error.what());
  }
}

Timeline simulate(const TaskGraph& graph, const Cluster& cluster, Network network,
                  const ProgressCallback& progress) {
  Timeline timeline;
  timeline.provenance = provenance("simulation, network level " + to_string(network));
  timeline.provenance.versions["simgrid"] = simgrid_description();
  timeline.provenance.notes = CostModel(cluster).check(graph);
  if (cluster.overlap && network != Network::Fitted) {
    timeline.provenance.notes.push_back("overlap slowdowns are not applied at network level " +
                                        to_string(network));
  }
  Run run(graph, cluster, network, progress);
  run.simulate();
  timeline.spans.reserve(graph.size());
  for (TaskId id = 0; id < graph.size(); ++id) {
    const Task& task = graph.task(id);
    timeline.spans.push_back({task.key(), task.stream, 0, run.start(id), run.end(id)});
  }
  return timeline;
}

PhaseTimes simulated_times(const TaskGraph& graph, const Cluster& cluster, Network network) {
  Run run(graph, cluster, network, {});
  run.simulate();
  PhaseTimes ends;
  Seconds makespan{};
  for (TaskId id = 0; id < graph.size(); ++id) {
    makespan = std::max(makespan, run.end(id));
    if (graph.task(id).phase == Phase::Forward) ends.forward = std::max(ends.forward, run.end(id));
  }
  ends.backward = makespan - ends.forward;
  return ends;
}

}  // namespace pipemoe::sim
