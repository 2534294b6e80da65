// All subcommands together. In the library, so that it has all that CLI11 needs of its headers.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "experiments/commands.hpp"
#include "models/error.hpp"
#include "models/version.hpp"

namespace pipemoe::program {
namespace {

int fail(int code, const char* what) {
  fmt::print(stderr, "pipemoe: {}\n", what);
  return code;
}

int parse_and_run(int argc, char** argv) {
  CLI::App app{"Pipelined Mixture-of-Experts layers: planned, simulated and measured."};
  app.name("pipemoe");
  app.set_version_flag("--version", fmt::format("pipemoe {} ({})", kVersion, kCommit));
  app.require_subcommand(1);
  add_plan_command(app);
  add_simulate_command(app);
  add_run_command(app);
  add_calibrate_command(app);
  add_validate_command(app);
  add_graph_command(app);
  add_compare_command(app);
  add_study_command(app);
  add_import_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help and --version
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    refuse(argc > 1 && app.get_subcommands().empty() && argv[1][0] != '-'
               ? fmt::format("{} is no subcommand (see pipemoe --help)", argv[1])
               : error.what());
  } catch (const InputError& error) {
    refuse(error.what());
  }
  return 0;
}

}  // namespace

int run(int argc, char** argv) {
  try {
    const int code = parse_and_run(argc, argv);
    return std::fflush(stdout) == 0 ? code : fail(1, "cannot write to standard output");
  } catch (const SilentExit& exit) {
    return exit.code;
  } catch (const InputError& error) {
    return fail(2, error.what());
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}

}  // namespace pipemoe::program
