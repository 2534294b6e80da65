// What the subcommands that run for real say in a build without the CPU backend.
#include <fmt/core.h>

#include "experiments/commands.hpp"
#include "models/error.hpp"

namespace pipemoe::program {

namespace {

void add_absent_command(CLI::App& app, const std::string& name) {
  CLI::App* command = app.add_subcommand(name, "Not in this build: PIPEMOE_WITH_CPU is OFF");
  command->allow_extras();
  command->callback([name] {
    throw InputError(
        fmt::format("{} is not in this build: configure with -DPIPEMOE_WITH_CPU=ON", name));
  });
}

}  // namespace

void refuse(const std::string& why) { throw InputError(why); }

void add_run_command(CLI::App& app) { add_absent_command(app, "run"); }
void add_calibrate_command(CLI::App& app) { add_absent_command(app, "calibrate"); }
void add_validate_command(CLI::App& app) { add_absent_command(app, "validate"); }

}  // namespace pipemoe::program
