#include "models/evaluate.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "models/error.hpp"
#include "models/links.hpp"
#include "models/names.hpp"

namespace pipemoe {
namespace {

constexpr Names<NetworkLevel, 4> kLevels{{{NetworkLevel::Fitted, "fitted"},
                                          {NetworkLevel::Links, "links"},
                                          {NetworkLevel::Node, "node"},
                                          {NetworkLevel::Gpu, "gpu"}}};

constexpr double kForever = std::numeric_limits<double>::infinity();
constexpr TaskId kNoTask = ~TaskId{0};
using RankClass = std::uint32_t;

// What a task waited for last, to walk back from the end: another task on a class of ranks.
struct Cause {
  TaskId task = kNoTask;
  RankClass rank_class = 0;
};

/// What an evaluation can keep of each task on each class of ranks, [class][task].
struct Record {
  std::vector<double> start, begin, end;  ///< begin: a collective's, when all ranks had arrived
  std::vector<Cause> cause;
  explicit Record(std::size_t size) : start(size), begin(size), end(size), cause(size) {}
};

enum class State : std::uint8_t { Idle, Working, Arrived };

// A rank's queue: what it runs by itself, or the collective that it takes part in.
struct Slot {
  TaskId task = kNoTask;
  State state = State::Idle;
  double left = 0;  ///< of the time alone, at `since`
  double slow = 1;
  double end = kForever;
};

// A collective under way, on all ranks of its group.
struct Joint {
  enum class Part : std::uint8_t { Startup, Work, InNetwork };
  TaskId task = kNoTask;
  std::uint32_t group = 0;
  Part part = Part::Startup;
  Resource resource = Resource::Network;
  double left = 0;
  double slow = 1;
  double end = kForever;
};

// The first class whose slots end: a tournament over classes.
class FirstToEnd {
 public:
  void reset(std::size_t classes) {
    leaves_ = 1;
    while (leaves_ < classes) leaves_ *= 2;
    end_.assign(leaves_, kForever);
    winner_.assign(2 * leaves_, 0);
    for (std::size_t i = 0; i < leaves_; ++i) winner_[leaves_ + i] = static_cast<RankClass>(i);
    for (std::size_t i = leaves_; i-- > 1;) winner_[i] = winner_[2 * i];
  }
  void set(RankClass of, double end) {
    if (end_[of] == end) return;
    end_[of] = end;
    for (std::size_t i = (leaves_ + of) / 2; i >= 1; i /= 2) {
      const RankClass a = winner_[2 * i], b = winner_[2 * i + 1];
      winner_[i] = end_[a] <= end_[b] ? a : b;
    }
  }
  RankClass first() const { return winner_[1]; }
  double end() const { return end_[winner_[1]]; }

 private:
  std::size_t leaves_ = 1;
  std::vector<double> end_;
  std::vector<RankClass> winner_;
};

// Kept between evaluations, so that a search allocates nothing.
struct Scratch {
  std::vector<std::uint32_t> waiting;  // [class][task]: predecessors that have not ended
  std::vector<double> fed;             // [class][task]: when what a task needs was there
  std::vector<Slot> slots;             // [class][queue]
  std::vector<Joint> joints;
  std::vector<std::pair<RankClass, TaskId>> ready;
  std::vector<EndedPart> ended;
  std::vector<std::uint32_t> arrived;  // [first_arrival of task + group]
  std::vector<std::uint32_t> first_arrival;
  std::vector<double> last_fed;       // like arrived: the latest of its ranks
  std::vector<double> communication;  // [class]: the factor on collectives
  std::vector<RankClass> changed;
  FirstToEnd first;
};

class Loop {
 public:
  Loop(const Costs& costs, Network* network, Record* record, const ProgressCallback* progress)
      : graph_(costs.graph()),
        costs_(costs),
        network_(network),
        record_(record),
        progress_(progress),
        size_(graph_.size()),
        queues_(graph_.queues().size()),
        classes_(costs.num_classes()) {
    thread_local Scratch scratch;
    s_ = &scratch;
    s_->waiting.resize(classes_ * size_);
    for (std::size_t of = 0; of < classes_; ++of) {
      std::copy(graph_.num_predecessors().begin(), graph_.num_predecessors().end(),
                s_->waiting.begin() + static_cast<std::ptrdiff_t>(of * size_));
    }
    s_->fed.assign(classes_ * size_, 0);
    s_->slots.assign(classes_ * queues_, {});
    s_->joints.clear();
    s_->ready.clear();
    s_->changed.clear();
    s_->communication.assign(classes_, 1);
    if (classes_ > 1) prepare_groups();
    for (std::size_t queue = 0; queue < queues_; ++queue) {
      resource_[queue] = graph_.queues()[queue].resource;
      for (std::size_t other = 0; other < queue; ++other) {
        shares_ |= resource_[other] == resource_[queue];
      }
    }
  }

  PassTimes run() {
    for (std::size_t of = classes_; of-- > 0;) {
      for (TaskId id = static_cast<TaskId>(size_); id-- > 0;) {
        if (s_->waiting[of * size_ + id] == 0) {
          s_->ready.emplace_back(static_cast<RankClass>(of), id);
        }
      }
    }
    start_ready();
    while (next_event()) start_ready();
    ensure(finished_ == classes_ * size_, "an evaluation ended before its tasks");
    return {Seconds{forward_}, Seconds{now_ - forward_}};
  }

 private:
  std::size_t at(RankClass of, TaskId id) const { return of * size_ + id; }
  Slot& slot(RankClass of, QueueId queue) { return s_->slots[of * queues_ + queue]; }

  // Ranks that differ are in as many groups as a collective has; one class each where it has many.
  void prepare_groups() {
    s_->first.reset(classes_);
    s_->first_arrival.assign(size_, 0);
    std::uint32_t next = 0;
    for (TaskId id = 0; id < size_; ++id) {
      s_->first_arrival[id] = next;
      const Collective* collective = collective_of(graph_.task(id).work);
      if (collective != nullptr) {
        next += static_cast<std::uint32_t>(graph_.num_ranks() / collective->group.count);
      }
    }
    s_->arrived.assign(next, 0);
    s_->last_fed.assign(next, 0);
  }

  std::uint32_t group_of(RankClass of, TaskId id) const {
    if (classes_ == 1) return 0;
    const Group group = collective_of(graph_.task(id).work)->group;
    return joins_all(group) ? 0
                            : static_cast<std::uint32_t>(group.index_of(costs_.representative(of)));
  }

  // A network moves all groups of a collective at once, so these wait for each other there.
  bool joins_all(Group group) const {
    return network_ != nullptr || group.count == graph_.num_ranks();
  }

  template <class Visit>
  void for_each_member(TaskId id, std::uint32_t group, Visit visit) {
    if (classes_ == 1) return visit(RankClass{0});
    const Group ranks = collective_of(graph_.task(id).work)->group;
    if (joins_all(ranks)) {
      for (RankClass of = 0; of < classes_; ++of) visit(of);
      return;
    }
    for (std::int64_t member = 0; member < ranks.count; ++member) {
      visit(static_cast<RankClass>(costs_.class_of(ranks.rank(group, member))));
    }
  }

  // ---- time of the network's own clock ----

  double to_network(double real) const {
    return network_since_ + (real - real_since_) / network_slow_;
  }
  double to_real(double network) const {
    return network == kForever ? kForever
                               : real_since_ + (network - network_since_) * network_slow_;
  }

  // ---- events ----

  // The first of: a slot's end, a joint's end, and the network's next end. False: there is none.
  bool next_event() {
    Slot* own = nullptr;
    RankClass of = 0;
    if (classes_ > 1) of = s_->first.first();
    double own_end = kForever;
    for (std::size_t queue = 0; queue < queues_; ++queue) {
      Slot& candidate = s_->slots[of * queues_ + queue];
      if (candidate.end < own_end) {
        own = &candidate;
        own_end = candidate.end;
      }
    }
    std::size_t joint = s_->joints.size();
    double joint_end = kForever;
    for (std::size_t i = 0; i < s_->joints.size(); ++i) {
      if (s_->joints[i].end < joint_end) {
        joint = i;
        joint_end = s_->joints[i].end;
      }
    }
    const double network_end = in_network_ == 0 ? kForever : to_real(network_->next_end().count());
    const double first = std::min({own_end, joint_end, network_end});
    if (first == kForever) return false;
    if (network_end <= first) {
      now_ = std::max(now_, network_end);
      s_->ended.clear();
      network_->end_next(s_->ended);
      for (const EndedPart& part : s_->ended) end_part(part);
      return true;
    }
    now_ = first;
    if (own_end <= joint_end) {
      const TaskId id = std::exchange(own->task, kNoTask);
      *own = {};
      touch(of);
      finish(of, id);
    } else {
      end_joint(joint);
    }
    return true;
  }

  void end_joint(std::size_t index) {
    Joint& joint = s_->joints[index];
    changed_ = true;
    if (joint.part == Joint::Part::Startup) {
      begin_work(index);
      return;
    }
    const Joint done = joint;
    remove(index);
    for_each_member(done.task, done.group, [&](RankClass of) { leave(of, done.task); });
  }

  void begin_work(std::size_t index) {
    Joint& joint = s_->joints[index];
    if (network_ == nullptr) {
      joint.part = Joint::Part::Work;
      joint.left = costs_.at(joint.task).work.count();
      joint.slow = 1;
      joint.end = now_ + joint.left;
      return;
    }
    joint.part = Joint::Part::InNetwork;
    joint.end = kForever;
    ++in_network_;
    if (network_->begin(joint.task, Seconds{to_network(now_)})) return;
    --in_network_;
    const Joint done = joint;
    remove(index);
    for_each_member(done.task, done.group, [&](RankClass of) { leave(of, done.task); });
  }

  void end_part(const EndedPart& part) {
    changed_ = true;
    std::size_t index = 0;
    while (s_->joints[index].task != part.task) ++index;
    if (part.rank_class != EndedPart::kAllRanks) {
      leave(part.rank_class, part.task);
      return;
    }
    --in_network_;
    const Joint done = s_->joints[index];
    remove(index);
    for_each_member(done.task, done.group, [&](RankClass of) {
      if (slot(of, costs_.at(done.task).queue).task == done.task) leave(of, done.task);
    });
  }

  void remove(std::size_t index) {
    s_->joints[index] = s_->joints.back();
    s_->joints.pop_back();
  }

  // A rank's part of a collective has ended.
  void leave(RankClass of, TaskId id) {
    slot(of, costs_.at(id).queue) = {};
    touch(of);
    finish(of, id);
  }

  void finish(RankClass of, TaskId id) {
    ++finished_;
    if (costs_.at(id).pass == Pass::Forward) forward_ = std::max(forward_, now_);
    if (record_ != nullptr) {
      record_->end[at(of, id)] = now_;
      if (progress_ != nullptr && *progress_ && of == 0) (*progress_)(++reported_, size_);
    }
    for (const TaskGraph::Successor after : graph_.successors(id)) {
      if (after.is_data) s_->fed[at(of, after.task)] = now_;
      if (--s_->waiting[at(of, after.task)] > 0) continue;
      s_->ready.emplace_back(of, after.task);
      if (record_ != nullptr) record_->cause[at(of, after.task)] = {id, of};
    }
  }

  // ---- starts ----

  void start_ready() {
    while (!s_->ready.empty()) {  // tasks that take no time end here and make others ready
      const auto [of, id] = s_->ready.back();
      s_->ready.pop_back();
      if (record_ != nullptr) record_->start[at(of, id)] = record_->begin[at(of, id)] = now_;
      if (costs_.at(id).is_collective) {
        arrive(of, id);
      } else {
        start(of, id);
      }
    }
    if (shares_ || costs_.contends()) set_speeds();
    if (classes_ > 1) {
      for (const RankClass of : s_->changed) s_->first.set(of, first_end(of));
      s_->changed.clear();
    }
  }

  void start(RankClass of, TaskId id) {
    const TaskCost& cost = costs_.at(id, of);
    const double time = (cost.startup + cost.work).count();
    if (time <= 0) return finish(of, id);
    slot(of, cost.queue) = {id, State::Working, time, 1, now_ + time};
    touch(of);
  }

  void arrive(RankClass of, TaskId id) {
    double fed = s_->fed[at(of, id)];
    const std::uint32_t group = group_of(of, id);
    if (classes_ > 1) {
      slot(of, costs_.at(id).queue) = {id, State::Arrived, 0, 1, kForever};
      const std::size_t arrival = s_->first_arrival[id] + group;
      double& last = s_->last_fed[arrival];
      last = std::max(last, fed);
      std::uint32_t members = static_cast<std::uint32_t>(classes_);
      const Group ranks = collective_of(graph_.task(id).work)->group;
      if (!joins_all(ranks)) members = static_cast<std::uint32_t>(ranks.count);
      if (++s_->arrived[arrival] < members) return;
      fed = last;
    }
    join(id, group, fed, of);
  }

  // All ranks of the group have arrived, `last` last.
  void join(TaskId id, std::uint32_t group, double fed, RankClass last) {
    const TaskCost& cost = costs_.at(id);
    const double waited = now_ - fed;
    const double startup =
        cost.startup.count() - std::clamp(waited, 0.0, cost.queued_saving.count());
    for_each_member(id, group, [&](RankClass of) {
      slot(of, cost.queue) = {id, State::Arrived, 0, 1, kForever};
      if (record_ == nullptr) return;
      record_->begin[at(of, id)] = now_;
      record_->cause[at(of, id)] = record_->cause[at(last, id)];
    });
    if (network_ == nullptr && startup + cost.work.count() <= 0) {
      for_each_member(id, group, [&](RankClass of) { leave(of, id); });
      return;
    }
    changed_ = true;
    Joint joint;
    joint.task = id;
    joint.group = group;
    joint.resource = resource_[cost.queue];
    joint.left = startup;
    joint.end = now_ + startup;
    // Without a network, start-up and work are one part unless work is shared.
    if (network_ == nullptr && !shares_) {
      joint.part = Joint::Part::Work;
      joint.left = startup + cost.work.count();
      joint.end = now_ + joint.left;
    }
    s_->joints.push_back(joint);
    if (joint.part == Joint::Part::Startup && startup <= 0) begin_work(s_->joints.size() - 1);
  }

  // ---- speeds ----

  void touch(RankClass of) {
    changed_ = true;
    if (classes_ > 1) s_->changed.push_back(of);
  }

  double first_end(RankClass of) {
    double end = kForever;
    for (std::size_t queue = 0; queue < queues_; ++queue) {
      end = std::min(end, s_->slots[of * queues_ + queue].end);
    }
    return end;
  }

  // Goes on at another speed. Nothing changes where the speed is the same: ends stay equal to the
  // last bit.
  template <class Running>
  void slow_to(Running& running, double wanted) const {
    if (wanted == running.slow) return;
    running.left = (running.end - now_) / running.slow;
    running.slow = wanted;
    running.end = now_ + wanted * running.left;
  }

  void set_speeds() {
    if (!std::exchange(changed_, false)) return;
    for (RankClass of = 0; of < classes_; ++of) set_speeds_of(of);
    for (Joint& joint : s_->joints) {
      double slow = 1, sharing = 1;
      for_each_member(joint.task, joint.group, [&](RankClass of) {
        slow = std::max(slow, s_->communication[of]);
        if (shares_) sharing = std::max(sharing, at_work(of, joint.resource));
      });
      if (joint.part == Joint::Part::InNetwork) {
        network_wanted_ = std::max(network_wanted_, slow);
      } else {
        slow_to(joint, joint.part == Joint::Part::Work ? slow * sharing : slow);
      }
    }
    const double wanted = std::exchange(network_wanted_, 1);
    if (wanted == network_slow_) return;
    network_since_ = to_network(now_);
    real_since_ = now_;
    network_slow_ = wanted;
  }

  void set_speeds_of(RankClass of) {
    double communication = 1;
    const bool beside = costs_.contends() && takes_part(of);
    for (std::size_t queue = 0; queue < queues_; ++queue) {
      Slot& own = s_->slots[of * queues_ + queue];
      if (own.state != State::Working) continue;
      double slow = shares_ ? at_work(of, resource_[queue]) : 1;
      if (beside && resource_[queue] == Resource::Compute) {
        const Slowdowns& by = costs_.slowdowns(own.task);
        slow *= by.products;
        communication = std::max(communication, by.collectives);
      }
      const double before = own.end;
      slow_to(own, slow);
      if (classes_ > 1 && own.end != before) s_->changed.push_back(of);
    }
    s_->communication[of] = communication;
  }

  // Whether a collective is under way on these ranks, not only waited for.
  bool takes_part(RankClass of) {
    return std::any_of(s_->joints.begin(), s_->joints.end(), [&](const Joint& joint) {
      return classes_ == 1 || (slot(of, costs_.at(joint.task).queue).task == joint.task &&
                               group_of(of, joint.task) == joint.group);
    });
  }

  // How many tasks of these ranks share the resource: those past their start-up.
  double at_work(RankClass of, Resource resource) {
    int count = 0;
    for (std::size_t queue = 0; queue < queues_; ++queue) {
      if (resource_[queue] != resource) continue;
      const Slot& own = s_->slots[of * queues_ + queue];
      count += own.state == State::Working;
      if (own.state != State::Arrived) continue;
      for (const Joint& joint : s_->joints) {
        const bool here =
            joint.task == own.task && (classes_ == 1 || group_of(of, joint.task) == joint.group);
        count += here && joint.part == Joint::Part::Work;
      }
    }
    return std::max(1, count);
  }

  const TaskGraph& graph_;
  const Costs& costs_;
  Network* network_;
  Record* record_;
  const ProgressCallback* progress_;
  const std::size_t size_, queues_, classes_;
  std::array<Resource, kMaxQueues> resource_{};
  bool shares_ = false;  // whether two queues have one resource
  Scratch* s_;
  double now_ = 0, forward_ = 0;
  double network_since_ = 0, real_since_ = 0, network_slow_ = 1, network_wanted_ = 1;
  bool changed_ = false;
  std::size_t in_network_ = 0, finished_ = 0, reported_ = 0;
};

// From the last task to end back through what each task waited for last.
std::vector<PathTask> critical_path(const Record& record, std::size_t size) {
  std::vector<PathTask> path;
  if (record.end.empty()) return path;
  const auto last = static_cast<std::size_t>(
      std::max_element(record.end.begin(), record.end.end()) - record.end.begin());
  Cause at{static_cast<TaskId>(last % size), static_cast<RankClass>(last / size)};
  while (at.task != kNoTask) {
    const std::size_t index = at.rank_class * size + at.task;
    path.push_back({at.task, at.rank_class, Seconds{record.end[index] - record.begin[index]}});
    at = record.cause[index];
  }
  std::reverse(path.begin(), path.end());
  return path;
}

BasisShares basis_shares(const Costs& costs, const std::vector<PathTask>& path) {
  BasisShares shares{};
  Seconds makespan{};
  for (const PathTask& one : path) makespan += one.time;
  if (makespan <= Seconds{}) return shares;
  for (const PathTask& one : path) {
    const auto basis = static_cast<std::size_t>(costs.at(one.task, one.rank_class).basis);
    shares[basis] += one.time / makespan;
  }
  return shares;
}

}  // namespace

std::string to_string(NetworkLevel level) { return name_of(kLevels, level); }

NetworkLevel network_level_from(const std::string& name) {
  try {
    return value_of(kLevels, name);
  } catch (const InputError& error) {
    throw InputError(std::string("network ") + error.what());
  }
}

PassTimes evaluate(const Costs& costs, Network* network) {
  return Loop(costs, network, nullptr, nullptr).run();
}

Evaluation evaluation(const Costs& costs, const std::string& made_by, Network* network,
                      const ProgressCallback& progress) {
  const TaskGraph& graph = costs.graph();
  Record record(costs.num_classes() * graph.size());
  Loop(costs, network, &record, &progress).run();
  Evaluation made;
  made.critical_path = critical_path(record, graph.size());
  Timeline& timeline = made.timeline;
  timeline.provenance = provenance(made_by);
  timeline.provenance.notes = costs.notes();
  timeline.queues = graph.queues();
  timeline.basis = basis_shares(costs, made.critical_path);
  timeline.spans.reserve(record.end.size());
  for (std::size_t of = 0; of < costs.num_classes(); ++of) {
    for (TaskId id = 0; id < graph.size(); ++id) {
      const std::size_t index = of * graph.size() + id;
      timeline.spans.push_back({graph.task(id).key, graph.task(id).queue,
                                static_cast<int>(costs.representative(of)),
                                Seconds{record.start[index]}, Seconds{record.end[index]}});
    }
  }
  if (costs.num_classes() > 1) {
    timeline.provenance.notes.push_back(
        fmt::format("{} ranks do {} different amounts of work: spans are of one rank for each",
                    graph.num_ranks(), costs.num_classes()));
  }
  return made;
}

PassTimes evaluate_at(NetworkLevel level, const Costs& costs) {
  if (level == NetworkLevel::Fitted) return evaluate(costs);
  ensure(level == NetworkLevel::Links, "a level that needs a simulator");
  LinkNetwork network(costs);
  return evaluate(costs, &network);
}

Evaluation evaluation_at(NetworkLevel level, const Costs& costs, const ProgressCallback& progress) {
  const std::string made_by = "evaluation, network level " + to_string(level);
  if (level == NetworkLevel::Fitted) return evaluation(costs, made_by, nullptr, progress);
  ensure(level == NetworkLevel::Links, "a level that needs a simulator");
  LinkNetwork network(costs);
  return evaluation(costs, made_by, &network, progress);
}

MakespanBounds makespan_bounds(const Costs& costs) {
  const TaskGraph& graph = costs.graph();
  const std::size_t classes = costs.num_classes();
  std::vector<Seconds> ready(classes * graph.size());
  MakespanBounds bounds;
  for (const TaskId id : graph.topological_order()) {
    Seconds longest{}, last_ready{};
    for (std::size_t of = 0; of < classes; ++of) {
      longest = std::max(longest, costs.at(id, of).total());
      last_ready = std::max(last_ready, ready[of * graph.size() + id]);
    }
    bounds.serial_sum += longest;
    // One that joins a part of the ranks may not wait for the last of all: each rank's own chain.
    const Collective* collective = collective_of(graph.task(id).work);
    const bool joins_all = collective != nullptr && collective->group.count == graph.num_ranks();
    for (std::size_t of = 0; of < classes; ++of) {
      const Seconds start = joins_all ? last_ready : ready[of * graph.size() + id];
      const Seconds end = start + costs.at(id, of).total();
      bounds.critical_path = std::max(bounds.critical_path, end);
      for (const TaskGraph::Successor after : graph.successors(id)) {
        Seconds& next = ready[of * graph.size() + after.task];
        if (after.is_data) next = std::max(next, end);
      }
    }
  }
  return bounds;
}

}  // namespace pipemoe
