// What contention buys, on checked-in measurements: a term that buys nothing has to go
// (experiments/ablation).
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <sstream>

#include "exec/calibration/contention_fit.hpp"
#include "exec/executor.hpp"
#include "experiments/validation.hpp"
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/evaluate.hpp"
#include "models/files.hpp"

using namespace pipemoe;
using namespace pipemoe::program;

namespace {

const std::string kExperiments = std::string(PIPEMOE_SOURCE_DIR) + "/experiments/";

using Row = std::map<std::string, std::string>;  // by column

std::vector<Row> read_csv(const std::string& path) {
  std::istringstream text(read_file(kExperiments + path, "table"));
  const auto cells = [](const std::string& line) {
    std::istringstream from(line);
    std::vector<std::string> all;
    for (std::string cell; std::getline(from, cell, ',');) all.push_back(cell);
    return all;
  };
  std::string line;
  std::getline(text, line);
  const std::vector<std::string> columns = cells(line);
  std::vector<Row> rows;
  while (std::getline(text, line)) {
    const std::vector<std::string> values = cells(line);
    Row& row = rows.emplace_back();
    for (std::size_t i = 0; i < values.size(); ++i) row[columns[i]] = values[i];
  }
  return rows;
}

// Two GPUs with peer access, over one of three all-to-alls.
struct Measured {
  std::string machine, name, profile;

  Cluster cluster() const {
    return read_cluster(ConfigFile::load(
        kExperiments + "clusters/" + machine + "-" + profile + ".toml", "cluster"));
  }
  std::string results() const { return "validation-gpu/results-" + machine + "/"; }
};

std::vector<Measured> measured_on(const std::string& machine) {
  return {{machine, "nccl", "nccl"},
          {machine, "zero-cta", "nccl-zero-cta"},
          {machine, "peer-copy", "peer-copy"}};
}

const std::vector<MoeLayer>& measured_layers() {
  static const std::vector<MoeLayer> layers =
      read_validation(kExperiments + "validation-gpu/several-gpus.toml").regimes.front().layers;
  return layers;
}

const MoeLayer& layer_named(const std::string& name) {
  const auto& layers = measured_layers();
  return *std::find_if(layers.begin(), layers.end(),
                       [&](const MoeLayer& layer) { return layer.name == name; });
}

Degrees degrees_from(const std::string& text) {
  const auto slash = text.find('/');
  const std::int64_t forward = std::stoll(text);
  return {forward, slash == std::string::npos ? forward : std::stoll(text.substr(slash + 1))};
}

// The median of |error| over all points of both machines, with profiles that `change` changes.
template <class Change>
double median_error(Change change) {
  std::vector<double> errors;
  for (const char* machine : {"h200-x2", "h100-x2"}) {
    for (const Measured& regime : measured_on(machine)) {
      Cluster cluster = regime.cluster();
      change(cluster);
      for (const Row& row : read_csv(regime.results() + "points.csv")) {
        if (row.at("regime") != regime.name) continue;
        const TaskGraph graph = build_graph("pipemoe-deferred", layer_named(row.at("layer")),
                                            cluster, degrees_from(row.at("degree")));
        const Seconds predicted = evaluate(Costs(graph, cluster)).makespan();
        errors.push_back(
            std::abs(predicted.count() / std::stod(row.at("measured_makespan_s")) - 1));
      }
    }
  }
  REQUIRE(errors.size() > 300);
  std::sort(errors.begin(), errors.end());
  return errors[errors.size() / 2];
}

}  // namespace

TEST_CASE("each term of contention lowers the median error on checked-in points",
          "[experiments][contention]") {
  const double shipped = median_error([](Cluster&) {});
  CHECK(shipped < 0.02);
  const double without = median_error([](Cluster& cluster) { cluster.contention.reset(); });
  CHECK(without > 2 * shipped);
  const double by_kind =
      median_error([](Cluster& cluster) { cluster.contention->experts.clear(); });
  CHECK(by_kind > shipped);
  const double no_saving = median_error([](Cluster& cluster) {
    for (auto& [of, fit] : cluster.collectives) fit.queued_saving = {};
  });
  CHECK(no_saving > shipped);
}

TEST_CASE("shipped constants are those of the checked-in rows", "[experiments][contention]") {
  for (const Measured& regime : measured_on("h200-x2")) {
    const Cluster cluster = regime.cluster();
    std::vector<exec::ContentionRow> rows;
    const auto factor = [](const std::string& text) {
      return text.empty() ? std::nullopt : std::optional(std::stod(text));
    };
    for (Row& row : read_csv(regime.results() + "contention-" + regime.name + ".csv")) {
      rows.push_back({row["layer"], layer_named(row["layer"]).expert_sizes(2),
                      row["pass"] == "forward" ? Pass::Forward : Pass::Backward,
                      std::stoll(row["degree"]), std::stoi(row["rank"]),
                      Bytes{std::stoll(row["in_flight_bytes"])}, factor(row["compute_slowdown"]),
                      factor(row["communication_slowdown"])});
    }
    const Contention found = exec::fit_contention(rows, measured_layers(), cluster).value();
    CAPTURE(regime.name);
    const auto check_pair = [](const Slowdowns& shipped, const Slowdowns& refitted) {
      // Exchanges in layers were weighed by tables when the shipped ones were made.
      CHECK(refitted.products == Approx(shipped.products).epsilon(0.02));
      CHECK(refitted.collectives == Approx(shipped.collectives).epsilon(0.02));
    };
    const auto check_pairs = [&](const SlowdownsByKind& shipped, const SlowdownsByKind& refitted) {
      check_pair(shipped.forward, refitted.forward);
      check_pair(shipped.gradients, refitted.gradients);
    };
    check_pairs(cluster.contention->general, found.general);
    REQUIRE(found.experts.size() == cluster.contention->experts.size());
    for (std::size_t i = 0; i < found.experts.size(); ++i) {
      CAPTURE(i);
      CHECK(found.experts[i].sizes == cluster.contention->experts[i].sizes);
      check_pairs(cluster.contention->experts[i].slowdowns, found.experts[i].slowdowns);
    }
  }
}
