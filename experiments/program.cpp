// All subcommands together. In the library, so that it has all that CLI11 needs of its headers.
#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>

#include "experiments/commands.hpp"
#include "experiments/terminal.hpp"
#include "models/error.hpp"
#include "models/version.hpp"

namespace pipemoe::program {
namespace {

int fail(int code, const char* what) {
  print_error(std::string("pipemoe: ") + what);
  return code;
}

// Opens /dev/null in place of closed standard streams. Otherwise the next file to be opened would
// take such a place, and what is printed would go into it. Standard output must still fail.
void open_standard_streams() {
  for (const int stream : {0, 1, 2}) {
    if (fcntl(stream, F_GETFD) < 0 && open("/dev/null", stream == 1 ? O_RDONLY : O_RDWR) < 0) {
      _exit(1);
    }
  }
}

// An empty name is an unset variable of a script, and not an option that was not given.
void refuse_empty_names(CLI::App& app) {
  const CLI::Validator not_empty(
      [](std::string& name) { return name.empty() ? "must not be empty" : ""; }, "");
  for (CLI::App* command : app.get_subcommands({})) {
    for (CLI::Option* option : command->get_options()) {
      const std::string type = option->get_type_name();
      if (type == "FILE" || type == "FOLDER") option->check(not_empty);
    }
  }
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
  refuse_empty_names(app);
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
  open_standard_streams();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that grows too large is an error of its writer
  try {
    const int code = parse_and_run(argc, argv);
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
    return fail(1,
                (std::string("cannot write to standard output: ") + std::strerror(errno)).c_str());
  } catch (const std::bad_alloc&) {
    return fail(1, "out of memory");
  } catch (const SilentExit& exit) {
    return exit.code;
  } catch (const InputError& error) {
    return fail(2, error.what());
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}

}  // namespace pipemoe::program
