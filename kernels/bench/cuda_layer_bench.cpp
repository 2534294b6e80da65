// Measures one layer, forward and backward, on one GPU without an exchange: the time of an
// iteration as a CUDA graph and as single launches, the time of each launch, and the limit that the
// GPU's own matrix products and copies set. Writes one JSON file.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/device_layer.hpp"
#include "kernels/small_kernels.hpp"
#include "models/config.hpp"
#include "models/layer.hpp"
#include "models/version.hpp"

namespace {

using namespace pipemoe::cuda;
using nlohmann::json;

constexpr int kWarmUp = 10;

struct Options {
  std::vector<std::string> layers;
  std::string output = "cuda-layer.json";
  int repeats = 50;
  std::int64_t degree = 1;
};

json statistics(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return {{"min_ms", seconds.front() * 1e3},
          {"median_ms", seconds[seconds.size() / 2] * 1e3},
          {"max_ms", seconds.back() * 1e3},
          {"repeats", seconds.size()}};
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

std::vector<double> time_each(int repeats, cudaStream_t stream, const std::function<void()>& work) {
  std::vector<Event> events;
  for (int i = 0; i < 2 * repeats; ++i) events.emplace_back(Event::Timing::On);
  for (int i = 0; i < kWarmUp; ++i) work();
  for (std::size_t i = 0; i < events.size(); i += 2) {
    events[i].record(stream);
    work();
    events[i + 1].record(stream);
  }
  std::vector<double> seconds;
  for (std::size_t i = 0; i < events.size(); i += 2) {
    seconds.push_back(elapsed(events[i], events[i + 1]).count());
  }
  return seconds;
}

DeviceBuffer random_buffer(std::int64_t count, Element element, std::uint32_t seed, double scale,
                           cudaStream_t stream) {
  DeviceBuffer buffer(static_cast<std::size_t>(count * size_of(element)));
  fill_random({buffer.data(), count, element, seed, static_cast<float>(scale)}, stream);
  return buffer;
}

// Returns the bytes that a copy reads and writes per second.
double copy_rate(cudaStream_t stream) {
  constexpr std::size_t kBytes = std::size_t{2} << 30;
  const DeviceBuffer from = random_buffer(kBytes / 4, Element::Fp32, 1, 1, stream), to(kBytes);
  const auto copy = [&] {
    check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream));
  };
  return 2 * static_cast<double>(kBytes) / median(time_each(20, stream, copy));
}

// The tokens and weights of a layer, scaled so that products are of order one.
struct Problem {
  DeviceLayerShape shape;
  DeviceBuffer input, output_gradient, output, input_gradient;
  DeviceBuffer gate, first, first_bias, second, second_bias;
  DeviceBuffer gate_to, first_to, first_bias_to, second_to, second_bias_to;

  Problem(const DeviceLayerShape& of, cudaStream_t stream) : shape(of) {
    const std::int64_t tokens = of.tokens * of.model_dim, e = of.num_experts;
    const double model = 1 / std::sqrt(static_cast<double>(of.model_dim));
    const double hidden = 1 / std::sqrt(static_cast<double>(of.hidden_dim));
    const auto random = [&](std::int64_t count, std::uint32_t seed, double scale) {
      return random_buffer(count, of.element, seed, scale, stream);
    };
    const auto like = [](const DeviceBuffer& buffer) { return DeviceBuffer(buffer.bytes()); };
    input = random(tokens, 1, 1), output_gradient = random(tokens, 2, 1);
    gate = random_buffer(e * of.model_dim, Element::Fp32, 3, model, stream);
    first = random(e * of.model_dim * of.first_width(), 4, model);
    first_bias = random(e * of.first_width(), 5, 0.1);
    second = random(e * of.hidden_dim * of.model_dim, 6, hidden);
    second_bias = random(e * of.model_dim, 7, 0.1);
    output = like(input), input_gradient = like(input), gate_to = like(gate);
    first_to = like(first), first_bias_to = like(first_bias);
    second_to = like(second), second_bias_to = like(second_bias);
  }
  DeviceWeights weights() const {
    return {gate.as<float>(), first.data(), first_bias.data(), second.data(), second_bias.data()};
  }
  DeviceGradients gradients() const {
    return {gate_to.as<float>(), first_to.data(), first_bias_to.data(), second_to.data(),
            second_bias_to.data()};
  }
  DeviceTokens tokens() const {
    return {input.data(), output_gradient.data(), output.data(), input_gradient.data()};
  }
};

// Runs an iteration. If `side` is given, the gate's gradients run on it, beside the experts.
class Iteration {
 public:
  Iteration(DeviceLayer& layer, cudaStream_t stream, cudaStream_t side)
      : layer_(layer), stream_(stream), side_(side) {}

  void operator()() {
    const DeviceLayerShape& shape = layer_.shape();
    layer_.gate(stream_);
    layer_.permute(stream_);
    for (std::int64_t c = 0; c < shape.forward_degree; ++c) layer_.expert_forward(c, stream_);
    layer_.combine(stream_);
    layer_.combine_backward(stream_);
    const cudaStream_t gate_stream = side_ == nullptr ? stream_ : side_;
    if (side_ != nullptr) {
      forked_.record(stream_);
      forked_.block(side_);
    }
    layer_.gate_input_gradient(gate_stream);
    layer_.gate_weight_gradient(gate_stream);
    for (std::int64_t c = 0; c < shape.backward_degree; ++c) {
      layer_.expert_input_gradient(c, stream_);
      layer_.expert_weight_gradient(c, c > 0, stream_);
    }
    if (side_ != nullptr) {
      joined_.record(side_);
      joined_.block(stream_);
    }
    layer_.permute_backward(stream_);
  }

 private:
  DeviceLayer& layer_;
  cudaStream_t stream_, side_;
  Event forked_, joined_;
};

struct Step {
  double flops = 0, bytes = 0;
  std::vector<double> seconds;
};

// Times each launch from one event to the next. A large memset keeps the GPU busy while the host
// enqueues the launches.
json step_times(DeviceLayer& layer, int repeats, cudaStream_t stream) {
  const DeviceBuffer ballast(std::size_t{8} << 30);
  std::vector<std::string> order;
  std::map<std::string, Step> steps;
  for (int i = 0; i < repeats; ++i) {
    std::vector<std::pair<DeviceStep, Event>> marks;
    check(cudaMemsetAsync(ballast.data(), i, ballast.bytes(), stream));
    const auto mark = [&](const DeviceStep& step) {
      marks.emplace_back(step, Event(Event::Timing::On));
      marks.back().second.record(stream);
    };
    mark({});
    layer.observe(mark);
    Iteration(layer, stream, nullptr)();
    layer.observe({});
    for (std::size_t m = 1; m < marks.size(); ++m) {
      const std::string& name = marks[m].first.name;
      if (steps.count(name) == 0) order.push_back(name);
      Step& step = steps[name];
      step.flops = marks[m].first.flops;
      step.bytes = marks[m].first.bytes;
      step.seconds.push_back(elapsed(marks[m - 1].second, marks[m].second).count());
    }
  }
  json all = json::array();
  for (const std::string& name : order) {
    const Step& step = steps[name];
    json row{{"step", name}, {"flops", step.flops}, {"bytes", step.bytes}};
    row["time"] = statistics(step.seconds);
    row["launches"] = step.seconds.size() / static_cast<std::size_t>(repeats);
    all.push_back(row);
  }
  return all;
}

// Returns the experts' products without epilogues, by the names of the layer's steps.
std::vector<std::pair<std::string, Matmul>> products(const DeviceLayerShape& s) {
  const std::int64_t e = s.num_experts, r = s.capacity, m = s.model_dim, h = s.hidden_dim;
  const std::int64_t w = s.first_width();
  const auto product = [&](std::int64_t rows, std::int64_t n, std::int64_t k, bool ta, bool tb) {
    return Matmul{.m = rows,
                  .n = n,
                  .k = k,
                  .batch = e,
                  .transpose_a = ta,
                  .transpose_b = tb,
                  .lda = ta ? rows : k,
                  .ldb = tb ? k : n,
                  .ldd = n,
                  .stride_a = rows * k,
                  .stride_b = k * n,
                  .stride_d = rows * n,
                  .in = s.element,
                  .out = s.element};
  };
  return {{"first product", product(r, w, m, false, false)},
          {"second product", product(r, m, h, false, false)},
          {"hidden gradient", product(r, h, m, false, true)},
          {"input gradient", product(r, m, w, false, true)},
          {"second weight gradient", product(h, m, r, true, false)},
          {"first weight gradient", product(m, w, r, true, false)}};
}

// Returns the seconds that a product takes when it runs repeatedly.
double product_time(Matmuls& matmuls, const Matmul& shape, cudaStream_t stream) {
  const Workspace workspace;
  const DeviceBuffer a = random_buffer(shape.batch * shape.m * shape.k, shape.in, 1, 1, stream);
  const DeviceBuffer b = random_buffer(shape.batch * shape.k * shape.n, shape.in, 2, 1, stream);
  const DeviceBuffer d(static_cast<std::size_t>(shape.batch * shape.m * shape.n * 2));
  const DeviceBuffer bias(static_cast<std::size_t>(shape.batch * shape.n * 2));
  const DeviceBuffer mask(static_cast<std::size_t>(
      shape.epilogue == Epilogue::None ? 0 : shape.batch * shape.m * shape.n / 4 + 1024));
  check(cudaMemsetAsync(bias.data(), 0, bias.bytes(), stream));
  return median(time_each(20, stream, [&] {
    matmuls.run(shape, {a.data(), b.data(), d.data(), bias.data(), mask.data()}, workspace.all(),
                stream);
  }));
}

json product_rates(const DeviceLayerShape& layer, cudaStream_t stream, double& seconds) {
  Matmuls matmuls(Search::Timed);
  json all = json::array();
  for (const auto& [name, plain] : products(layer)) {
    const double time = product_time(matmuls, plain, stream);
    seconds += time;
    json row{{"step", name},
             {"shape", plain.describe()},
             {"time_ms", time * 1e3},
             {"tflops", plain.flops() / time * 1e-12}};
    for (const Epilogue epilogue :
         {Epilogue::Bias, Epilogue::ReluBias, Epilogue::ReluBiasMask, Epilogue::ReluGradient,
          Epilogue::ReluGradientBias, Epilogue::BiasGradientB}) {
      const bool gradient = epilogue == Epilogue::BiasGradientB;
      if (gradient != plain.transpose_a) continue;
      const bool backward =
          epilogue == Epilogue::ReluGradient || epilogue == Epilogue::ReluGradientBias;
      if (!gradient && backward != plain.transpose_b) continue;
      Matmul fused = plain;
      fused.epilogue = epilogue;
      fused.stride_bias = fused.n;
      fused.mask_ld = (fused.n + 127) / 128 * 128;
      fused.stride_mask = fused.m * fused.mask_ld;
      const std::string key = fused.describe().substr(plain.describe().size());
      row["fused_ms"][key] =
          matmuls.can(fused) ? json(product_time(matmuls, fused, stream) * 1e3) : json();
    }
    all.push_back(row);
  }
  return all;
}

DeviceLayerShape shape_of(const pipemoe::MoeLayer& layer, std::int64_t degree) {
  return {.tokens = layer.tokens_per_rank,
          .model_dim = layer.model_dim,
          .hidden_dim = layer.hidden_dim,
          .num_experts = layer.num_experts,
          .top_k = layer.top_k,
          .capacity = layer.capacity(),
          .element = Element::Bf16,
          .forward_degree = degree,
          .backward_degree = degree,
          .direct = true};
}

double median_of(const json& time) { return time.at("median_ms").get<double>(); }

json measure(const std::string& path, const Options& options, double copy_bytes_per_s) {
  pipemoe::ConfigFile file = pipemoe::ConfigFile::load(path, "layer");
  const pipemoe::MoeLayer config = pipemoe::read_layer(file);
  const Stream stream, side;
  const DeviceLayerShape shape = shape_of(config, options.degree);
  const Problem problem(shape, stream);
  DeviceLayer layer(shape, problem.weights(), problem.gradients(), problem.tokens());
  Iteration serial(layer, stream, nullptr), forked(layer, stream, side);
  json result{
      {"layer", json::parse(file.to_json())}, {"degree", options.degree}, {"fused", layer.fused()}};
  std::size_t bytes = 0;
  for (const auto& [name, count] : layer.bytes()) bytes += count;
  result["layer_bytes"] = bytes;
  result["launches"] = statistics(time_each(options.repeats, stream, [&] { serial(); }));
  const Graph one = Graph::capture(stream, [&] { serial(); });
  result["graph"] = statistics(time_each(options.repeats, stream, [&] { one.launch(stream); }));
  const Graph two = Graph::capture(stream, [&] { forked(); });
  result["graph_two_streams"] =
      statistics(time_each(options.repeats, stream, [&] { two.launch(stream); }));
  result["steps"] = step_times(layer, 20, stream);
  double product_seconds = 0, pass_bytes = 0, step_sum = 0;
  result["products"] = product_rates(shape, stream, product_seconds);
  for (const json& step : result["steps"]) {
    const double times = step["launches"].get<double>();
    step_sum += median_of(step["time"]) * times;
    // The limit counts the experts' products by their time, and all else by its bytes.
    const std::string name = step["step"];
    const bool product = std::any_of(result["products"].begin(), result["products"].end(),
                                     [&](const json& row) { return row["step"] == name; });
    if (!product) pass_bytes += step["bytes"].get<double>() * times;
  }
  const double limit = (product_seconds + pass_bytes / copy_bytes_per_s) * 1e3;
  const double best = std::min(median_of(result["graph"]), median_of(result["graph_two_streams"]));
  result["limit"] = {{"products_ms", product_seconds * 1e3},
                     {"passes_ms", pass_bytes / copy_bytes_per_s * 1e3},
                     {"pass_bytes", pass_bytes},
                     {"limit_ms", limit},
                     {"ratio", limit / best}};
  fmt::print(
      "{:10} graph {:8.3f} ms, two streams {:8.3f}, launches {:8.3f}; limit {:8.3f}, ratio {:.3f}; "
      "fused: {}\n",
      config.name, median_of(result["graph"]), median_of(result["graph_two_streams"]),
      median_of(result["launches"]), limit, limit / best, layer.fused());
  for (const json& step : result["steps"]) {
    const double time = median_of(step["time"]) * 1e-3;
    fmt::print("    {:24} {:9.1f} us {:7.1f} TFLOP/s {:7.0f} GB/s x{}\n",
               step["step"].get<std::string>(), time * 1e6,
               step["flops"].get<double>() / time * 1e-12,
               step["bytes"].get<double>() / time * 1e-9, step["launches"].get<int>());
  }
  fmt::print("    sum of steps {:.3f} ms\n", step_sum);
  for (const json& row : result["products"]) {
    fmt::print("    {:24} {:9.1f} us {:7.1f} TFLOP/s plain; {}\n", row["step"].get<std::string>(),
               row["time_ms"].get<double>() * 1e3, row["tflops"].get<double>(),
               row.value("fused_ms", json()).dump());
  }
  return result;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const auto value = [&] {
      if (++i == argc) throw pipemoe::InputError(fmt::format("{} needs a value", word));
      return std::string(argv[i]);
    };
    if (word == "--output") {
      options.output = value();
    } else if (word == "--repeats") {
      options.repeats = std::stoi(value());
    } else if (word == "--degree") {
      options.degree = std::stoll(value());
    } else if (word.starts_with("--")) {
      throw pipemoe::InputError(fmt::format(
          "{} is no option: [--output FILE] [--repeats N] [--degree N] LAYER.toml...", word));
    } else {
      options.layers.emplace_back(word);
    }
  }
  return options;
}

int run(const Options& options) {
  const Device device = current_device();
  const Stream stream;
  const double rate = copy_rate(stream);
  json result{{"program", {{"version", pipemoe::kVersion}, {"commit", pipemoe::kCommit}}},
              {"device",
               {{"name", device.name},
                {"compute_capability", fmt::format("{}.{}", device.major, device.minor)},
                {"memory_bytes", device.memory}}},
              {"versions",
               {{"cuda_driver", device.driver},
                {"cuda_runtime", device.runtime},
                {"cublaslt", Matmuls::version()}}},
              {"warm_up", kWarmUp},
              {"copy_bytes_per_s", rate},
              {"layers", json::array()}};
  fmt::print("{}: copy {:.0f} GB/s\n", device.name, rate * 1e-9);
  for (const std::string& path : options.layers) {
    result["layers"].push_back(measure(path, options, rate));
    std::ofstream(options.output) << result.dump(1) << "\n";  // keeps the layers that are done
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(parse(argc, argv));
  } catch (const pipemoe::InputError& error) {
    fmt::print(stderr, "cuda_layer_bench: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "cuda_layer_bench: {}\n", error.what());
    return 1;
  }
}
