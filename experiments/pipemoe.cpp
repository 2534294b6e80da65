// The program: exit code 0, 1 (the run failed) or 2 (bad input, one line that says what).
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "experiments/commands.hpp"
#include "models/error.hpp"
#include "models/version.hpp"

namespace {

int fail(int code, const char* what) {
  fmt::print(stderr, "pipemoe: {}\n", what);
  return code;
}

int run(int argc, char** argv) {
  CLI::App app{"Pipelined Mixture-of-Experts layers: planned, simulated and measured."};
  app.name("pipemoe");
  app.set_version_flag("--version",
                       fmt::format("pipemoe {} ({})", pipemoe::kVersion, pipemoe::kCommit));
  app.require_subcommand(1);
  pipemoe::program::add_plan_command(app);
  pipemoe::program::add_simulate_command(app);
  pipemoe::program::add_run_command(app);
  pipemoe::program::add_calibrate_command(app);
  pipemoe::program::add_validate_command(app);
  pipemoe::program::add_graph_command(app);
  pipemoe::program::add_compare_command(app);
  pipemoe::program::add_study_command(app);
  pipemoe::program::add_import_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help and --version
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    pipemoe::program::refuse(argc > 1 && app.get_subcommands().empty() && argv[1][0] != '-'
                                 ? fmt::format("{} is no subcommand (see pipemoe --help)", argv[1])
                                 : error.what());
  } catch (const pipemoe::InputError& error) {
    pipemoe::program::refuse(error.what());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int code = run(argc, argv);
    return std::fflush(stdout) == 0 ? code : fail(1, "cannot write to standard output");
  } catch (const pipemoe::program::SilentExit& exit) {
    return exit.code;
  } catch (const pipemoe::InputError& error) {
    return fail(2, error.what());
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}
