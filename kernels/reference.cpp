#include "kernels/reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

namespace pipemoe::kernels {
namespace {

using Doubles = std::vector<double>;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

// The layer's sizes, under the short names that formulas use.
struct Sizes {
  std::int64_t ranks, tokens, k, experts, m, h, w;

  explicit Sizes(const ReferenceLayer& reference)
      : ranks(reference.num_ranks),
        tokens(reference.layer.tokens_per_rank),
        k(reference.layer.top_k),
        experts(reference.layer.num_experts),
        m(reference.layer.model_dim),
        h(reference.layer.hidden_dim),
        w(reference.layer.activation == Activation::SwiGlu ? 2 * h : h) {}
  std::int64_t all_tokens() const { return ranks * tokens; }
};

Doubles probabilities_of(const Sizes& s, const ReferenceParameters& parameters, const double* x) {
  Doubles p(at(s.experts));
  for (std::int64_t e = 0; e < s.experts; ++e) {
    for (std::int64_t i = 0; i < s.m; ++i) p[at(e)] += parameters.gate[at(e * s.m + i)] * x[i];
  }
  const double largest = *std::max_element(p.begin(), p.end());
  for (double& value : p) value = std::exp(value - largest);
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

double divisor(const ReferenceLayer& reference, const Doubles& p, const std::int32_t* experts) {
  if (!reference.renormalize) return 1;
  double sum = 0;
  for (std::int64_t j = 0; j < reference.layer.top_k; ++j) sum += p[at(experts[j])];
  return sum;
}

// Returns for each choice whether it is kept. Each rank fills its own capacity, with first choices
// before second ones.
std::vector<bool> kept_choices(const ReferenceLayer& reference,
                               std::span<const std::int32_t> experts) {
  const Sizes s(reference);
  std::vector<bool> kept(at(s.all_tokens() * s.k), true);
  if (!reference.layer.capacity_factor) return kept;
  for (std::int64_t rank = 0; rank < s.ranks; ++rank) {
    std::vector<std::int64_t> used(at(s.experts));
    for (std::int64_t j = 0; j < s.k; ++j) {
      for (std::int64_t t = rank * s.tokens; t < (rank + 1) * s.tokens; ++t) {
        std::int64_t& count = used[at(experts[at(t * s.k + j)])];
        kept[at(t * s.k + j)] = ++count <= reference.layer.capacity();
      }
    }
  }
  return kept;
}

Doubles loads(const Sizes& s, std::span<const std::int32_t> experts, std::int64_t rank) {
  Doubles load(at(s.experts));
  for (std::int64_t i = rank * s.tokens * s.k; i < (rank + 1) * s.tokens * s.k; ++i) {
    load[at(experts[at(i)])] += 1.0 / static_cast<double>(s.tokens * s.k);
  }
  return load;
}

double exact_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double activated(Activation activation, const Doubles& a, std::int64_t i, std::int64_t h) {
  const double x = a[at(i)];
  switch (activation) {
    case Activation::Relu:
      return std::max(x, 0.0);
    case Activation::Gelu:
      return x * std::erfc(-x / std::numbers::sqrt2) / 2;
    case Activation::SwiGlu:
      return x * exact_sigmoid(x) * a[at(h + i)];
  }
  return std::numeric_limits<double>::quiet_NaN();
}

// Adds gradient * d activated(i) / d a to `to`.
void activated_backward(Activation activation, const Doubles& a, std::int64_t i, std::int64_t h,
                        double gradient, Doubles& to) {
  const double x = a[at(i)], s = exact_sigmoid(x);
  switch (activation) {
    case Activation::Relu:
      to[at(i)] += x > 0 ? gradient : 0;
      return;
    case Activation::Gelu:
      to[at(i)] += gradient * (std::erfc(-x / std::numbers::sqrt2) / 2 +
                               x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi));
      return;
    case Activation::SwiGlu:
      to[at(i)] += gradient * a[at(h + i)] * s * (1 + x * (1 - s));
      to[at(h + i)] += gradient * x * s;
      return;
  }
}

struct ExpertValues {
  Doubles a;       // before the activation
  Doubles hidden;  // after it
  Doubles y;
};

ExpertValues expert_values(const ReferenceLayer& reference, const ReferenceParameters& parameters,
                           std::int64_t e, const double* x) {
  const Sizes s(reference);
  ExpertValues v{Doubles(at(s.w)), Doubles(at(s.h)), Doubles(at(s.m))};
  for (std::int64_t n = 0; n < s.w; ++n) {
    if (!parameters.first_bias.empty()) v.a[at(n)] = parameters.first_bias[at(e * s.w + n)];
    for (std::int64_t i = 0; i < s.m; ++i) {
      v.a[at(n)] += x[i] * parameters.first[at((e * s.m + i) * s.w + n)];
    }
  }
  for (std::int64_t n = 0; n < s.h; ++n) {
    v.hidden[at(n)] = activated(reference.layer.activation, v.a, n, s.h);
  }
  for (std::int64_t i = 0; i < s.m; ++i) {
    if (!parameters.second_bias.empty()) v.y[at(i)] = parameters.second_bias[at(e * s.m + i)];
    for (std::int64_t n = 0; n < s.h; ++n) {
      v.y[at(i)] += v.hidden[at(n)] * parameters.second[at((e * s.h + n) * s.m + i)];
    }
  }
  return v;
}

// Adds to the gradients of expert e's parameters (`to`) and of x (`dx`), given dy.
void expert_backward(const ReferenceLayer& reference, const ReferenceParameters& parameters,
                     std::int64_t e, const double* x, const ExpertValues& v, const Doubles& dy,
                     ReferenceParameters& to, double* dx) {
  const Sizes s(reference);
  Doubles da(at(s.w));
  for (std::int64_t n = 0; n < s.h; ++n) {
    double dh = 0;
    for (std::int64_t i = 0; i < s.m; ++i) {
      const std::size_t weight = at((e * s.h + n) * s.m + i);
      dh += dy[at(i)] * parameters.second[weight];
      to.second[weight] += dy[at(i)] * v.hidden[at(n)];
    }
    activated_backward(reference.layer.activation, v.a, n, s.h, dh, da);
  }
  for (std::int64_t i = 0; i < s.m; ++i) {
    if (!to.second_bias.empty()) to.second_bias[at(e * s.m + i)] += dy[at(i)];
    for (std::int64_t n = 0; n < s.w; ++n) {
      const std::size_t weight = at((e * s.m + i) * s.w + n);
      dx[i] += da[at(n)] * parameters.first[weight];
      to.first[weight] += da[at(n)] * x[i];
    }
  }
  for (std::int64_t n = 0; n < s.w && !to.first_bias.empty(); ++n) {
    to.first_bias[at(e * s.w + n)] += da[at(n)];
  }
}

// Adds to the gradients of the gate (`to`) and of x (`dx`), given that of a token's probabilities.
void gate_backward_of(const Sizes& s, const ReferenceParameters& parameters, const Doubles& p,
                      const Doubles& dp, const double* x, Doubles& to, double* dx) {
  const double mean = std::inner_product(p.begin(), p.end(), dp.begin(), 0.0);
  for (std::int64_t e = 0; e < s.experts; ++e) {
    const double dlogit = p[at(e)] * (dp[at(e)] - mean);
    for (std::int64_t i = 0; i < s.m; ++i) {
      to[at(e * s.m + i)] += dlogit * x[i];
      dx[i] += dlogit * parameters.gate[at(e * s.m + i)];
    }
  }
}

ReferenceParameters zeros_like(const ReferenceParameters& parameters) {
  return {Doubles(parameters.gate.size()), Doubles(parameters.first.size()),
          Doubles(parameters.first_bias.size()), Doubles(parameters.second.size()),
          Doubles(parameters.second_bias.size())};
}

// Adds to dp. Renormalised, w_j = p_j / S, so dw_j/dp_i = (i == j) / S - p_j / S^2 for chosen i.
void weights_backward(const ReferenceLayer& reference, const Doubles& p,
                      const std::int32_t* experts, const Doubles& dw, Doubles& dp) {
  const double sum = divisor(reference, p, experts);
  for (std::int64_t j = 0; j < reference.layer.top_k; ++j) {
    dp[at(experts[j])] += dw[at(j)] / sum;
    for (std::int64_t i = 0; i < reference.layer.top_k && reference.renormalize; ++i) {
      dp[at(experts[i])] -= dw[at(j)] * p[at(experts[j])] / (sum * sum);
    }
  }
}

}  // namespace

std::vector<std::int32_t> reference_routing(const ReferenceLayer& reference,
                                            const ReferenceParameters& parameters,
                                            std::span<const double> input, double* gap) {
  const Sizes s(reference);
  std::vector<std::int32_t> experts;
  if (gap != nullptr) *gap = 1;
  for (std::int64_t t = 0; t < s.all_tokens(); ++t) {
    const Doubles p = probabilities_of(s, parameters, input.data() + t * s.m);
    std::vector<std::int32_t> order(at(s.experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int32_t a, std::int32_t b) { return p[at(a)] > p[at(b)]; });
    experts.insert(experts.end(), order.begin(), order.begin() + s.k);
    for (std::int64_t j = 0; j < s.k && j + 1 < s.experts && gap != nullptr; ++j) {
      *gap = std::min(*gap, p[at(order[at(j)])] - p[at(order[at(j + 1)])]);
    }
  }
  return experts;
}

ReferenceForward reference_forward(const ReferenceLayer& reference,
                                   const ReferenceParameters& parameters,
                                   std::span<const double> input,
                                   std::span<const std::int32_t> experts) {
  const Sizes s(reference);
  const std::vector<bool> kept = kept_choices(reference, experts);
  ReferenceForward result{Doubles(at(s.all_tokens() * s.m)), Doubles(at(s.all_tokens() * s.k))};
  for (std::int64_t t = 0; t < s.all_tokens(); ++t) {
    const double* x = input.data() + t * s.m;
    const std::int32_t* chosen = experts.data() + t * s.k;
    const Doubles p = probabilities_of(s, parameters, x);
    const Doubles load = loads(s, experts, t / s.tokens);
    result.auxiliary_loss += static_cast<double>(s.experts) / static_cast<double>(s.tokens) *
                             std::inner_product(p.begin(), p.end(), load.begin(), 0.0);
    for (std::int64_t j = 0; j < s.k; ++j) {
      const double weight = p[at(chosen[j])] / divisor(reference, p, chosen);
      result.combine_weights[at(t * s.k + j)] = weight;
      if (!kept[at(t * s.k + j)]) continue;
      const ExpertValues v = expert_values(reference, parameters, chosen[j], x);
      for (std::int64_t i = 0; i < s.m; ++i) result.output[at(t * s.m + i)] += weight * v.y[at(i)];
    }
  }
  return result;
}

ReferenceBackward reference_backward(const ReferenceLayer& reference,
                                     const ReferenceParameters& parameters,
                                     std::span<const double> input,
                                     std::span<const std::int32_t> experts,
                                     std::span<const double> output_gradient) {
  const Sizes s(reference);
  const std::vector<bool> kept = kept_choices(reference, experts);
  ReferenceBackward result{Doubles(at(s.all_tokens() * s.m)), zeros_like(parameters)};
  for (std::int64_t t = 0; t < s.all_tokens(); ++t) {
    const double *x = input.data() + t * s.m, *g = output_gradient.data() + t * s.m;
    double* dx = result.input.data() + t * s.m;
    const std::int32_t* chosen = experts.data() + t * s.k;
    const Doubles p = probabilities_of(s, parameters, x);
    Doubles dp = loads(s, experts, t / s.tokens);
    for (double& value : dp) {
      value *= reference.auxiliary_loss_weight * static_cast<double>(s.experts) /
               static_cast<double>(s.tokens);
    }
    Doubles dw(at(s.k));
    for (std::int64_t j = 0; j < s.k; ++j) {
      if (!kept[at(t * s.k + j)]) continue;
      const ExpertValues v = expert_values(reference, parameters, chosen[j], x);
      dw[at(j)] = std::inner_product(v.y.begin(), v.y.end(), g, 0.0);
      Doubles dy(g, g + s.m);
      for (double& value : dy) value *= p[at(chosen[j])] / divisor(reference, p, chosen);
      expert_backward(reference, parameters, chosen[j], x, v, dy, result.parameters, dx);
    }
    weights_backward(reference, p, chosen, dw, dp);
    gate_backward_of(s, parameters, p, dp, x, result.parameters.gate, dx);
  }
  return result;
}

}  // namespace pipemoe::kernels
