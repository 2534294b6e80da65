// What a layer takes beyond its tasks by themselves: time stamps, and exchanges' handoffs.
#pragma once

#include <vector>

#include "exec/layer_measurements.hpp"
#include "models/fit.hpp"
#include "models/slowdown.hpp"
#include "models/task_graph.hpp"

namespace pipemoe::exec {

/// By how much `count` things of one kind made a whole longer than its other parts are.
struct Excess {
  double count = 0;
  double seconds = 0;
  double whole = 0;  ///< seconds
};
/// What one of them takes: least squares of what is left of the excess, relative to the whole.
/// 0 of none. Requires counts and wholes > 0.
double cost_of_one(const std::vector<Excess>& measured);

/// Seconds that a time stamp adds to a computation, of each layer; 0 where that was not measured.
/// Of long layers it is lost in how much iterations differ: it is not taken to be more than twice
/// what it is on the whole.
std::vector<double> time_stamps(const std::vector<LayerMeasurements>& layers);

/// Seconds that a time stamp adds to an exchange behind another one, where `stamps` are those of
/// the layers' computations.
double exchange_stamp(const std::vector<LayerMeasurements>& layers,
                      const std::vector<double>& stamps);

/// What is known of a chain, no two tasks of which overlap, in seconds where nothing else is said.
struct ChainParts {
  double computing = 0;      ///< its computations by themselves
  double join = 0;           ///< what waiting for an exchange costs a computation
  Fit<Bytes> alone, queued;  ///< exchanges by themselves, one behind another
  double handoff_alone = 0;  ///< what an exchange behind a computation takes longer
  Slowdown in_layer{};       ///< of exchanges, against those by themselves
};
enum class Exchanges { Alone, Queued };
/// What exchanges of one kind, those behind a computation or those behind another exchange, take
/// beyond exchanges by themselves in a chain of that makespan. Requires at least one such.
Excess handoff_excess(const TaskGraph& chain, double makespan, const ChainParts& parts,
                      Exchanges counted);

}  // namespace pipemoe::exec
