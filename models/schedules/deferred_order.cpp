#include "models/schedules/deferred_order.hpp"

#include <algorithm>

namespace pipemoe::schedules {
namespace {

// Never idle while anything is ready: the next input gradient when its rows are there, else the
// next weight gradient.
DeferredOrder greedy(const std::vector<DeferredChunk>& chunks) {
  DeferredOrder order;
  std::size_t inputs = 0, weights = 0;
  Seconds now{}, arrival = chunks[0].exchange;  // of the next chunk's rows
  while (weights < chunks.size()) {
    const bool arrived = inputs < chunks.size() && arrival <= now;
    if (!arrived && weights < inputs) {
      now += chunks[weights].weight_gradient;
      order.push_back({weights++, true});
    } else {
      now = std::max(now, arrival) + chunks[inputs].input_gradient;
      order.push_back({inputs++, false});
      if (inputs < chunks.size()) arrival += chunks[inputs].exchange;
    }
  }
  return order;
}

DeferredOrder weights_last(std::size_t chunks) {
  DeferredOrder order;
  for (std::size_t i = 0; i < chunks; ++i) order.push_back({i, false});
  for (std::size_t i = 0; i < chunks; ++i) order.push_back({i, true});
  return order;
}

}  // namespace

Seconds deferred_makespan(const std::vector<DeferredChunk>& chunks, const DeferredOrder& order) {
  std::vector<Seconds> arrived, computed(chunks.size());
  Seconds communication{};
  for (const DeferredChunk& chunk : chunks) {
    arrived.push_back(communication += chunk.exchange);
  }
  Seconds compute{};
  for (const auto& [chunk, weight_gradient] : order) {
    if (weight_gradient) {
      compute += chunks[chunk].weight_gradient;
    } else {
      compute = std::max(compute, arrived[chunk]) + chunks[chunk].input_gradient;
      computed[chunk] = compute;
    }
  }
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    communication = std::max(communication, computed[i]) + chunks[i].exchange;
  }
  return std::max(communication, compute);
}

DeferredOrder deferred_order(const std::vector<DeferredChunk>& chunks) {
  DeferredOrder filled = greedy(chunks), last = weights_last(chunks.size());
  const bool better = deferred_makespan(chunks, filled) <= deferred_makespan(chunks, last);
  return better ? filled : last;
}

Seconds deferred_lower_bound(const std::vector<DeferredChunk>& chunks) {
  Seconds communication{}, inputs{}, compute{};
  for (const DeferredChunk& chunk : chunks) {
    communication += 2 * chunk.exchange;
    inputs += chunk.input_gradient;
    compute += chunk.input_gradient + chunk.weight_gradient;
  }
  return std::max({communication, chunks.front().exchange + compute,
                   chunks.front().exchange + inputs + chunks.back().exchange});
}

}  // namespace pipemoe::schedules
