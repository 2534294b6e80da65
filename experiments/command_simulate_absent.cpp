// What `pipemoe simulate` says in a build without SimGrid.
#include "experiments/commands.hpp"
#include "models/error.hpp"

namespace pipemoe::program {

void add_simulate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("simulate", "Not in this build: PIPEMOE_WITH_SIM is OFF");
  command->allow_extras();
  command->callback([] {
    throw InputError("simulate is not in this build: configure with -DPIPEMOE_WITH_SIM=ON");
  });
}

}  // namespace pipemoe::program
