// How to run for real: backend, communicator, link, repeats and the numbers to run on.
#pragma once

#include <CLI/App.hpp>
#include <nlohmann/json_fwd.hpp>

#include "exec/backends.hpp"

namespace pipemoe::program {

struct ExecOptions {
  exec::BackendOptions backend;
  int warm_up = 5;
  int repeats = 20;
};

void add_exec_options(CLI::App& command, ExecOptions& options);
nlohmann::ordered_json to_json(const ExecOptions& options);

}  // namespace pipemoe::program
