// A sweep as a file describes it: which layers on which clusters, which schedules and degrees.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "models/cluster.hpp"
#include "models/layer.hpp"
#include "sim/simulate.hpp"

namespace pipemoe::program {

struct StudySchedule {
  std::string name;
  std::vector<std::int64_t> degrees;  ///< tried, both phases alike; those above a layer's slots not
};

/// One layer on one cluster.
struct StudyPoint {
  std::size_t index = 0;
  std::string cluster_file;
  std::vector<std::pair<std::string, std::string>> values;  ///< of the grid's keys, for tables
  MoeLayer layer;
  Cluster cluster;
};

struct Study {
  std::string name;
  std::string note;  ///< what every output must say of this grid
  sim::Network network = sim::Network::Node;
  std::vector<StudySchedule> schedules;
  std::vector<std::string> grid_keys;
  std::vector<StudyPoint> points;    ///< to run, by index
  std::vector<StudyPoint> left_out;  ///< do not fit a GPU's memory, when the study asks for that
  std::string configuration;         ///< the file as JSON
};

/// Reads a study file; cluster files are found relative to it. `network` overrides the file's level
/// when not empty. Throws InputError.
Study read_study(const std::filesystem::path& file, const std::string& network);

}  // namespace pipemoe::program
