// Whole layers on all ranks, against the float64 reference and against each other.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "exec/execute.hpp"
#include "tests/exec/executed_layer.hpp"
#include "tests/exec/mpi_ranks.hpp"
#include "tests/support/random_runs.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;

namespace {

const std::vector<std::optional<double>> kCapacities{1.0, 1.25, std::nullopt};

// Rank 0 alone knows the error; every rank checks it.
Executed check_equals_reference(const MoeLayer& layer, const std::string& schedule, Degrees degrees,
                                const DataOptions& data) {
  const Executed executed = execute_layer(layer, schedule, degrees, data, ranks());
  const double error = all_gather(ranks(), executed.largest_error).front();
  CHECK(error <= kTolerance);
  CHECK(error > 0);
  CHECK(executed.same_bits_each_time);
  return executed;
}

// ||a - b|| <= kTolerance * ||b||, over one rank's part.
bool nearly_equal(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double difference = static_cast<double>(a.at(i)) - static_cast<double>(b[i]);
    error += difference * difference;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return a.size() == b.size() && std::sqrt(error) <= kTolerance * std::sqrt(norm);
}

}  // namespace

TEST_CASE("a layer on all ranks equals the float64 reference", "[mpi][layer]") {
  const std::vector<Activation> activations{Activation::Relu, Activation::Gelu, Activation::SwiGlu};
  std::uint64_t seed = 0;
  for (const auto& capacity : kCapacities) {
    for (const std::int64_t top_k : {1, 2, 4}) {
      for (const std::int64_t degree : {1, 2, 3, 5, 8}) {
        ++seed;
        CAPTURE(ranks().size(), capacity.value_or(0), top_k, degree);
        const DataOptions data{.seed = seed,
                               .biases = seed % 2 == 0,
                               .skew = seed % 3 == 0 ? 2.0 : 0.0,
                               .auxiliary_loss_weight = seed % 4 < 2 ? 0.0 : 0.25};
        check_equals_reference(prime_layer(top_k, capacity, activations[seed % 3]), "pipemoe",
                               {degree, degree}, data);
      }
    }
  }
}

TEST_CASE("random layers in random chunks equal the float64 reference on all ranks",
          "[mpi][layer][random]") {
  check_random_runs(test_runs(60), ranks());
}

TEST_CASE("every schedule computes the same layer on all ranks", "[mpi][layer]") {
  for (const auto& capacity : kCapacities) {
    const MoeLayer layer = prime_layer(2, capacity, Activation::SwiGlu);
    check_equals_reference(layer, "sequential", {1, 1}, {});
    check_equals_reference(layer, "tutel", {2, 2}, {});
    for (const char* name : {"pipemoe", "pipemoe-deferred"}) {
      for (const Degrees degrees : {Degrees{1, 8}, {8, 1}, {3, 5}}) {
        CAPTURE(name, capacity.value_or(0), degrees.forward_degree);
        check_equals_reference(layer, name, degrees, {.auxiliary_loss_weight = 0.25});
      }
    }
  }
}

TEST_CASE("all tokens may go to one rank", "[mpi][layer]") {
  // A skew of 40 beats every other score: top-1 sends each token to expert 0 on rank 0, and the
  // experts of the other ranks get nothing.
  for (const auto& capacity : kCapacities) {
    for (const Degrees degrees : {Degrees{1, 1}, {3, 2}, {8, 5}}) {
      const Executed executed = check_equals_reference(prime_layer(1, capacity), "pipemoe", degrees,
                                                       {.skew = 40, .auxiliary_loss_weight = 0.1});
      const auto& gradient = executed.results.first_gradient;
      const bool empty =
          std::all_of(gradient.begin(), gradient.end(), [](float value) { return value == 0; });
      CHECK(empty == (ranks().rank() != 0));
    }
  }
}

TEST_CASE("every degree computes the same results on all ranks", "[mpi][layer]") {
  // Up to the order of sums: the weight gradients add their chunks one after another.
  for (const auto& capacity : kCapacities) {
    const DataOptions data{.skew = 1, .auxiliary_loss_weight = 0.1};
    const MoeLayer layer = prime_layer(2, capacity);
    const LayerResults whole = execute_layer(layer, "pipemoe", {1, 1}, data, ranks()).results;
    for (const std::int64_t degree : {2, 3, 5, 8}) {
      const LayerResults one =
          execute_layer(layer, "pipemoe", {degree, degree}, data, ranks()).results;
      CHECK(one.experts == whole.experts);
      CHECK(nearly_equal(one.output, whole.output));
      CHECK(nearly_equal(one.input_gradient, whole.input_gradient));
      CHECK(nearly_equal(one.gate_gradient, whole.gate_gradient));
      CHECK(nearly_equal(one.first_gradient, whole.first_gradient));
      CHECK(nearly_equal(one.first_bias_gradient, whole.first_bias_gradient));
      CHECK(nearly_equal(one.second_gradient, whole.second_gradient));
      CHECK(nearly_equal(one.second_bias_gradient, whole.second_bias_gradient));
    }
  }
}

TEST_CASE("results on all ranks are the same bits in every run", "[mpi][layer]") {
  for (const auto& capacity : kCapacities) {
    for (const std::int64_t degree : {1, 3, 8}) {
      const auto results = [&] {
        return execute_layer(prime_layer(2, capacity), "pipemoe-deferred", {degree, degree},
                             {.skew = 1, .auxiliary_loss_weight = 0.1}, ranks())
            .results;
      };
      const LayerResults first = results();
      for (int run = 0; run < 3; ++run) CHECK(results() == first);
    }
  }
}

TEST_CASE("the measured timeline of all ranks is the same on every rank", "[mpi][execute]") {
  const MoeLayer layer = prime_layer(2, 1.25);
  const TaskGraph graph = build_graph("pipemoe", layer, one_node(ranks().size()), {2, 3});
  const auto executor = make_executor(layer, {.link = parse_link("alpha=1ms,beta=0")}, ranks());
  const Timeline timeline = execute(graph, *executor, ranks(), {.warm_up = 1, .repeats = 5});
  const auto size = static_cast<std::size_t>(ranks().size());
  REQUIRE(timeline.spans.size() == graph.size() * size);
  CHECK(timeline.repeats.size() == 5);
  for (std::size_t i = 0; i < timeline.spans.size(); ++i) {
    const Span& span = timeline.spans[i];
    CHECK(span.rank == static_cast<int>(i / graph.size()));
    CHECK(span.start >= Seconds{0});
    // The exchanges of each rank take 1 ms at least.
    if (is_communication(timeline.resource_of(span))) CHECK(span.duration() >= Seconds{1e-3});
  }
  // 2 chunks forward and 3 backward there and back, one after another on each rank's queue.
  CHECK(timeline.makespan() >= Seconds{10e-3});
  // The middle iteration of five by its latest rank.
  std::vector<Seconds> sorted = timeline.repeats;
  std::sort(sorted.begin(), sorted.end());
  CHECK(timeline.makespan().count() == Approx(sorted[2].count()).epsilon(1e-9));
  std::vector<double> ends, repeats;
  for (const Span& span : timeline.spans) ends.push_back(span.end.count());
  for (const Seconds time : timeline.repeats) repeats.push_back(time.count());
  for (const auto& of_rank : all_gather(ranks(), ends)) CHECK(of_rank == ends);
  for (const auto& of_rank : all_gather(ranks(), repeats)) CHECK(of_rank == repeats);
}
