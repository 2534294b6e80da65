#include "tests/kernels/cuda_support.hpp"

#include <memory>
#include <numeric>
#include <stdexcept>

namespace pipemoe::test {
namespace {

using namespace pipemoe::cuda;
using kernels::ReceivedRows;
using kernels::ReferenceLayer;

DeviceActivation device_activation(Activation activation) {
  switch (activation) {
    case Activation::Relu:
      return DeviceActivation::Relu;
    case Activation::Gelu:
      return DeviceActivation::Gelu;
    case Activation::SwiGlu:
      return DeviceActivation::SwiGlu;
  }
  throw std::logic_error("activation");
}

DeviceLayerShape shape_of(const Problem& problem, const DeviceRun& run, std::int64_t rank) {
  const ReferenceLayer& reference = problem.reference;
  const MoeLayer& layer = reference.layer;
  return {.tokens = layer.tokens_per_rank,
          .model_dim = layer.model_dim,
          .hidden_dim = layer.hidden_dim,
          .num_experts = layer.num_experts,
          .top_k = layer.top_k,
          .capacity = layer.capacity_factor ? layer.capacity() : -1,
          .num_ranks = reference.num_ranks,
          .element = run.element,
          .activation = device_activation(layer.activation),
          .biases = !problem.parameters.first_bias.empty(),
          .renormalize = reference.renormalize,
          .auxiliary_loss_weight = static_cast<float>(reference.auxiliary_loss_weight),
          .tf32 = run.tf32,
          .forward_degree = run.degrees.forward_degree,
          .backward_degree = run.degrees.backward_degree,
          .direct = run.direct,
          .search = run.search,
          .packs = run.packs,
          .keeps_own = run.keeps_own ? std::optional(rank) : std::nullopt,
          .exchanges_by_expert = run.exchanges_by_expert};
}

std::vector<float> part_of(const std::vector<double>& all, std::int64_t index, std::int64_t parts) {
  const auto size = static_cast<std::int64_t>(all.size()) / parts;
  return to_floats(std::span<const double>(all).subspan(static_cast<std::size_t>(index * size),
                                                        static_cast<std::size_t>(size)));
}

// One rank: its tensors and its layer.
struct Rank {
  Element element;
  DeviceBuffer input, output_gradient, output, input_gradient;
  DeviceBuffer gate, first, first_bias, second, second_bias;
  DeviceBuffer gate_to, first_to, first_bias_to, second_to, second_bias_to;
  std::unique_ptr<DeviceLayer> layer;

  Rank(const Problem& problem, const DeviceRun& run, std::int64_t rank) : element(run.element) {
    const std::int64_t ranks = problem.reference.num_ranks;
    const kernels::ReferenceParameters& all = problem.parameters;
    const auto upload = [&](const std::vector<double>& values) {
      return to_device(std::span<const float>(part_of(values, rank, ranks)), element);
    };
    const auto like = [](const DeviceBuffer& buffer) {
      return poisoned_device(static_cast<std::int64_t>(buffer.bytes()), 1);
    };
    input = upload(problem.input);
    output_gradient = upload(problem.output_gradient);
    gate = to_device(to_floats(all.gate));
    first = upload(all.first);
    first_bias = upload(all.first_bias);
    second = upload(all.second);
    second_bias = upload(all.second_bias);
    output = like(input), input_gradient = like(input), gate_to = like(gate);
    first_to = like(first), first_bias_to = like(first_bias);
    second_to = like(second), second_bias_to = like(second_bias);
    layer = std::make_unique<DeviceLayer>(
        shape_of(problem, run, rank),
        DeviceWeights{gate.as<float>(), first.data(), first_bias.data(), second.data(),
                      second_bias.data()},
        DeviceGradients{gate_to.as<float>(), first_to.data(), first_bias_to.data(),
                        second_to.data(), second_bias_to.data()},
        DeviceTokens{input.data(), output_gradient.data(), output.data(), input_gradient.data()});
  }
  std::vector<float> values(const DeviceBuffer& buffer) const {
    return floats_of(buffer.data(), static_cast<std::int64_t>(buffer.bytes()) / size_of(element),
                     element);
  }
};

struct World {
  std::vector<Rank> ranks;
  DeviceRun run;
  cuda::Stream stream;

  World(const Problem& problem, const DeviceRun& how) : run(how) {
    for (std::int64_t r = 0; r < problem.reference.num_ranks; ++r)
      ranks.emplace_back(problem, how, r);
  }

  void gate() {
    for (Rank& rank : ranks) rank.layer->gate(stream);
  }
  // Exchanges the row counts of a dropless layer.
  void place_rows() {
    std::vector<std::vector<std::int64_t>> sent;
    for (Rank& rank : ranks) sent.push_back(rank.layer->read_counts(stream));
    const auto count = static_cast<std::int64_t>(ranks.size());
    const auto local = static_cast<std::int64_t>(sent[0].size()) / count;
    for (std::int64_t r = 0; r < count; ++r) {
      std::vector<std::int64_t> rows;
      for (const auto& from : sent) {
        rows.insert(rows.end(), from.begin() + r * local, from.begin() + (r + 1) * local);
      }
      ranks[static_cast<std::size_t>(r)].layer->place_rows(
          sent[static_cast<std::size_t>(r)], ReceivedRows(count, local, std::move(rows)), stream);
    }
  }
  template <class Exchange>
  void exchange(Exchange exchange_of) {
    if (run.direct) return;
    std::vector<DeviceExchange> all;
    for (Rank& rank : ranks) all.push_back(exchange_of(*rank.layer));
    if (all[0].blocks) return exchange_blocks(all);
    for (std::size_t to = 0; to < all.size(); ++to) {
      std::int64_t received = 0;
      for (std::size_t from = 0; from < all.size(); ++from) {
        const auto& sizes = all[from].send_bytes;
        const std::int64_t begin = std::accumulate(
            sizes.begin(), sizes.begin() + static_cast<std::ptrdiff_t>(to), std::int64_t{0});
        if (sizes[to] != all[to].receive_bytes[from]) throw std::logic_error("exchange: sizes");
        if (sizes[to] > 0 && static_cast<std::int64_t>(from) != all[to].kept) {
          check(cudaMemcpyAsync(all[to].receive + received, all[from].send + begin,
                                static_cast<std::size_t>(sizes[to]), cudaMemcpyDeviceToDevice,
                                stream));
        }
        received += sizes[to];
      }
    }
  }
  // An exchange by expert, block by block.
  void exchange_blocks(const std::vector<DeviceExchange>& all) {
    const auto count = static_cast<std::int64_t>(all.size());
    for (std::int64_t from = 0; from < count; ++from) {
      const DeviceExchange& source = all[static_cast<std::size_t>(from)];
      for (std::int64_t to = 0; to < count; ++to) {
        if (to == from && source.kept) continue;
        const DeviceExchange& target = all[static_cast<std::size_t>(to)];
        for (const ExchangeCopy& copy : source.copies(from, to)) {
          for (std::int64_t i = 0; i < copy.blocks; ++i) {
            check(cudaMemcpyAsync(target.receive + copy.to + i * copy.to_pitch,
                                  source.send + copy.from + i * copy.from_pitch,
                                  static_cast<std::size_t>(copy.bytes), cudaMemcpyDeviceToDevice,
                                  stream));
          }
        }
      }
    }
  }
  void rest() {
    for (Rank& rank : ranks) rank.layer->permute(stream);
    for (std::int64_t c = 0; c < run.degrees.forward_degree; ++c) {
      exchange([&](const DeviceLayer& l) { return l.dispatch(Pass::Forward, c); });
      for (Rank& rank : ranks) rank.layer->expert_forward(c, stream);
      exchange([&](const DeviceLayer& l) { return l.combine_exchange(Pass::Forward, c); });
    }
    for (Rank& rank : ranks) rank.layer->combine(stream);
    for (Rank& rank : ranks) rank.layer->combine_backward(stream);
    for (std::int64_t c = 0; c < run.degrees.backward_degree; ++c) {
      exchange([&](const DeviceLayer& l) { return l.dispatch(Pass::Backward, c); });
      for (Rank& rank : ranks) rank.layer->expert_input_gradient(c, stream);
      exchange([&](const DeviceLayer& l) { return l.combine_exchange(Pass::Backward, c); });
      for (Rank& rank : ranks) rank.layer->expert_weight_gradient(c, c > 0, stream);
    }
    for (Rank& rank : ranks) {
      rank.layer->gate_input_gradient(stream);
      rank.layer->gate_weight_gradient(stream);
      rank.layer->permute_backward(stream);
    }
  }
  LayerResult result() const;
};

template <class T>
void append(std::vector<T>& all, const std::vector<T>& part) {
  all.insert(all.end(), part.begin(), part.end());
}

LayerResult World::result() const {
  LayerResult all;
  for (const Rank& rank : ranks) {
    const DeviceLayerShape& shape = rank.layer->shape();
    append(all.experts, to_host<std::int32_t>(rank.layer->experts(), shape.routing().choices()));
    append(all.combine_weights,
           to_host<float>(rank.layer->combine_weights(), shape.routing().choices()));
    if (shape.auxiliary_loss_weight != 0) {
      all.auxiliary_loss += to_host<float>(rank.layer->auxiliary_loss(), 1)[0];
    }
    append(all.output, rank.values(rank.output));
    append(all.input_gradient, rank.values(rank.input_gradient));
    const auto gate = to_host<float>(rank.gate_to.data(), shape.num_experts * shape.model_dim);
    all.gate.resize(gate.size());
    for (std::size_t i = 0; i < gate.size(); ++i) all.gate[i] += gate[i];
    append(all.first, rank.values(rank.first_to));
    append(all.first_bias, rank.values(rank.first_bias_to));
    append(all.second, rank.values(rank.second_to));
    append(all.second_bias, rank.values(rank.second_bias_to));
  }
  return all;
}

}  // namespace

LayerResult run_device_layer(const Problem& problem, const DeviceRun& run) {
  World world(problem, run);
  if (run.graph) {
    const Graph graph = Graph::capture(world.stream, [&] {
      world.gate();
      world.rest();
    });
    for (int replay = 0; replay < 2; ++replay) {
      for (Rank& rank : world.ranks) rank.layer->poison(world.stream);
      graph.launch(world.stream);
    }
    world.stream.synchronize();
    return world.result();
  }
  for (Rank& rank : world.ranks) rank.layer->poison(world.stream);
  world.gate();
  if (!problem.reference.layer.capacity_factor) world.place_rows();
  world.rest();
  world.stream.synchronize();
  return world.result();
}

Problem draw_device_problem(const ReferenceLayer& reference, bool biases, std::uint64_t seed,
                            Element element) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    Problem problem =
        draw_problem(reference, biases, seed + 1000003u * static_cast<std::uint64_t>(attempt));
    const auto round = [&](std::vector<double>& values) {
      for (double& value : values) {
        value = static_cast<double>(rounded(static_cast<float>(value), element));
      }
    };
    round(problem.input), round(problem.output_gradient);
    round(problem.parameters.first), round(problem.parameters.first_bias);
    round(problem.parameters.second), round(problem.parameters.second_bias);
    double gap = 0;
    problem.experts =
        kernels::reference_routing(reference, problem.parameters, problem.input, &gap);
    if (gap > 1e-6 || reference.layer.num_experts == reference.layer.top_k) return problem;
  }
  throw std::logic_error("no input without near ties");
}

}  // namespace pipemoe::test
