#include <fmt/core.h>

#include "experiments/commands.hpp"
#include "models/error.hpp"

namespace pipemoe::program {

void add_absent_command(CLI::App& app, const std::string& name, const std::string& option) {
  CLI::App* command = app.add_subcommand(name, fmt::format("Not in this build: {} is OFF", option));
  command->allow_extras();
  command->callback([name, option] {
    throw InputError(fmt::format("{} is not in this build: configure with -D{}=ON", name, option));
  });
}

}  // namespace pipemoe::program
