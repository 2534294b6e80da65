#include "exec/calibration/calibrate.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <memory>
#include <span>

#include "exec/calibration/profile.hpp"
#include "models/costs.hpp"
#include "models/limits.hpp"
#include "models/schedule.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;

namespace {

MoeLayer calibrated_layer() {
  return {.tokens_per_rank = 64, .model_dim = 16, .hidden_dim = 8, .num_experts = 4, .top_k = 2};
}

// One second for every byte or flop, at two amounts.
std::vector<MeasuredPoint> ones() { return {{100, 100}, {200, 200}}; }

CalibrationPoints points_of_two_ranks() {
  CalibrationPoints points;
  points.kernels[MemoryKernel::Gate] = ones();
  points.gemms = ones();
  ExpertFit key;
  key.kind = ProductKind::BothGradients;
  points.of(key) = ones();
  points.all_to_all = {{1, ones()}, {2, ones()}};
  points.queued_all_to_all = {{1, ones()}};
  points.handoffs = {.alone = 50, .queued = 10};
  // 110 and 210 s queued take 1.5 t + 5 s in layers.
  points.in_layers = {{{100}, 1.5 + 5.0 / 110}, {{200}, 1.5 + 5.0 / 210}};
  return points;
}

Cluster profile_of(const CalibrationPoints& points) {
  const auto group = single_process();
  CalibrationTools tools;
  tools.conditions = {{"communicator", std::string("nccl")}, {"exchange_ctas", std::int64_t{24}}};
  return calibrated_profile(points, Dtype::Fp32, tools, *group, {});
}

// What calibrated_profile asks of four ranks of one host, as one of them.
class FourRanks final : public ProcessGroup {
 public:
  FourRanks() : ProcessGroup(0, 4) {}
  Seconds timeout() const override { return kDefaultRankTimeout; }
  std::string name() const override { return "four"; }
  void barrier() override {}
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override {
    return {4, {mine.begin(), mine.end()}};
  }
  std::unique_ptr<Communicator> communicator() override { return nullptr; }
  std::unique_ptr<ProcessGroup> first(int) override { return nullptr; }
  [[noreturn]] void abort(int) override { std::abort(); }
  [[noreturn]] void end_wait(const std::string&) override { std::abort(); }
};

}  // namespace

TEST_CASE("exchanges that take equally long give links that a profile may have",
          "[exec][calibrate]") {
  // validate of small layers once ended: nic_bytes_per_s is 3000000000000000, must be at most
  // 1e+15.
  CalibrationPoints points = points_of_two_ranks();
  points.all_to_all[4] = {{100, 100}, {200, 100}};
  points.queued_all_to_all[4] = ones();
  FourRanks four;
  const Cluster cluster = calibrated_profile(points, Dtype::Fp32, {}, four, {});
  CHECK(cluster.gpus_per_node == 4);
  CHECK(cluster.nic.bandwidth.value == kMostBandwidth);
  CHECK(cluster.gpu_link.bandwidth.value <= kMostBandwidth);
}

TEST_CASE("a profile has a fit for each group, kernel and kind of product", "[exec][calibrate]") {
  const Cluster cluster = profile_of(points_of_two_ranks());
  using Key = std::pair<CollectiveKind, Group>;
  REQUIRE(cluster.collectives.size() == 2);
  // 100 s and 200 s for as many bytes, and 50 s of handoff, or 10 s if queued.
  const auto& between = cluster.collectives.at(Key{CollectiveKind::AllToAll, {1, 1}});
  CHECK(between(Bytes{100}).count() == Approx(1.5 * 150 + 5).epsilon(1e-6));
  CHECK(between.queued_saving.count() == Approx(40).epsilon(1e-6));
  CHECK_THAT(between.source,
             Catch::Contains("in layers 1.500 times as long and 5000000.00 us longer"));
  CHECK(cluster.collectives.at(Key{CollectiveKind::AllToAll, {2, 1}}).queued_saving == Seconds{});

  CHECK(std::holds_alternative<Fit<Bytes>>(cluster.kernels.at(MemoryKernel::Gate)));
  CHECK(std::holds_alternative<NotModelled>(cluster.kernels.at(MemoryKernel::Activation)));
  REQUIRE(cluster.experts.size() == 1);
  CHECK(cluster.experts[0].kind == ProductKind::BothGradients);
  CHECK(cluster.experts[0].fit(Flops{100}).count() == Approx(100).epsilon(1e-9));
}

TEST_CASE("a profile has the conditions as they are", "[exec][calibrate]") {
  CHECK(profile_of(points_of_two_ranks()).conditions ==
        Conditions{{"communicator", std::string("nccl")}, {"exchange_ctas", std::int64_t{24}}});
}

TEST_CASE("what was calibrated has a measured cost for every task of its layer",
          "[exec][calibrate]") {
  const auto group = single_process();
  const std::vector<MoeLayer> layers{calibrated_layer()};
  const Calibration calibration = calibrate(layers, calibration_tools({}, *group), *group,
                                            {.degrees = {1, 2}, .warm_up = 1, .repeats = 3});
  const Cluster& cluster = calibration.cluster;
  CHECK(cluster.conditions.at("equal_degrees") == Condition(true));
  CHECK(cluster.conditions.at("degree_tolerance") == Condition(0.01));
  CHECK(cluster.conditions.at("unequal_degrees_gain") == Condition(0.015));
  CHECK(cluster.conditions.at("communicator") == Condition(std::string("copy")));
  CHECK_FALSE(cluster.conditions.contains("exchange_ctas"));
  for (const char* name : {"pipemoe", "pipemoe-deferred"}) {
    const TaskGraph graph = build_graph(name, layers.front(), cluster, Degrees{2, 2});
    const Costs costs(graph, cluster);
    for (TaskId id = 0; id < graph.size(); ++id) {
      CAPTURE(graph.task(id).name());
      CHECK(costs.at(id).basis != Basis::Estimated);
      CHECK(costs.at(id).total() > Seconds{});
    }
  }
}

TEST_CASE("tables name an expert's step and pass", "[exec][calibrate]") {
  const auto group = single_process();
  const Calibration calibration = calibrate({calibrated_layer()}, calibration_tools({}, *group),
                                            *group, {.degrees = {1}, .warm_up = 1, .repeats = 1});
  for (const char* name :
       {"gate forward", "expert forward", "expert_input_gradient backward",
        "expert_weight_gradient backward", "permute backward", "activation backward"}) {
    CAPTURE(name);
    CHECK(std::any_of(calibration.rows.begin(), calibration.rows.end(),
                      [&](const CalibrationRow& row) { return row.operation == name; }));
  }
}
