// When each task of a graph runs: one event loop for every network level. It holds what does not
// depend on a network: readiness, in-order queues, shared resources, contention, the saving of
// queued collectives, and ranks that differ.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/costs.hpp"
#include "models/network.hpp"
#include "models/timeline.hpp"

namespace pipemoe {

/// How much of the network an evaluation knows.
enum class NetworkLevel {
  Fitted,  ///< none: a collective takes its fitted time; those on one resource share it
  Links,   ///< flows on links, by classes (models/links.hpp)
  Node,    ///< the same flows between nodes, simulated (sim/)
  Gpu,     ///< a flow for each pair of GPUs, simulated (sim/)
};
std::string to_string(NetworkLevel level);
NetworkLevel network_level_from(const std::string& name);  ///< throws InputError naming the levels

/// When the passes of a graph end.
struct PassTimes {
  Seconds forward{};
  Seconds backward{};  ///< makespan - forward

  Seconds makespan() const { return forward + backward; }
};

/// Evaluates on `network`; null: level Fitted. Rules:
/// - a task starts when its predecessors have ended on its rank; a collective when it is ready on
///   all ranks of its group, or on a network, which moves all its groups at once, on all ranks;
/// - a collective pays its start-up, then moves its bytes on the network or takes its fitted work;
/// - tasks at work on one resource of a rank share it evenly (collectives on a network do so
/// there);
/// - while a rank computes and takes part in a collective, Costs::slowdowns slow both; a collective
///   is as slow as on the rank where it is slowest, start-up included.
PassTimes evaluate(const Costs& costs, Network* network = nullptr);

/// Called after each finished task with how many are done, of how many.
using ProgressCallback = std::function<void(std::size_t done, std::size_t total)>;

/// One task of a chain in which each waited for the one before, last of all that it waited for.
struct PathTask {
  TaskId task = 0;
  std::uint32_t rank_class = 0;  ///< of Costs
  Seconds time{};                ///< of a collective since all ranks had arrived
};

struct Evaluation {
  Timeline timeline;                    ///< spans of one rank for each class of equal ranks
  std::vector<PathTask> critical_path;  ///< its times add up to the makespan
};

/// The same with spans, provenance and the share of each basis. `made_by` says who evaluates.
Evaluation evaluation(const Costs& costs, const std::string& made_by, Network* network = nullptr,
                      const ProgressCallback& progress = {});

/// At level Fitted or Links.
PassTimes evaluate_at(NetworkLevel level, const Costs& costs);
Evaluation evaluation_at(NetworkLevel level, const Costs& costs,
                         const ProgressCallback& progress = {});

/// Bounds of any schedule of these tasks, without network. With contention the sum is no bound: two
/// tasks at once may take longer than one after the other.
struct MakespanBounds {
  Seconds critical_path{};  ///< longest chain of data dependencies
  Seconds serial_sum{};     ///< everything one after another, each as on its slowest rank
};
MakespanBounds makespan_bounds(const Costs& costs);

}  // namespace pipemoe
