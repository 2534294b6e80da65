#include "exec/calibrate.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "exec/calibrated_profile.hpp"
#include "exec/calibration_graph.hpp"
#include "exec/execute.hpp"
#include "exec/measured_fit.hpp"
#include "exec/overlap_estimate.hpp"
#include "exec/statistics.hpp"
#include "models/error.hpp"
#include "models/version.hpp"

namespace pipemoe::exec {
namespace {

/// Turns that the graphs of a layer take.
constexpr int kRounds = 5;

using Times = std::vector<double>;  // seconds, one a repeat

// Which rank's time counts: of a computation the slowest's, of a collective that of the rank that
// came last and waited for nobody.
enum class Across { Slowest, Last };

Times across(ProcessGroup& group, const Times& mine, Across which) {
  Times combined = mine;
  for (const Times& of_rank : all_gather(group, mine)) {
    for (std::size_t i = 0; i < combined.size(); ++i) {
      combined[i] = which == Across::Slowest ? std::max(combined[i], of_rank[i])
                                             : std::min(combined[i], of_rank[i]);
    }
  }
  return combined;
}

Times counts(const std::vector<Seconds>& times) {
  Times seconds;
  for (const Seconds time : times) seconds.push_back(time.count());
  return seconds;
}

std::optional<MemoryPass> memory_pass_of(const Task& task) {
  const bool forward = task.phase == Phase::Forward;
  switch (task.key().operation) {
    case OperationKind::Gate:
      return forward ? MemoryPass::Gate : MemoryPass::GateBackward;
    case OperationKind::Permute:
      return forward ? MemoryPass::Permute : MemoryPass::PermuteBackward;
    case OperationKind::Unpermute:
      return forward ? MemoryPass::Unpermute : MemoryPass::UnpermuteBackward;
    default:
      return std::nullopt;
  }
}

double traffic_of(const Task& task) {
  if (const auto* gate = std::get_if<Gate>(&task.operation)) return gate->traffic.amount();
  if (const auto* permute = std::get_if<Permute>(&task.operation)) return permute->traffic.amount();
  return std::get<Unpermute>(task.operation).traffic.amount();
}

class Calibrator {
 public:
  Calibrator(const std::vector<MoeLayer>& layers, const CalibrationTools& tools,
             ProcessGroup& group, const CalibrateOptions& options)
      : layers_(layers), tools_(tools), group_(group), options_(options) {}

  Calibration run();

 private:
  void measure_layer(const MoeLayer& layer);
  std::int64_t overlap_degree(const MoeLayer& layer) const;
  void record_chunks(const MoeLayer& layer, const TaskGraph& graph,
                     const TaskMeasurements& measured, bool keep_alone);
  void record_tasks(const MoeLayer& layer, const TaskGraph& graph, const std::vector<Times>& times);
  void record_backward(const MoeLayer& layer, const TaskGraph& graph,
                       const std::vector<Times>& times);
  void record_overlap(const TaskGraph& graph, const TaskMeasurements& measured);
  void measure_gemms();
  void measure_activations();
  void measure_exchanges();
  void measure_exchanges(ProcessGroup& group);
  MeasuredPoint record(CalibrationRow row, const Times& times);
  void step();

  void note_outliers();

  const std::vector<MoeLayer>& layers_;
  const CalibrationTools& tools_;
  ProcessGroup& group_;
  const CalibrateOptions& options_;

  Calibration result_;
  CalibrationPoints points_;
  std::map<TaskKey, Seconds> alone_;  // of one layer at its overlap_degree, on this rank
  std::size_t done_ = 0;
};

void Calibrator::step() {
  ++done_;
  const std::size_t total = layers_.size() + 2;
  if (options_.progress) options_.progress(done_, total);
}

// Every rank records the same: `times` are combined over the ranks.
MeasuredPoint Calibrator::record(CalibrationRow row, const Times& times) {
  const Summary summary = summarize(times);
  row.repeats = static_cast<int>(times.size());
  row.minimum_s = summary.minimum;
  row.median_s = summary.median;
  row.maximum_s = summary.maximum;
  row.outliers = summary.outliers.size();
  result_.rows.push_back(row);
  return {row.amount, summary.median};
}

// All of a layer's graphs take turns: those that are compared with each other drift alike.
void Calibrator::measure_layer(const MoeLayer& layer) {
  std::vector<std::int64_t> degrees;
  std::vector<TaskGraph> graphs;
  for (const std::int64_t degree : options_.degrees) {
    if (degree > layer.slots()) continue;
    degrees.push_back(degree);
    graphs.push_back(serial_chunks(layer, group_.size(), degree));
  }
  const std::int64_t overlapped = overlap_degree(layer);
  graphs.push_back(experts_under_exchanges(layer, group_.size(), overlapped));
  const auto backend = tools_.backend(layer);
  const auto measured = measure_tasks(graphs, *backend, group_,
                                      {.warm_up = options_.warm_up,
                                       .repeats = options_.repeats,
                                       .rounds = std::min(options_.repeats, kRounds),
                                       .makespans = false});
  alone_.clear();
  for (std::size_t i = 0; i < degrees.size(); ++i) {
    record_chunks(layer, graphs[i], measured[i], degrees[i] == overlapped);
  }
  record_overlap(graphs.back(), measured.back());
  step();
}

// Degree 4, or the largest below it that the layer and this calibration have.
std::int64_t Calibrator::overlap_degree(const MoeLayer& layer) const {
  std::int64_t degree = 1;
  for (const std::int64_t one : options_.degrees) {
    if (one <= 4 && one <= layer.slots()) degree = std::max(degree, one);
  }
  return degree;
}

void Calibrator::record_chunks(const MoeLayer& layer, const TaskGraph& graph,
                               const TaskMeasurements& measured, bool keep_alone) {
  std::vector<Times> by_task(graph.size());
  for (const auto& iteration : measured) {
    for (TaskId id = 0; id < graph.size(); ++id) {
      by_task[id].push_back(iteration[id].duration().count());
    }
  }
  for (TaskId id = 0; id < graph.size(); ++id) {
    const Task& task = graph.task(id);
    if (keep_alone) alone_[task.key()] = Seconds{summarize(by_task[id]).median};
    const bool collective = std::holds_alternative<AllToAll>(task.operation);
    by_task[id] = across(group_, by_task[id], collective ? Across::Last : Across::Slowest);
  }
  record_tasks(layer, graph, by_task);
  record_backward(layer, graph, by_task);
}

void Calibrator::record_tasks(const MoeLayer& layer, const TaskGraph& graph,
                              const std::vector<Times>& times) {
  for (TaskId id = 0; id < graph.size(); ++id) {
    const Task& task = graph.task(id);
    CalibrationRow row{
        fmt::format("{} {}", to_string(kind_of(task.operation)), to_string(task.phase)), layer.name,
        group_.size()};
    if (const auto* expert = std::get_if<ExpertFfn>(&task.operation)) {
      row.amount = expert_flops(task.operation).count;
      row.unit = "flop";
      const ExpertFit key{
          expert->dtype, expert->activation, expert->pass, without_rows(expert->gemms), {}};
      points_.of(key).push_back(record(row, times[id]));
    } else if (std::holds_alternative<AllToAll>(task.operation)) {
      row.amount = exchanged_bytes(task.operation).amount();
      row.unit = "byte";
      record(row, times[id]);
    } else {
      row.amount = traffic_of(task);
      row.unit = "byte";
      points_.passes[memory_pass_of(task).value()].push_back(record(row, times[id]));
    }
  }
}

// Both gradients in one task take as long as the two tasks.
void Calibrator::record_backward(const MoeLayer& layer, const TaskGraph& graph,
                                 const std::vector<Times>& times) {
  std::map<int, TaskId> inputs;
  for (TaskId id = 0; id < graph.size(); ++id) {
    const Task& task = graph.task(id);
    const auto* expert = std::get_if<ExpertFfn>(&task.operation);
    if (expert == nullptr || expert->pass == Pass::Forward) continue;
    if (expert->pass == Pass::InputGradient) {
      inputs[task.chunk] = id;
      continue;
    }
    const TaskId input = inputs.at(task.chunk);
    Times both = times[id];
    for (std::size_t i = 0; i < both.size(); ++i) both[i] += times[input][i];
    const std::int64_t rows = expert->gemms.front().rows;
    ExpertFit key{layer.dtype,
                  layer.activation,
                  Pass::Backward,
                  without_rows(layer.gemms(Pass::Backward, rows, group_.size())),
                  {}};
    const double flops =
        expert_flops(task.operation).count + expert_flops(graph.task(input).operation).count;
    points_.of(key).push_back({flops, summarize(both).median});
  }
}

void Calibrator::record_overlap(const TaskGraph& graph, const TaskMeasurements& measured) {
  Times compute, communication;
  for (const auto& iteration : measured) {
    StreamTimes experts, exchanges;
    for (TaskId id = 0; id < graph.size(); ++id) {
      const Task& task = graph.task(id);
      const bool expert = std::holds_alternative<ExpertFfn>(task.operation);
      if (!expert && task.phase == Phase::Forward) continue;
      StreamTimes& stream = expert ? experts : exchanges;
      stream.tasks.push_back(iteration[id]);
      const auto alone = alone_.find(task.key());
      if (alone != alone_.end()) stream.alone += alone->second;
    }
    if (const auto found = slowdown(experts, exchanges)) compute.push_back(*found);
    if (const auto found = slowdown(exchanges, experts)) communication.push_back(*found);
  }
  const auto append_median = [&](const Times& mine, std::vector<double>& all) {
    for (const Times& of_rank : all_gather(group_, mine)) {
      if (!of_rank.empty()) all.push_back(summarize(of_rank).median);
    }
  };
  append_median(compute, points_.compute_slowdowns);
  append_median(communication, points_.communication_slowdowns);
}

void Calibrator::measure_gemms() {
  std::set<std::array<std::int64_t, 4>> seen;
  for (const MoeLayer& layer : layers_) {
    for (const std::int64_t degree : options_.degrees) {
      if (degree > layer.slots()) continue;
      const std::int64_t rows = layer.chunk_rows(degree).front();
      for (const GemmShape& gemm : layer.gemms(Pass::Forward, rows, group_.size())) {
        if (!seen.insert({gemm.groups, gemm.rows, gemm.n, gemm.k}).second) continue;
        const Times times = across(
            group_, counts(tools_.time_gemm(gemm, layer.dtype, options_.repeats)), Across::Slowest);
        points_.gemms.push_back(
            record({fmt::format("gemm {}x[{},{}]x[{},{}]", gemm.groups, gemm.rows / gemm.groups,
                                gemm.k, gemm.k, gemm.n),
                    "", group_.size(), gemm.flops().count, "flop"},
                   times));
      }
    }
  }
  step();
}

void Calibrator::measure_activations() {
  if (!tools_.time_activation) return;
  for (const MoeLayer& layer : layers_) {
    for (const std::int64_t degree : options_.degrees) {
      if (degree > layer.slots()) continue;
      const std::int64_t rows = layer.chunk_rows(degree).front();
      for (const Pass pass : {Pass::Forward, Pass::InputGradient}) {
        const bool forward = pass == Pass::Forward;
        const Times times =
            across(group_, counts(tools_.time_activation(layer, pass, rows, options_.repeats)),
                   Across::Slowest);
        points_.passes[forward ? MemoryPass::Activation : MemoryPass::ActivationBackward].push_back(
            record({forward ? "activation forward" : "activation backward", layer.name,
                    group_.size(), layer.activation_bytes(pass, rows).amount(), "byte"},
                   times));
      }
    }
  }
}

// Powers of two from 4 KiB to the largest exchange of a layer, and that.
void Calibrator::measure_exchanges(ProcessGroup& group) {
  std::int64_t largest = 0;
  for (const MoeLayer& layer : layers_) {
    largest = std::max(largest, layer.all_to_all_bytes().count);
  }
  std::vector<std::int64_t> sizes;
  for (std::int64_t size = 4096; size < largest; size *= 2) sizes.push_back(size);
  sizes.push_back(std::max(largest, std::int64_t{8192}));
  for (const std::int64_t size : sizes) {
    const Times times = across(
        group, counts(tools_.time_all_to_all(group, Bytes{size}, options_.repeats)), Across::Last);
    points_.all_to_all[group.size()].push_back(
        record({"all_to_all", "", group.size(), static_cast<double>(size), "byte"}, times));
  }
}

void Calibrator::measure_exchanges() {
  std::set<int> sizes{group_.size()};
  for (int ranks = 2; ranks < group_.size(); ranks *= 2) sizes.insert(ranks);
  for (const int ranks : sizes) {
    const auto part = group_.first(ranks);
    if (part) measure_exchanges(*part);
    group_.barrier();
  }
  step();
}

// The series with the worst outlier is named; the table has them all.
void Calibrator::note_outliers() {
  std::size_t series = 0;
  const CalibrationRow* worst = nullptr;
  const auto ratio = [](const CalibrationRow& row) { return row.maximum_s / row.median_s; };
  for (const CalibrationRow& row : result_.rows) {
    if (row.outliers == 0) continue;
    ++series;
    if (worst == nullptr || ratio(row) > ratio(*worst)) worst = &row;
  }
  if (worst == nullptr) return;
  result_.notes.push_back(fmt::format(
      "{} of {} series of repeats have outliers, which the medians ignore; the worst, {} {} of "
      "{:.3g} {}s, up to {:.1f} times its median",
      series, result_.rows.size(), worst->layer, worst->operation, worst->amount, worst->unit,
      ratio(*worst)));
}

Calibration Calibrator::run() {
  for (const MoeLayer& layer : layers_) measure_layer(layer);
  measure_gemms();
  measure_activations();
  measure_exchanges();
  result_.cluster = calibrated_profile(points_, layers_.front().dtype, tools_, group_, options_);
  if (!result_.cluster.overlap) {
    result_.notes.push_back(
        "compute and communication never met long enough to see one slow the other");
  }
  note_outliers();
  return std::move(result_);
}

}  // namespace

void check_layers(const std::vector<MoeLayer>& layers) {
  if (layers.empty()) throw InputError("calibrate needs at least one layer");
  for (const MoeLayer& layer : layers) {
    if (layer.dtype != layers.front().dtype || layer.activation != layers.front().activation) {
      throw InputError(fmt::format("{} and {} differ in dtype or activation: calibrate them apart",
                                   layers.front().name, layer.name));
    }
  }
}

Calibration calibrate(const std::vector<MoeLayer>& layers, const CalibrationTools& tools,
                      ProcessGroup& group, const CalibrateOptions& options) {
  check_layers(layers);
  return Calibrator(layers, tools, group, options).run();
}

}  // namespace pipemoe::exec
