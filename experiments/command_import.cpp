// pipemoe import: files of other programs, and of earlier versions of this one, into our formats.
#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "experiments/commands.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"
#include "models/files.hpp"

namespace pipemoe::program {
namespace {

struct ImportProfile {
  std::string file;
  std::string output;
};

void import_profile(const ImportProfile& options) {
  check_outputs({{"the old profile", options.file}}, {{"--output", options.output}});
  const Cluster cluster = read_version_1_cluster(ConfigFile::load(options.file, "cluster"));
  write_file(options.output, to_toml(cluster));
  const bool queues =
      std::any_of(cluster.collectives.begin(), cluster.collectives.end(),
                  [](const auto& entry) { return entry.second.queued_saving > Seconds{}; });
  if (cluster.contention || queues) {
    fmt::print(
        "tables of contention and of queued exchanges became constants, their medians; a new "
        "calibration makes better ones\n");
  }
  fmt::print("written: {}\n", printable(options.output));
}

}  // namespace

void add_import_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("import", "Convert other files to this program's formats");
  command->require_subcommand(1);
  auto options = std::make_shared<ImportProfile>();
  CLI::App* profile =
      command->add_subcommand("profile", "A cluster profile of version 1 (without a schema)");
  profile->footer("Example:\n  pipemoe import profile old.toml --output new.toml");
  profile->add_option("FILE", options->file, "The old profile (TOML)")->required();
  profile->add_option("--output", options->output, "Write the new profile (TOML)")
      ->type_name("FILE")
      ->required();
  profile->callback([options] { import_profile(*options); });
}

}  // namespace pipemoe::program
