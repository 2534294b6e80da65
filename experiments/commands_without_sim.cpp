// What the subcommands that simulate say in a build without SimGrid.
#include "experiments/commands.hpp"

namespace pipemoe::program {

void add_simulate_command(CLI::App& app) {
  add_absent_command(app, "simulate", "PIPEMOE_WITH_SIM");
}
void add_study_command(CLI::App& app) { add_absent_command(app, "study", "PIPEMOE_WITH_SIM"); }

}  // namespace pipemoe::program
