#include "experiments/calibration_report.hpp"

#include <fmt/format.h>

#include <optional>

#include "experiments/terminal.hpp"

namespace pipemoe::program {
namespace {

std::string range_text(const std::optional<WorkRange>& range, const char* unit) {
  if (!range) return fmt::format("measured at one number of {}s", unit);
  return fmt::format("{:.3g} to {:.3g} {}s", range->from, range->to, unit);
}

template <class Work>
void print_fit(const std::string& name, const Fit<Work>& fit, const char* unit) {
  const std::string range = range_text(fit.range, unit);
  if (const auto* line = fit.line()) {
    const double beta = line->beta.value;
    const std::string slope =
        beta > 0 ? fmt::format("+ n / {:>8.3f} G{}/s", 1e-9 / beta, unit) : "at any size";
    fmt::print("  {:<42} {:>9.1f} us {:<24} r² {:.4f}  {}\n", name, line->alpha.count() * 1e6,
               slope, fit.r_squared.value_or(0), range);
    return;
  }
  const auto& points = std::get<TimeTable>(fit.model).points;
  fmt::print("  {:<42} table of {} points, {:.1f} to {:.1f} us, {}\n", name, points.size(),
             points.front().second.count() * 1e6, points.back().second.count() * 1e6, range);
}

std::string times_text(const Slowdowns& slowdowns) {
  return fmt::format("products take {:.3f} times as long, collectives {:.3f}", slowdowns.products,
                     slowdowns.collectives);
}

std::string cell(const std::optional<double>& value) {
  return value ? fmt::format("{}", *value) : "";
}

}  // namespace

std::string to_csv(const std::vector<exec::ContentionRow>& rows) {
  std::string text =
      "layer,pass,degree,rank,in_flight_bytes,compute_slowdown,communication_slowdown\n";
  for (const exec::ContentionRow& row : rows) {
    text += fmt::format("{},{},{},{},{},{},{}\n", row.layer, to_string(row.pass), row.degree,
                        row.rank, row.in_flight.count, cell(row.compute), cell(row.communication));
  }
  return text;
}

std::string to_csv(const std::vector<exec::CalibrationRow>& rows) {
  std::string text = "operation,layer,ranks,amount,unit,repeats,min_s,median_s,max_s,outliers\n";
  for (const exec::CalibrationRow& row : rows) {
    text += fmt::format("\"{}\",{},{},{},{},{},{},{},{},{}\n", row.operation, row.layer, row.ranks,
                        row.amount, row.unit, row.repeats, row.minimum_s, row.median_s,
                        row.maximum_s, row.outliers);
  }
  return text;
}

void print_calibration(const exec::Calibration& calibration) {
  const Cluster& cluster = calibration.cluster;
  fmt::print("profile  {}: {} nodes x {} ranks, {}\n", cluster.name, cluster.nodes,
             cluster.gpus_per_node, cluster.gpu.name);
  for (const auto& [of, fit] : cluster.collectives) {
    print_fit<Bytes>(fmt::format("{}, {} ranks", to_string(of.first), to_string(of.second)), fit,
                     "byte");
    if (fit.queued_saving > Seconds{}) {
      fmt::print("    right behind another {:.1f} us less\n", 1e6 * fit.queued_saving.count());
    }
  }
  for (const auto& [dtype, fit] : cluster.gemm) print_fit("gemm " + to_string(dtype), fit, "flop");
  for (const auto& [kernel, cost] : cluster.kernels) {
    const std::string name = to_string(kernel);
    std::visit(Overloaded{[&](const Fit<Bytes>& fit) { print_fit(name, fit, "byte"); },
                          [](NotModelled) {}},
               cost);
  }
  for (const ExpertFit& expert : cluster.experts) {
    const GemmShape& gemm = expert.shapes.front();
    print_fit(fmt::format("experts {} x [{}, {}] {}", gemm.groups, gemm.k, gemm.n,
                          to_string(expert.kind)),
              expert.fit, "flop");
  }
  if (cluster.contention) {
    const SlowdownsByKind& general = cluster.contention->general;
    fmt::print("  together, forward: {}\n  together, gradients: {}\n", times_text(general.forward),
               times_text(general.gradients));
  }
  print_notes(calibration.notes);
}

}  // namespace pipemoe::program
