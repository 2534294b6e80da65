// Validation files.
#include "experiments/validation.hpp"

#include "models/limits.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::validation_target {

bool run(std::string_view text) {
  program::Validation validation;
  const bool accepted =
      accepts([&] { validation = program::parse_validation(text, "validation.toml"); });
  if (!accepted) return false;
  require_printable(validation.name, "the validation's name");
  require_json(validation.configuration, "the validation as JSON");
  require(!validation.degrees.empty() && !validation.regimes.empty(), "nothing to do");
  for (const std::int64_t degree : validation.degrees) {
    require_within(static_cast<double>(degree), 1, kMostDegree, "a degree");
  }
  require_within(validation.warm_up, 0, 10000, "warm_up");
  require_within(validation.repeats, 1, 10000, "repeats");
  require_within(validation.calibration_repeats, 1, 10000, "calibration_repeats");
  for (const program::Regime& regime : validation.regimes) {
    require_printable(regime.name, "a regime's name");
    if (const auto& link = regime.backend.link) {
      require_within(link->alpha.count(), 0, kMostStartup, "alpha");
      require_within(link->beta.value, 0, kMostSecondsPerByte, "beta");
    }
    for (const MoeLayer& layer : regime.layers) require_sane(layer);
  }
  return true;
}

std::vector<std::string> seeds() {
  return {shipped_toml("experiments/validation-cpu/validation.toml", 1),
          shipped_toml("experiments/validation-cpu/validation.toml", 3),
          shipped_toml("experiments/validation-gpu/validation.toml", 1),
          shipped_toml("experiments/validation-gpu/several-gpus.toml", 2),
          R"(name = "one"
schedule = "tutel"
degrees = [1, 2]
warm_up = 0
repeats = 1
calibration_repeats = 2
pack_rows = true
[[layer]]
name = "l"
tokens_per_rank = 64
model_dim = 8
hidden_dim = 8
num_experts = 4
top_k = 1
capacity_factor = "dropless"
dtype = "fp32"
activation = "gelu"
[[regime]]
name = "r"
communicator = "nccl"
exchange_ctas = 4
)"};
}

const Registration registration({"validation", Syntax::Toml, run, seeds});

}  // namespace pipemoe::fuzz::validation_target
