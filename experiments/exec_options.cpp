#include "experiments/exec_options.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <system_error>

#include "experiments/inputs.hpp"
#include "models/error.hpp"

namespace pipemoe::program {
CLI::Validator finite(double from, double to) {
  return {[from, to](std::string& text) -> std::string {
            double value = 0;
            const char* end = text.data() + text.size();
            const auto [rest, error] = std::from_chars(text.data(), end, value);
            const bool number = error == std::errc() && rest == end;
            if (number && value >= from && value <= to) return "";
            return fmt::format("Value {} not in range {} to {}", text, from, to);
          },
          fmt::format("FLOAT in [{} - {}]", from, to)};
}

void add_exec_options(CLI::App& command, ExecOptions& options) {
  command.add_option("--backend", options.backend.backend, "What computes: cpu or cuda")
      ->capture_default_str();
  command.add_option(
      "--communicator", options.backend.communicator,
      "What exchanges: on CPUs mpi, or copy for one rank [by how ranks were started]; "
      "on GPUs staged (the default), nccl, nccl-zero-cta (all-to-all by copy engines), peer-copy "
      "(copies by copy engines between GPUs of one host; both of layers with a capacity), or "
      "elided "
      "for one rank");
  command
      .add_option_function<std::string>(
          "--link",
          [&options](const std::string& text) { options.backend.link = exec::parse_link(text); },
          "Emulate a slower link: an exchange of n bytes a rank takes at least alpha + beta * n")
      ->type_name("alpha=TIME,beta=SECONDS_PER_BYTE");
  command.add_flag("!--no-cuda-graph", options.backend.cuda_graph,
                   "Give every task to the GPU anew instead of replaying a CUDA graph");
  command.add_flag("!--no-priority", options.backend.communication_first,
                   "GPU communication streams without their higher priority");
  command.add_flag_function(
      "--pack-rows,!--no-pack-rows",
      [&options](std::int64_t sum) { options.backend.pack_rows = sum > 0; },
      "On GPUs: an expert's rows from all ranks are moved together first, or read as the exchange "
      "delivers them [what is expected to be faster]");
  command
      .add_option(
          "--exchange-ctas", options.backend.exchange_ctas,
          "Multiprocessors that an exchange of nccl may take, which experts beside it leave to it; "
          "0: NCCL takes what it likes, and experts leave none [run: as the profile has it, else "
          "0]")
      ->check(CLI::Range(0, exec::kMostExchangeCtas));
  command.add_flag("--tf32", options.backend.tf32, "fp32 products on a GPU may round to TF32");
  command.add_option("--warm-up", options.warm_up, "Iterations before the measured ones")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  command.add_option("--repeats", options.repeats, "Measured iterations")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  command.add_option("--seed", options.backend.data.seed, "Of tokens and weights")
      ->capture_default_str();
  command
      .add_option("--skew", options.backend.data.skew,
                  "Makes expert 0 everyone's favourite, the more the larger")
      ->check(finite(0, 100))
      ->capture_default_str();
  command.add_flag("!--no-biases", options.backend.data.biases, "Experts without biases");
  command
      .add_option("--auxiliary-loss", options.backend.data.auxiliary_loss_weight,
                  "Weight of the load-balancing loss in the gradients")
      ->check(finite(0, 1e6))
      ->capture_default_str();
}

nlohmann::ordered_json to_json(const ExecOptions& options) {
  nlohmann::ordered_json json{
      {"backend", options.backend.backend},
      {"communicator", options.backend.chosen_communicator()},
      {"link", nullptr},
      {"warm_up", options.warm_up},
      {"repeats", options.repeats},
      {"seed", options.backend.data.seed},
      {"skew", options.backend.data.skew},
      {"biases", options.backend.data.biases},
      {"auxiliary_loss_weight", options.backend.data.auxiliary_loss_weight}};
  if (options.backend.link) {
    json["link"] = {{"alpha_s", options.backend.link->alpha.count()},
                    {"beta_s_per_byte", options.backend.link->beta.value}};
  }
  if (options.backend.backend == "cuda") {
    json["cuda_graph"] = options.backend.cuda_graph;
    json["communication_first"] = options.backend.communication_first;
    json["tf32"] = options.backend.tf32;
    json["exchange_ctas"] = options.backend.exchange_ctas.value_or(0);
    if (options.backend.pack_rows) json["pack_rows"] = *options.backend.pack_rows;
  }
  return json;
}

std::optional<std::string> take_exchange_ctas(exec::ExecutorOptions& backend,
                                              const Cluster& cluster) {
  if (backend.chosen_communicator() != "nccl") return std::nullopt;
  const std::int64_t measured = condition(cluster.conditions, "exchange_ctas", 0);
  if (!backend.exchange_ctas) backend.exchange_ctas = static_cast<int>(measured);
  if (*backend.exchange_ctas == measured) return std::nullopt;
  const auto limit = [](std::int64_t ctas) {
    return ctas == 0 ? std::string("without a limit") : fmt::format("limited to {} CTAs", ctas);
  };
  return fmt::format("exchanges are {}, those of profile {} {}", limit(*backend.exchange_ctas),
                     cluster.name, limit(measured));
}

}  // namespace pipemoe::program
