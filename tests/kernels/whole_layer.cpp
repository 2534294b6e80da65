#include "tests/kernels/whole_layer.hpp"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/cpu_math.hpp"
#include "kernels/experts.hpp"
#include "kernels/gate.hpp"
#include "kernels/permute.hpp"
#include "kernels/routing.hpp"

namespace pipemoe::test {
namespace {

using namespace pipemoe::kernels;
using Floats = std::vector<float>;

struct Shapes {
  GateShape gate;
  RoutingShape routing;
  ExpertShape expert;
  RowShape row;
  std::int64_t ranks;

  explicit Shapes(const ReferenceLayer& reference)
      : gate(gate_shape(reference.layer, reference.renormalize)),
        routing(routing_shape(reference.layer)),
        expert(expert_shape(reference.layer, reference.num_ranks)),
        row{gate.tokens, gate.top_k, gate.model_dim},
        ranks(reference.num_ranks) {}
};

template <class T>
std::span<T> part(std::vector<T>& all, std::int64_t index, std::int64_t parts) {
  const std::size_t size = all.size() / static_cast<std::size_t>(parts);
  return std::span<T>(all).subspan(static_cast<std::size_t>(index) * size, size);
}

// One rank as the sender of its tokens' rows.
struct Sender {
  Floats probabilities, rows_out, rows_back;
  Assignment assignment;
  ChunkPlan forward, backward;
};

// One rank as the owner of experts. Its buffers hold what forward saves, one chunk after another.
struct Owner {
  ReceivedRows all;
  Floats packed_input, pre_activation, hidden;

  Owner(const Shapes& s, ReceivedRows rows)
      : all(std::move(rows)),
        packed_input(poisoned(all.rows() * s.expert.model_dim)),
        pre_activation(poisoned(all.rows() * s.expert.first_width())),
        hidden(poisoned(all.rows() * s.expert.hidden_dim)) {}
};

struct Layer {
  const Problem& problem;
  Shapes s;
  Degrees degrees;
  Floats input, output_gradient, gate, first, first_bias, second, second_bias;
  std::vector<Sender> senders;
  std::vector<Owner> owners;
  LayerResult result;

  Layer(const Problem& of, Degrees pipeline_degrees);
  void send(std::int64_t rank);
  ReceivedRows received_by(std::int64_t rank) const;
  ExpertWeights weights(std::int64_t rank);
  void exchange(std::int64_t rank, std::int64_t chunk, bool backward, bool to_experts,
                Floats& received);
  void forward_chunk(std::int64_t rank, std::int64_t chunk, std::int64_t& saved_rows);
  void combine_tokens(std::int64_t rank, Floats& weight_gradient);
  void backward_chunk(std::int64_t rank, std::int64_t chunk);
  void finish(std::int64_t rank, const Floats& weight_gradient, std::vector<double>& gate_sum);
};

Layer::Layer(const Problem& of, Degrees pipeline_degrees)
    : problem(of),
      s(of.reference),
      degrees(pipeline_degrees),
      input(to_floats(of.input)),
      output_gradient(to_floats(of.output_gradient)),
      gate(to_floats(of.parameters.gate)),
      first(to_floats(of.parameters.first)),
      first_bias(to_floats(of.parameters.first_bias)),
      second(to_floats(of.parameters.second)),
      second_bias(to_floats(of.parameters.second_bias)),
      senders(static_cast<std::size_t>(s.ranks)) {
  const auto size = [](const auto& values) { return static_cast<std::int64_t>(values.size()); };
  result.experts.assign(of.experts.size(), -1);
  result.combine_weights = poisoned(size(of.experts));
  result.output = poisoned(size(input));
  result.input_gradient = poisoned(size(input));
  result.first = poisoned(size(first));
  result.first_bias = poisoned(size(first_bias));
  result.second = poisoned(size(second));
  result.second_bias = poisoned(size(second_bias));
}

void Layer::send(std::int64_t rank) {
  Sender& sender = senders[static_cast<std::size_t>(rank)];
  const auto experts = part(result.experts, rank, s.ranks);
  sender.probabilities = poisoned(s.gate.tokens * s.gate.num_experts);
  gate_forward(s.gate, {part(input, rank, s.ranks), gate, sender.probabilities, experts,
                        part(result.combine_weights, rank, s.ranks)});
  sender.assignment = assign(s.routing, experts);
  sender.forward = plan_chunks(s.routing, experts, sender.assignment, degrees.forward_degree);
  sender.backward = plan_chunks(s.routing, experts, sender.assignment, degrees.backward_degree);
  sender.rows_out = poisoned(sender.forward.rows() * s.row.model_dim);
  sender.rows_back = poisoned(sender.forward.rows() * s.row.model_dim);
  permute(s.row, sender.forward, {part(input, rank, s.ranks), sender.rows_out});
}

ReceivedRows Layer::received_by(std::int64_t rank) const {
  const std::int64_t local = s.expert.local_experts;
  std::vector<std::int64_t> rows;
  for (const Sender& sender : senders) {
    const auto begin = sender.assignment.rows.begin() + rank * local;
    rows.insert(rows.end(), begin, begin + local);
  }
  return {s.ranks, local, std::move(rows)};
}

ExpertWeights Layer::weights(std::int64_t rank) {
  return {part(first, rank, s.ranks), part(first_bias, rank, s.ranks), part(second, rank, s.ranks),
          part(second_bias, rank, s.ranks)};
}

// Copies the rows of one chunk between `rank`, as owner of experts, and every sender.
void Layer::exchange(std::int64_t rank, std::int64_t chunk, bool backward, bool to_experts,
                     Floats& received) {
  const std::int64_t local = s.expert.local_experts, width = s.row.model_dim;
  std::int64_t row = 0;
  for (Sender& sender : senders) {
    const ChunkPlan& plan = backward ? sender.backward : sender.forward;
    const std::int64_t begin = plan.first_row(chunk, rank * local);
    const std::int64_t count = plan.first_row(chunk, (rank + 1) * local) - begin;
    const auto here = rows_of(std::span<float>(received), row, count, width);
    if (to_experts) {
      copy(rows_of(std::span<float>(sender.rows_out), begin, count, width), here);
    } else {
      copy(here, rows_of(std::span<float>(sender.rows_back), begin, count, width));
    }
    row += count;
  }
}

void Layer::forward_chunk(std::int64_t rank, std::int64_t chunk, std::int64_t& saved_rows) {
  Owner& owner = owners[static_cast<std::size_t>(rank)];
  const ReceivedRows rows = owner.all.chunk(degrees.forward_degree, chunk);
  const std::int64_t count = rows.rows(), width = s.row.model_dim;
  Floats received = poisoned(count * width), packed = received, output = received;
  exchange(rank, chunk, false, true, received);
  const auto saved = [&](Floats& all, std::int64_t columns) {
    return rows_of(std::span<float>(all), saved_rows, count, columns);
  };
  expert_forward(s.expert, rows, weights(rank),
                 {.input = received,
                  .packed_input = saved(owner.packed_input, width),
                  .pre_activation = saved(owner.pre_activation, s.expert.first_width()),
                  .hidden = saved(owner.hidden, s.expert.hidden_dim),
                  .packed_output = packed,
                  .output = output});
  saved_rows += count;
  exchange(rank, chunk, false, false, output);
}

void Layer::combine_tokens(std::int64_t rank, Floats& weight_gradient) {
  Sender& sender = senders[static_cast<std::size_t>(rank)];
  const auto combine_weights = part(result.combine_weights, rank, s.ranks);
  combine(s.row, sender.forward,
          {sender.rows_back, combine_weights, part(result.output, rank, s.ranks)});
  sender.rows_out = poisoned(sender.backward.rows() * s.row.model_dim);
  combine_backward(s.row, sender.forward, sender.backward,
                   {part(output_gradient, rank, s.ranks), sender.rows_back, combine_weights,
                    sender.rows_out, weight_gradient});
  sender.rows_back = poisoned(sender.backward.rows() * s.row.model_dim);
}

void Layer::backward_chunk(std::int64_t rank, std::int64_t chunk) {
  const Owner& owner = owners[static_cast<std::size_t>(rank)];
  const ReceivedRows rows = owner.all.chunk(degrees.backward_degree, chunk);
  const std::int64_t model = s.row.model_dim, hidden = s.expert.hidden_dim;
  const std::int64_t wide = s.expert.first_width();
  const auto saved = [&](const Floats& all, std::int64_t width) {
    Floats values = poisoned(rows.rows() * width);
    regroup(owner.all,
            {width, degrees.forward_degree, degrees.backward_degree, chunk, all, values});
    return values;
  };
  const Floats x = saved(owner.packed_input, model), pre = saved(owner.pre_activation, wide);
  const Floats after = saved(owner.hidden, hidden);
  Floats received = poisoned(rows.rows() * model), dy = received, dx = received, back = received;
  Floats dhidden = poisoned(rows.rows() * hidden), dpre = poisoned(rows.rows() * wide);
  exchange(rank, chunk, true, true, received);
  expert_input_gradient(s.expert, rows, weights(rank),
                        {received, pre, dy, dhidden, dpre, dx, back});
  expert_weight_gradient(
      s.expert, rows,
      {.packed_input = x,
       .hidden = after,
       .packed_output_gradient = dy,
       .pre_activation_gradient = dpre,
       .gradients = {part(result.first, rank, s.ranks), part(result.first_bias, rank, s.ranks),
                     part(result.second, rank, s.ranks), part(result.second_bias, rank, s.ranks)},
       .accumulate = chunk > 0});
  exchange(rank, chunk, true, false, back);
}

void Layer::finish(std::int64_t rank, const Floats& weight_gradient,
                   std::vector<double>& gate_sum) {
  Sender& sender = senders[static_cast<std::size_t>(rank)];
  const auto input_gradient = part(result.input_gradient, rank, s.ranks);
  const auto experts = part(result.experts, rank, s.ranks);
  Floats load = poisoned(s.gate.num_experts), logits = poisoned(s.gate.tokens * s.gate.num_experts);
  Floats gate_gradient = poisoned(s.gate.num_experts * s.gate.model_dim);
  permute_backward(s.row, sender.backward, {sender.rows_back, input_gradient});
  expert_load(s.gate, experts, load);
  result.auxiliary_loss += auxiliary_loss(s.gate, sender.probabilities, load);
  gate_backward(s.gate, {.input = part(input, rank, s.ranks),
                         .weight = gate,
                         .probabilities = sender.probabilities,
                         .experts = experts,
                         .combine_weights = part(result.combine_weights, rank, s.ranks),
                         .combine_weight_gradient = weight_gradient,
                         .load = load,
                         .auxiliary_loss_gradient =
                             static_cast<float>(problem.reference.auxiliary_loss_weight),
                         .logit_gradient = logits,
                         .input_gradient = input_gradient,
                         .weight_gradient = gate_gradient});
  for (std::size_t i = 0; i < gate_sum.size(); ++i) {
    gate_sum[i] += static_cast<double>(gate_gradient[i]);
  }
}

}  // namespace

LayerResult run_layer(const Problem& problem, Degrees degrees) {
  Layer layer(problem, degrees);
  const std::int64_t ranks = layer.s.ranks;
  for (std::int64_t rank = 0; rank < ranks; ++rank) layer.send(rank);
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    layer.owners.emplace_back(layer.s, layer.received_by(rank));
    std::int64_t saved_rows = 0;
    for (std::int64_t chunk = 0; chunk < degrees.forward_degree; ++chunk) {
      layer.forward_chunk(rank, chunk, saved_rows);
    }
  }
  std::vector<Floats> weight_gradients;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    weight_gradients.push_back(poisoned(layer.s.gate.choices()));
    layer.combine_tokens(rank, weight_gradients.back());
  }
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    for (std::int64_t chunk = 0; chunk < degrees.backward_degree; ++chunk) {
      layer.backward_chunk(rank, chunk);
    }
  }
  std::vector<double> gate_sum(layer.gate.size());
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    layer.finish(rank, weight_gradients[static_cast<std::size_t>(rank)], gate_sum);
  }
  layer.result.gate = to_floats(gate_sum);
  return layer.result;
}

std::vector<double> draw(std::mt19937_64& random, std::int64_t count, double scale) {
  std::normal_distribution<float> normal(0, static_cast<float>(scale));
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = static_cast<double>(normal(random));
  return values;
}

std::vector<float> to_floats(std::span<const double> values) {
  std::vector<float> floats;
  for (const double value : values) floats.push_back(static_cast<float>(value));
  return floats;
}

std::vector<float> poisoned(std::int64_t count) {
  return std::vector<float>(static_cast<std::size_t>(count),
                            std::numeric_limits<float>::quiet_NaN());
}

double relative_error(std::span<const float> a, std::span<const double> b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += b[i] * b[i];
  }
  if (std::isnan(error)) return std::numeric_limits<double>::infinity();
  return norm < 1e-24 ? std::sqrt(error) : std::sqrt(error / norm);
}

ReferenceLayer varied_layer(std::int64_t model_dim, std::int64_t hidden_dim, std::int64_t ranks,
                            std::int64_t top_k, std::optional<double> capacity,
                            const LayerVariant& variant) {
  return {.layer = {.tokens_per_rank = 61,
                    .model_dim = model_dim,
                    .hidden_dim = hidden_dim,
                    .num_experts = 8,
                    .top_k = top_k,
                    .capacity_factor = capacity,
                    .activation = variant.activation},
          .num_ranks = ranks,
          .renormalize = variant.renormalize,
          .auxiliary_loss_weight = variant.auxiliary_loss_weight};
}

ExpectedLayer expected_layer(const Problem& problem) {
  return {reference_forward(problem.reference, problem.parameters, problem.input, problem.experts),
          reference_backward(problem.reference, problem.parameters, problem.input, problem.experts,
                             problem.output_gradient)};
}

std::vector<std::pair<double, std::string>> errors_of(const LayerResult& result,
                                                      const ExpectedLayer& expected) {
  const ReferenceParameters& gradients = expected.backward.parameters;
  return {{relative_error(result.output, expected.forward.output), "output"},
          {relative_error(result.combine_weights, expected.forward.combine_weights), "weights"},
          {relative_error(result.input_gradient, expected.backward.input), "input gradient"},
          {relative_error(result.gate, gradients.gate), "gate"},
          {relative_error(result.first, gradients.first), "first"},
          {relative_error(result.first_bias, gradients.first_bias), "first bias"},
          {relative_error(result.second, gradients.second), "second"},
          {relative_error(result.second_bias, gradients.second_bias), "second bias"}};
}

double loss_error(const LayerResult& result, const ExpectedLayer& expected) {
  return relative_error(std::span(&result.auxiliary_loss, 1),
                        std::span(&expected.forward.auxiliary_loss, 1));
}

Problem draw_problem(const ReferenceLayer& reference, bool biases, std::uint64_t seed) {
  const MoeLayer& layer = reference.layer;
  const std::int64_t experts = layer.num_experts, m = layer.model_dim, h = layer.hidden_dim;
  const std::int64_t w = layer.activation == Activation::SwiGlu ? 2 * h : h;
  const double narrow = 1 / std::sqrt(static_cast<double>(m));
  std::mt19937_64 random(seed);
  Problem problem{reference};
  problem.parameters = {draw(random, experts * m, narrow), draw(random, experts * m * w, narrow),
                        draw(random, biases ? experts * w : 0, 0.3),
                        draw(random, experts * h * m, narrow),
                        draw(random, biases ? experts * m : 0, 0.3)};
  problem.parameters.gate[0] += 2;
  if (experts > 5) problem.parameters.gate[static_cast<std::size_t>(5 * m)] = -30;
  const std::int64_t tokens = reference.num_ranks * layer.tokens_per_rank;
  problem.output_gradient = draw(random, tokens * m, 1);
  for (int attempt = 0; attempt < 100; ++attempt) {
    problem.input = draw(random, tokens * m, 1);
    // The first coordinate of every token is 1, so the first column of the gate skews the routing.
    for (std::size_t i = 0; i < problem.input.size(); i += static_cast<std::size_t>(m)) {
      problem.input[i] = 1;
    }
    double gap = 0;
    problem.experts = reference_routing(reference, problem.parameters, problem.input, &gap);
    if (gap > 1e-6 || experts == layer.top_k) return problem;
  }
  throw std::logic_error("no input without near ties");
}

}  // namespace pipemoe::test
