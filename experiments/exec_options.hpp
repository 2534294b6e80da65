// How to run for real: backend, communicator, link, repeats and the numbers to run on.
#pragma once

#include <CLI/App.hpp>
#include <CLI/Validators.hpp>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "exec/executor.hpp"
#include "models/cluster.hpp"

namespace pipemoe::program {

struct ExecOptions {
  exec::ExecutorOptions backend;
  int warm_up = 5;
  int repeats = 20;
};

/// Accepts numbers from..to. CLI::Range lets NaN pass.
CLI::Validator finite(double from, double to);

void add_exec_options(CLI::App& command, ExecOptions& options);
nlohmann::ordered_json to_json(const ExecOptions& options);

/// NCCL's exchanges are limited as those of the profile were, unless the user said otherwise: then
/// returns a note that says so.
std::optional<std::string> take_exchange_ctas(exec::ExecutorOptions& backend,
                                              const Cluster& cluster);

}  // namespace pipemoe::program
