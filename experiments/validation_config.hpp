// A validation as a file describes it: layers in regimes of a link, and the degrees to try.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "exec/executor.hpp"
#include "models/layer.hpp"

namespace pipemoe::program {

/// Layers over one link: calibrated together, then predicted and measured. A layer may stand in
/// several regimes, which then are ways to choose from.
struct Regime {
  std::string name;
  exec::ExecutorOptions backend;  ///< with the regime's link
  std::vector<MoeLayer> layers;
};

struct Validation {
  std::string name;
  std::string schedule;
  std::vector<std::int64_t> degrees;  ///< of both phases; those above a layer's slots not
  int warm_up = 0;
  int repeats = 1;              ///< of each measured point
  int calibration_repeats = 1;  ///< of each calibrated one; where not given, as many
  std::vector<Regime> regimes;
  std::string configuration;  ///< the file as JSON
};

/// Throws InputError.
Validation read_validation(const std::filesystem::path& file);

}  // namespace pipemoe::program
