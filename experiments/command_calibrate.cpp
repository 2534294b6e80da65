// pipemoe calibrate: this machine as a cluster profile.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "exec/calibration/calibrate.hpp"
#include "exec/executor.hpp"
#include "experiments/calibration_report.hpp"
#include "experiments/commands.hpp"
#include "experiments/exec_options.hpp"
#include "experiments/ranks.hpp"
#include "experiments/terminal.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"
#include "models/files.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

struct CalibrateCommand {
  std::vector<std::string> layers;
  ExecOptions exec;
  RankOptions ranks;
  exec::CalibrateOptions calibrate;
  std::string output;
  std::string measurements;
  std::string contention;
};

void check_files(const CalibrateCommand& options) {
  std::vector<NamedFile> inputs;
  for (const std::string& layer : options.layers) inputs.push_back({"--layer", layer});
  check_outputs(inputs, {{"--output", options.output},
                         {"--measurements", options.measurements},
                         {"--contention", options.contention}});
}

// Reads the layers; returns all that was asked for.
std::string read(const CalibrateCommand& options, std::vector<MoeLayer>& layers, int num_ranks) {
  exec::check_options(options.exec.backend);
  Json json{{"execution", to_json(options.exec)}, {"degrees", options.calibrate.degrees}};
  for (const std::string& path : options.layers) {
    ConfigFile file = ConfigFile::load(path, "layer");
    layers.push_back(read_layer(file));
    exec::check_layer(layers.back(), options.exec.backend, num_ranks);
    json["layers"].push_back(Json::parse(file.to_json()));
  }
  exec::check_layers(layers, options.calibrate.degrees);
  return json.dump();
}

void run_on(exec::ProcessGroup& group, CalibrateCommand& options) {
  std::vector<MoeLayer> layers;
  agree(group, [&] {
    if (group.rank() == 0) check_files(options);
    return read(options, layers, group.size());
  });
  options.calibrate.warm_up = options.exec.warm_up;
  options.calibrate.repeats = options.exec.repeats;
  Progress progress("calibrating");
  options.calibrate.progress = [&](std::size_t done, std::size_t total) {
    if (group.rank() == 0) progress.update(done, total);
  };
  const auto tools = exec::calibration_tools(options.exec.backend, group);
  const exec::Calibration result = calibrate(layers, tools, group, options.calibrate);
  if (group.rank() == 0) {
    write_file(options.output, to_toml(result.cluster));
    if (!options.measurements.empty()) write_file(options.measurements, to_csv(result.rows));
    if (!options.contention.empty()) write_file(options.contention, to_csv(result.contention));
    print_calibration(result);
    fmt::print("written: {}\n", printable(options.output));
  }
  group.barrier();
}

}  // namespace

void add_calibrate_command(CLI::App& app) {
  auto options = std::make_shared<CalibrateCommand>();
  CLI::App* command =
      app.add_subcommand("calibrate", "Measure this machine into a cluster profile");
  command->footer(
      "Example:\n  mpirun -np 2 pipemoe calibrate --layer experiments/layers/cpu-example.toml "
      "--name my-machine --output my-machine.toml");
  command->add_option("--layer", options->layers, "Layer file (TOML); may be repeated")
      ->type_name("FILE")
      ->required();
  command->add_option("--name", options->calibrate.name, "Of the profile")->capture_default_str();
  command
      ->add_option("--degrees", options->calibrate.degrees, "Into how many chunks layers are cut")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->default_str("1,2,3,4,6,8");
  command->add_option("--output", options->output, "Write the profile (TOML)")
      ->type_name("FILE")
      ->required();
  command->add_option("--measurements", options->measurements, "Write what was measured as CSV")
      ->type_name("FILE");
  command
      ->add_option("--contention", options->contention,
                   "Write how experts and exchanges slowed each other as CSV")
      ->type_name("FILE");
  add_exec_options(*command, options->exec);
  add_rank_options(*command, options->ranks);
  command->callback([options] {
    on_ranks(options->ranks, [&](exec::ProcessGroup& group) { run_on(group, *options); });
  });
}

}  // namespace pipemoe::program
