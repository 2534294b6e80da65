#include "tests/support/random_runs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <vector>

#include "models/error.hpp"

namespace pipemoe::test {
namespace {

class Draw {
 public:
  Draw(std::uint64_t seed, std::uint64_t index) {
    std::seed_seq words{seed, index};
    random_.seed(words);
  }

  std::int64_t between(std::int64_t from, std::int64_t to) {
    return std::uniform_int_distribution<std::int64_t>(from, to)(random_);
  }
  bool one_in(std::int64_t many) { return between(1, many) == 1; }
  template <class T>
  T of(const std::vector<T>& values) {
    return values[static_cast<std::size_t>(between(0, std::ssize(values) - 1))];
  }

 private:
  std::mt19937_64 random_;
};

std::vector<std::string> executable_schedules() {
  std::vector<std::string> names;
  for (const Schedule& schedule : all_schedules()) {
    if (!schedule.needs_costs && schedule.name != "fastermoe") names.push_back(schedule.name);
  }
  return names;
}

MoeLayer draw_layer(Draw& draw, int ranks) {
  const std::vector<std::int64_t> sizes{1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 32, 37};
  MoeLayer layer{.name = "random",
                 .tokens_per_rank = draw.of<std::int64_t>({1, 2, 3, 7, 13, 32, 61, 64, 97}),
                 .model_dim = draw.of(sizes),
                 .hidden_dim = draw.of(sizes),
                 .num_experts = ranks * draw.of<std::int64_t>({1, 1, 2, 3, 5})};
  layer.top_k = draw.one_in(5) ? layer.num_experts
                               : draw.between(1, std::min<std::int64_t>(4, layer.num_experts));
  layer.capacity_factor = draw.of<std::optional<double>>({std::nullopt, 1.0, 1.25, 0.01, 0.3, 7.5});
  layer.activation = draw.of<Activation>({Activation::Relu, Activation::Gelu, Activation::SwiGlu});
  return layer;
}

// As many chunks as there can be, or few.
std::int64_t draw_degree(Draw& draw, const MoeLayer& layer) {
  const std::int64_t most = std::min<std::int64_t>(layer.slots(), 40);
  return draw.one_in(4) ? most : draw.between(1, std::min<std::int64_t>(most, 9));
}

Degrees draw_degrees(Draw& draw, const MoeLayer& layer, const std::string& schedule) {
  Degrees degrees{draw_degree(draw, layer), draw_degree(draw, layer)};
  if (schedule == "sequential") degrees = {};
  if (schedule == "tutel") {  // one degree, which divides the slots
    while (layer.slots() % degrees.forward_degree != 0) --degrees.forward_degree;
    degrees.backward_degree = degrees.forward_degree;
  }
  return degrees;
}

std::optional<std::uint64_t> environment_number(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return std::nullopt;
  std::uint64_t number = 0;
  const char* end = text + std::strlen(text);
  const auto [rest, error] = std::from_chars(text, end, number);
  if (error != std::errc{} || rest != end || number == 0) {
    throw InputError(fmt::format("{} is \"{}\", must be a number from 1 up", name, text));
  }
  return number;
}

}  // namespace

std::string RandomRun::arguments() const {
  std::string text = "run --layer experiments/layers/cpu-example.toml";
  const auto set = [&](const char* key, const std::string& value) {
    text += fmt::format(" --set layer.{}={}", key, value);
  };
  set("tokens_per_rank", std::to_string(layer.tokens_per_rank));
  set("model_dim", std::to_string(layer.model_dim));
  set("hidden_dim", std::to_string(layer.hidden_dim));
  set("num_experts", std::to_string(layer.num_experts));
  set("top_k", std::to_string(layer.top_k));
  set("capacity_factor",
      layer.capacity_factor ? fmt::format("{}", *layer.capacity_factor) : "dropless");
  set("activation", to_string(layer.activation));
  text += " --schedule " + schedule;
  if (schedule != "sequential") {
    text += fmt::format(" --forward-degree {} --backward-degree {}", degrees.forward_degree,
                        degrees.backward_degree);
  }
  text += fmt::format(" --seed {} --skew {} --auxiliary-loss {}", data.seed, data.skew,
                      data.auxiliary_loss_weight);
  if (!data.biases) text += " --no-biases";
  if (link) text += fmt::format(" --link alpha={}s,beta={}", link->alpha.count(), link->beta.value);
  return text + " --warm-up 0 --repeats 1 --verify";
}

RandomRun RandomRun::with_other_numbers() const {
  RandomRun other = *this;
  ++other.data.seed;
  return other;
}

RandomRun random_run(std::uint64_t seed, std::uint64_t index, int ranks) {
  Draw draw(seed, index);
  RandomRun run{.layer = draw_layer(draw, ranks)};
  run.schedule = draw.of(executable_schedules());
  run.degrees = draw_degrees(draw, run.layer, run.schedule);
  run.data = {.seed = static_cast<std::uint64_t>(draw.between(0, 1 << 20)),
              .biases = !draw.one_in(3),
              .skew = draw.of<double>({0, 0, 0, 2, 40}),
              .auxiliary_loss_weight = draw.of<double>({0, 0.25})};
  if (draw.one_in(3)) run.link = exec::Link{Seconds{1e-4}, {1e-9}};
  return run;
}

std::uint64_t test_seed() { return environment_number("PIPEMOE_TEST_SEED").value_or(1); }
std::uint64_t test_runs(std::uint64_t usual) {
  return environment_number("PIPEMOE_TEST_RUNS").value_or(usual);
}

}  // namespace pipemoe::test
