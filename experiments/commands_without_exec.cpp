// What the subcommands that run for real say in a build without the CPU backend.
#include "experiments/commands.hpp"
#include "models/error.hpp"

namespace pipemoe::program {

void refuse(const std::string& why) { throw InputError(why); }

void add_run_command(CLI::App& app) { add_absent_command(app, "run", "PIPEMOE_WITH_CPU"); }
void add_calibrate_command(CLI::App& app) {
  add_absent_command(app, "calibrate", "PIPEMOE_WITH_CPU");
}
void add_validate_command(CLI::App& app) {
  add_absent_command(app, "validate", "PIPEMOE_WITH_CPU");
}

}  // namespace pipemoe::program
