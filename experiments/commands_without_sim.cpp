// What the subcommands that simulate say in a build without SimGrid.
#include "experiments/commands.hpp"
#include "models/error.hpp"

namespace pipemoe::program {
namespace {

void add_absent_command(CLI::App& app, const std::string& name) {
  CLI::App* command = app.add_subcommand(name, "Not in this build: PIPEMOE_WITH_SIM is OFF");
  command->allow_extras();
  command->callback([name] {
    throw InputError(name + " is not in this build: configure with -DPIPEMOE_WITH_SIM=ON");
  });
}

}  // namespace

void add_simulate_command(CLI::App& app) { add_absent_command(app, "simulate"); }
void add_study_command(CLI::App& app) { add_absent_command(app, "study"); }

}  // namespace pipemoe::program
