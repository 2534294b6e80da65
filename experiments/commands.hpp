// The subcommands of the program, a file each: they parse, call and print.
#pragma once

#include <CLI/App.hpp>

namespace pipemoe::program {

void add_plan_command(CLI::App& app);
void add_simulate_command(CLI::App& app);
void add_graph_command(CLI::App& app);
void add_study_command(CLI::App& app);

}  // namespace pipemoe::program
