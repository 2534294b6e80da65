// The schedules, one file each, and what they share about their knobs. To add one: write its file,
// declare it here, and list it in list(). They do not register themselves: a linker drops objects
// of a static library that nothing names.
#pragma once

#include <cstdint>
#include <vector>

#include "models/schedule.hpp"

namespace pipemoe::schedules {

extern const Schedule sequential;
extern const Schedule fastermoe;
extern const Schedule tutel;
extern const Schedule pipemoe;
extern const Schedule pipemoe_deferred;

inline std::vector<Schedule> list() {
  return {pipemoe, pipemoe_deferred, tutel, fastermoe, sequential};
}

/// 1, 2, .. as far as the layer's slots go.
std::vector<std::int64_t> degrees_up_to(const MoeLayer& layer, std::int64_t max_degree);
/// forward_degree and backward_degree, each for its pass.
std::vector<Knob> both_degrees(const MoeLayer& layer, const Cluster& cluster,
                               std::int64_t max_degree);
std::vector<Knob> no_knobs(const MoeLayer& layer, const Cluster& cluster, std::int64_t max_degree);
Degrees chosen_degrees(const Choice& choice);      ///< of both_degrees
std::int64_t chosen_degree(const Choice& choice);  ///< of a knob "degree", for both passes

}  // namespace pipemoe::schedules
