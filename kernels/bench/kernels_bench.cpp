// Measures the CPU kernels on one core. The counter of_sgemm compares experts to the matrix product
// alone; of_memcpy compares gate and permutation to memcpy. Both are measured in the same run.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu_math.hpp"
#include "kernels/experts.hpp"
#include "kernels/gate.hpp"
#include "kernels/permute.hpp"
#include "models/bench/statistics.hpp"

namespace {

using namespace pipemoe;
using namespace pipemoe::kernels;
using Floats = std::vector<float>;

// Each rank has two of the eight experts, which receive 2048 rows of width 1024 from four ranks.
const MoeLayer kLayer{.tokens_per_rank = 1024,
                      .model_dim = 1024,
                      .hidden_dim = 2048,
                      .num_experts = 8,
                      .top_k = 2,
                      .capacity_factor = {}};
constexpr std::int64_t kRanks = 4;

Floats random_floats(std::int64_t count) {
  static std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-0.1f, 0.1f);
  Floats values(static_cast<std::size_t>(count));
  for (float& value : values) value = uniform(random);
  return values;
}

// Returns the best of seven runs.
template <class Work>
double best_seconds(Work work) {
  double best = 1e30;
  for (int i = 0; i < 7; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::min(best, elapsed.count());
  }
  return best;
}

// Returns the flops per second of a large square product.
double sgemm_peak() {
  constexpr std::int64_t kSize = 2048;
  static const double peak = [] {
    const Floats a = random_floats(kSize * kSize), b = random_floats(kSize * kSize);
    Floats c(a.size());
    return 2.0 * kSize * kSize * kSize /
           best_seconds([&] { gemm({.m = kSize, .n = kSize, .k = kSize}, a, b, c); });
  }();
  return peak;
}

// Returns the bytes that memcpy reads and writes per second if it copies a layer's rows one by one.
double memcpy_peak() {
  static const double peak = [] {
    const Floats from = random_floats(kLayer.rows() * kLayer.model_dim);
    Floats to(from.size());
    const auto width = static_cast<std::size_t>(kLayer.model_dim);
    return 2.0 * static_cast<double>(from.size() * sizeof(float)) / best_seconds([&] {
             for (std::size_t i = 0; i < from.size(); i += width) {
               std::memcpy(&to[i], &from[i], width * sizeof(float));
             }
             benchmark::ClobberMemory();
           });
  }();
  return peak;
}

void report(benchmark::State& state, const char* name, double work, const char* share,
            double peak) {
  using benchmark::Counter;
  state.counters[name] = Counter(work, Counter::kIsIterationInvariantRate);
  state.counters[share] = Counter(work / peak, Counter::kIsIterationInvariantRate);
}

struct Experts {
  ExpertShape shape;
  ReceivedRows rows{kRanks, 2, std::vector<std::int64_t>(8, 256)};
  Floats first, first_bias, second, second_bias, to_first, to_first_bias, to_second, to_second_bias;
  Floats x, packed_x, pre, hidden, y, packed_y;

  explicit Experts(Activation activation) {
    MoeLayer layer = kLayer;
    layer.activation = activation;
    shape = expert_shape(layer, kRanks);
    const std::int64_t m = shape.model_dim, h = shape.hidden_dim, w = shape.first_width();
    first = to_first = random_floats(2 * m * w);
    first_bias = to_first_bias = random_floats(2 * w);
    second = to_second = random_floats(2 * h * m);
    second_bias = to_second_bias = random_floats(2 * m);
    x = packed_x = y = packed_y = random_floats(rows.rows() * m);
    pre = random_floats(rows.rows() * w);
    hidden = random_floats(rows.rows() * h);
  }

  ExpertWeights weights() const { return {first, first_bias, second, second_bias}; }
  double flops() const {
    return 2.0 * static_cast<double>(rows.rows() * shape.model_dim) *
           static_cast<double>(shape.first_width() + shape.hidden_dim);
  }
};

Activation activation_of(benchmark::State& state) {
  const auto activation = static_cast<Activation>(state.range(0));
  state.SetLabel(to_string(activation));
  return activation;
}

void for_activations(benchmark::internal::Benchmark* benchmark) {
  bench::repeat(benchmark);
  benchmark->DenseRange(0, 2)->Unit(benchmark::kMillisecond);
}

void ExpertForward_2048_rows(benchmark::State& state) {
  Experts e(activation_of(state));
  sgemm_peak();
  for (auto _ : state) {
    expert_forward(e.shape, e.rows, e.weights(),
                   {e.x, e.packed_x, e.pre, e.hidden, e.packed_y, e.y});
  }
  report(state, "flops", e.flops(), "of_sgemm", sgemm_peak());
}
BENCHMARK(ExpertForward_2048_rows)->Apply(for_activations);

void ExpertInputGradient_2048_rows(benchmark::State& state) {
  Experts e(activation_of(state));
  Floats hidden_gradient = e.hidden, pre_gradient = e.pre, packed_dx = e.x, dx = e.x;
  sgemm_peak();
  for (auto _ : state) {
    expert_input_gradient(e.shape, e.rows, e.weights(),
                          {e.y, e.pre, e.packed_y, hidden_gradient, pre_gradient, packed_dx, dx});
  }
  report(state, "flops", e.flops(), "of_sgemm", sgemm_peak());
}
BENCHMARK(ExpertInputGradient_2048_rows)->Apply(for_activations);

void ExpertWeightGradient_2048_rows(benchmark::State& state) {
  Experts e(activation_of(state));
  sgemm_peak();
  for (auto _ : state) {
    expert_weight_gradient(e.shape, e.rows,
                           {e.packed_x,
                            e.hidden,
                            e.packed_y,
                            e.pre,
                            {e.to_first, e.to_first_bias, e.to_second, e.to_second_bias}});
  }
  report(state, "flops", e.flops(), "of_sgemm", sgemm_peak());
}
BENCHMARK(ExpertWeightGradient_2048_rows)->Apply(for_activations);

struct Tokens {
  GateShape gate = gate_shape(kLayer);
  RoutingShape routing = routing_shape(kLayer);
  RowShape shape{gate.tokens, gate.top_k, gate.model_dim};
  Floats input = random_floats(gate.tokens * gate.model_dim), output = input;
  Floats weight = random_floats(gate.num_experts * gate.model_dim);
  Floats probabilities = random_floats(gate.tokens * gate.num_experts);
  Floats rows = random_floats(kLayer.rows() * gate.model_dim);
  Floats combine_weights = random_floats(gate.choices());
  std::vector<std::int32_t> experts = std::vector<std::int32_t>(combine_weights.size());
  ChunkPlan plan;

  Tokens() {
    run_gate();
    plan = plan_chunks(routing, experts, assign(routing, experts), 4);
  }
  void run_gate() { gate_forward(gate, {input, weight, probabilities, experts, combine_weights}); }
};

double bytes(std::initializer_list<const Floats*> buffers) {
  double sum = 0;
  for (const Floats* buffer : buffers) sum += static_cast<double>(buffer->size() * sizeof(float));
  return sum;
}

void for_tokens(benchmark::internal::Benchmark* benchmark) {
  bench::repeat(benchmark);
  benchmark->Unit(benchmark::kMicrosecond);
}

void GateForward_1024_tokens(benchmark::State& state) {
  Tokens t;
  memcpy_peak();
  for (auto _ : state) t.run_gate();
  report(state, "bytes", bytes({&t.input, &t.weight, &t.probabilities}), "of_memcpy",
         memcpy_peak());
}
BENCHMARK(GateForward_1024_tokens)->Apply(for_tokens);

void RoutingPlan_2048_choices(benchmark::State& state) {
  Tokens t;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        plan_chunks(t.routing, t.experts, assign(t.routing, t.experts), t.plan.degree));
  }
  state.SetItemsProcessed(state.iterations() * t.gate.choices());
}
BENCHMARK(RoutingPlan_2048_choices)->Apply(for_tokens);

// Each row is read and written once.
void Permute_2048_rows(benchmark::State& state) {
  Tokens t;
  memcpy_peak();
  for (auto _ : state) permute(t.shape, t.plan, {t.input, t.rows});
  report(state, "bytes", bytes({&t.rows, &t.rows}), "of_memcpy", memcpy_peak());
}
BENCHMARK(Permute_2048_rows)->Apply(for_tokens);

void PermuteBackward_2048_rows(benchmark::State& state) {
  Tokens t;
  memcpy_peak();
  for (auto _ : state) permute_backward(t.shape, t.plan, {t.rows, t.output});
  report(state, "bytes", bytes({&t.rows, &t.output}), "of_memcpy", memcpy_peak());
}
BENCHMARK(PermuteBackward_2048_rows)->Apply(for_tokens);

void Combine_2048_rows(benchmark::State& state) {
  Tokens t;
  memcpy_peak();
  for (auto _ : state) combine(t.shape, t.plan, {t.rows, t.combine_weights, t.output});
  report(state, "bytes", bytes({&t.rows, &t.output}), "of_memcpy", memcpy_peak());
}
BENCHMARK(Combine_2048_rows)->Apply(for_tokens);

// Reads the experts' outputs and the tokens' gradients, writes the rows' gradients.
void CombineBackward_2048_rows(benchmark::State& state) {
  Tokens t;
  Floats row_gradient = t.rows, weight_gradient = t.combine_weights;
  memcpy_peak();
  for (auto _ : state) {
    combine_backward(t.shape, t.plan, t.plan,
                     {t.output, t.rows, t.combine_weights, row_gradient, weight_gradient});
  }
  report(state, "bytes", bytes({&t.rows, &t.output, &row_gradient}), "of_memcpy", memcpy_peak());
}
BENCHMARK(CombineBackward_2048_rows)->Apply(for_tokens);

// The two speeds that the counters compare to.
void Sgemm_2048(benchmark::State& state) {
  for (auto _ : state) sgemm_peak();
  state.counters["flops"] = sgemm_peak();
}
BENCHMARK(Sgemm_2048)->Iterations(1);

void Memcpy_2048_rows(benchmark::State& state) {
  for (auto _ : state) memcpy_peak();
  state.counters["bytes"] = memcpy_peak();
}
BENCHMARK(Memcpy_2048_rows)->Iterations(1);

}  // namespace
