// The subcommands of the program, a file each: they parse, call and print.
#pragma once

#include <CLI/App.hpp>
#include <string>

namespace pipemoe::program {

/// The whole program; returns its exit code.
int run(int argc, char** argv);

void add_plan_command(CLI::App& app);
void add_simulate_command(CLI::App& app);
void add_run_command(CLI::App& app);
void add_calibrate_command(CLI::App& app);
void add_validate_command(CLI::App& app);
void add_graph_command(CLI::App& app);
void add_compare_command(CLI::App& app);
void add_study_command(CLI::App& app);
void add_import_command(CLI::App& app);

/// Thrown where another rank says what is wrong: end with this exit code and say nothing.
struct SilentExit {
  int code = 1;
};

/// Throws InputError, on one of the ranks where several were started with the same mistake.
[[noreturn]] void refuse(const std::string& why);

}  // namespace pipemoe::program
