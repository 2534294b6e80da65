#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "kernels/device_common.cuh"
#include "kernels/device_routing.hpp"

namespace pipemoe::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kScoreThreads = 512;

std::int64_t tiles_of(const DeviceRouting& routing) {
  return (routing.tokens + kTileTokens - 1) / kTileTokens;
}
// Counts are kept per level. With a capacity there are top_k levels, because all first choices take
// slots before any second one. Dropless, a token's choices take slots together: one level.
std::int64_t levels_of(const DeviceRouting& routing) {
  return routing.dropless() ? 1 : routing.top_k;
}

__global__ void split_kernel(SplitGateWeight args) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t all = args.padded_experts * args.model_dim;
  if (i >= all) return;
  float rest = i < args.num_experts * args.model_dim ? args.weight[i] : 0;
  auto* parts = static_cast<__nv_bfloat16*>(args.parts);
#pragma unroll
  for (int part = 0; part < 3; ++part) {
    const __nv_bfloat16 rounded = __float2bfloat16_rn(rest);
    parts[part * all + i] = rounded;
    rest -= __bfloat162float(rounded);
  }
}

struct Candidate {
  float probability;
  int expert;
};

// Returns the winner of two. NaN wins only by a lower index, so the chosen experts are different.
__device__ Candidate better(Candidate a, Candidate b) {
  if (b.expert < 0) return a;
  if (a.expert < 0) return b;
  if (b.probability > a.probability) return b;
  if (a.probability > b.probability) return a;
  return a.expert < b.expert ? a : b;
}

// kLanes threads share a token. Each holds kValues experts: lane, lane + kLanes, ...
template <int kLanes, int kValues>
struct Token {
  float p[kValues];
  int lane;
  int num_experts;

  __device__ int expert(int i) const { return lane + i * kLanes; }
  template <class Op>
  __device__ float reduce(float x, Op op) const {
#pragma unroll
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
      x = op(x, __shfl_xor_sync(0xffffffffu, x, lanes, kLanes));
    }
    return x;
  }

  template <int kParts>
  __device__ void read_logits(const GateScores& args, std::int64_t token) {
    const float* logits = args.logits + token * kParts * args.padded_experts;
    float part[kParts][kValues];
#pragma unroll
    for (int i = 0; i < kParts * kValues; ++i) {
      const int e = expert(i % kValues);
      part[i / kValues][i % kValues] =
          e < num_experts ? logits[i / kValues * args.padded_experts + e] : 0;
    }
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      p[i] = part[kParts - 1][i];  // adds the small parts first
#pragma unroll
      for (int j = kParts - 2; j >= 0; --j) p[i] += part[j][i];
    }
  }
  __device__ void softmax() {
    float largest = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      if (expert(i) < num_experts) largest = fmaxf(largest, p[i]);
    }
    largest = reduce(largest, [](float a, float b) { return fmaxf(a, b); });
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      p[i] = expert(i) < num_experts ? expf(p[i] - largest) : 0;
      sum += p[i];
    }
    sum = reduce(sum, [](float a, float b) { return a + b; });
#pragma unroll
    for (int i = 0; i < kValues; ++i) p[i] /= sum;
  }
  // Returns the best expert that is not yet in `taken`, and adds it. `taken` has a bit for each of
  // this lane's experts.
  __device__ Candidate take_best(unsigned& taken) const {
    Candidate best{0, -1};
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const bool free = expert(i) < num_experts && !(taken >> i & 1u);
      if (free) best = better(best, {p[i], expert(i)});
    }
    best = best_of_lanes(best);
    if (best.expert >= 0 && best.expert % kLanes == lane) taken |= 1u << (best.expert / kLanes);
    return best;
  }
  __device__ Candidate best_of_lanes(Candidate best) const {
#if __CUDA_ARCH__ >= 800
    if constexpr (kLanes == 32) {  // probabilities order as their bits do; NaN counts as 0
      const unsigned bits = best.probability > 0 ? __float_as_uint(best.probability) : 0;
      const unsigned most = __reduce_max_sync(0xffffffffu, best.expert < 0 ? 0 : bits);
      const bool wins = best.expert >= 0 && bits == most;
      const unsigned expert =
          __reduce_min_sync(0xffffffffu, wins ? static_cast<unsigned>(best.expert) : 0x7fffffffu);
      return {__uint_as_float(most), static_cast<int>(expert)};
    } else {
      return best_by_shuffles(best);
    }
#else
    return best_by_shuffles(best);
#endif
  }
  __device__ Candidate best_by_shuffles(Candidate best) const {
#pragma unroll
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
      const Candidate other{__shfl_xor_sync(0xffffffffu, best.probability, lanes, kLanes),
                            __shfl_xor_sync(0xffffffffu, best.expert, lanes, kLanes)};
      best = better(best, other);
    }
    // With NaN the lanes may disagree, so take the first lane's result.
    return {__shfl_sync(0xffffffffu, best.probability, 0, kLanes),
            __shfl_sync(0xffffffffu, best.expert, 0, kLanes)};
  }
};

template <int kLanes, int kValues, int kParts>
__global__ void __launch_bounds__(kScoreThreads)
    scores_kernel(DeviceRouting routing, GateScores args, int levels, int tiles) {
  extern __shared__ std::int32_t counts[];  // [levels, num_experts]
  const int experts = static_cast<int>(routing.num_experts);
  const int top_k = static_cast<int>(routing.top_k);
  for (int i = static_cast<int>(threadIdx.x); i < levels * experts; i += kScoreThreads)
    counts[i] = 0;
  __syncthreads();
  Token<kLanes, kValues> of;
  of.lane = static_cast<int>(threadIdx.x) % kLanes;
  of.num_experts = experts;
  for (int i = static_cast<int>(threadIdx.x) / kLanes; i < kTileTokens;
       i += kScoreThreads / kLanes) {
    const std::int64_t token = std::int64_t{blockIdx.x} * kTileTokens + i;
    const bool real = token < routing.tokens;
    of.template read_logits<kParts>(args, real ? token : routing.tokens - 1);
    of.softmax();
    unsigned taken = 0;
    float sum = 0;
    float weights[(kMostChoices + kLanes - 1) / kLanes];  // lane j has choices j, j + kLanes, ...
    for (int choice = 0; choice < top_k; ++choice) {
      const Candidate best = of.take_best(taken);
      sum += best.probability;
#pragma unroll
      for (int round = 0; round < static_cast<int>(kMostChoices + kLanes - 1) / kLanes; ++round) {
        if (choice == of.lane + round * kLanes) weights[round] = best.probability;
      }
      if (real && of.lane == 0) {
        args.experts[token * top_k + choice] = best.expert;
        atomicAdd(&counts[(levels == 1 ? 0 : choice) * experts + best.expert], 1);
      }
    }
    if (!real) continue;
#pragma unroll
    for (int round = 0; round < static_cast<int>(kMostChoices + kLanes - 1) / kLanes; ++round) {
      const int choice = of.lane + round * kLanes;
      if (choice >= top_k) continue;
      args.combine_weights[token * top_k + choice] =
          weights[round] / (routing.renormalize ? sum : 1.0f);
    }
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      if (of.expert(v) < experts) args.probabilities[token * experts + of.expert(v)] = of.p[v];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < levels * experts; i += kScoreThreads) {
    const int level = i / experts, expert = i % experts;
    const std::int64_t tile = std::int64_t{level} * tiles + blockIdx.x;
    args.tile_counts[tile * experts + expert] = counts[i];
  }
}

// One block per expert; each thread takes kEach tile counts at a time.
__global__ void count_kernel(CountChoices args, int experts, int entries, float choices) {
  using Scan = cub::BlockScan<int, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  constexpr int kEach = 8;
  for (std::int64_t i = blockIdx.x * kThreads + threadIdx.x; i < args.zeroed_words;
       i += std::int64_t{gridDim.x} * kThreads) {
    args.zeroed[i] = 0;
  }
  std::int32_t* column = args.tile_counts + blockIdx.x;
  int before = 0;
  for (int base = 0; base < entries; base += kThreads * kEach) {
    const int begin = base + static_cast<int>(threadIdx.x) * kEach;
    int counts[kEach], total = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      counts[i] = begin + i < entries ? column[std::int64_t{begin + i} * experts] : 0;
    }
    Scan(storage).ExclusiveSum(counts, counts, total);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (begin + i < entries) column[std::int64_t{begin + i} * experts] = before + counts[i];
    }
    before += total;
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    args.counts[blockIdx.x] = before;
    args.load[blockIdx.x] = static_cast<float>(before) / choices;
  }
}

// Runs in one block.
__global__ void blocks_kernel(const std::int32_t* counts, int experts, int degree,
                              std::int32_t* begin) {
  using Scan = cub::BlockScan<int, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  const int blocks = experts * degree;
  const int each = (blocks + kThreads - 1) / kThreads;
  const int first = static_cast<int>(threadIdx.x) * each, last = min(first + each, blocks);
  const auto rows = [&](int i) {
    const int before = rows_before(counts[i % experts], degree, i / experts);
    return rows_before(counts[i % experts], degree, i / experts + 1) - before;
  };
  int sum = 0;
  for (int i = first; i < last; ++i) sum += rows(i);
  Scan(storage).ExclusiveSum(sum, sum);
  for (int i = first; i < last; ++i) {
    begin[i] = sum;
    sum += rows(i);
  }
}

constexpr int kPlaceWarps = 4;

// A warp takes the choices of one tile and level, 32 at a time and in order.
__global__ void __launch_bounds__(kPlaceWarps * 32)
    place_kernel(DeviceRouting routing, PlaceChoices args, int levels, int tiles) {
  extern __shared__ std::int32_t next_slots[];  // [kPlaceWarps, num_experts]
  const int experts = static_cast<int>(routing.num_experts);
  const int top_k = static_cast<int>(routing.top_k);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int entry = static_cast<int>(blockIdx.x) * kPlaceWarps + warp;
  if (entry >= levels * tiles) return;
  std::int32_t* next = next_slots + warp * experts;
  for (int e = lane; e < experts; e += 32) {
    next[e] = args.tile_counts[std::int64_t{entry} * experts + e];
  }
  __syncwarp();
  const int level = entry / tiles;
  const std::int64_t first_token = std::int64_t{entry % tiles} * kTileTokens;
  const int per_token = levels == 1 ? top_k : 1;
  const int count = static_cast<int>(kTileTokens) * per_token;
  for (int i = lane; i < count; i += 32) {  // count is a multiple of 32
    const std::int64_t token = first_token + i / per_token;
    const std::int64_t choice = token * top_k + (levels == 1 ? i % per_token : level);
    const bool real = token < routing.tokens;
    const int expert = real ? args.experts[choice] : -1;
    const unsigned same = __match_any_sync(0xffffffffu, expert);
    const int slot = real ? next[expert] + __popc(same & ((1u << lane) - 1)) : 0;
    __syncwarp();
    if (real && lane == __ffs(static_cast<int>(same)) - 1) next[expert] += __popc(same);
    __syncwarp();
    if (!real) continue;
    const bool kept = routing.capacity < 0 || slot < routing.capacity;
    const int rows =
        routing.capacity < 0 ? args.counts[expert] : static_cast<int>(routing.capacity);
    args.forward.row_of[choice] =
        kept ? row_of_slot(args.forward, experts, expert, slot, rows) : -1;
    if (args.backward.row_of != nullptr) {
      args.backward.row_of[choice] =
          kept ? row_of_slot(args.backward, experts, expert, slot, rows) : -1;
    }
  }
}

// Each block sums the load times the probabilities of some tokens.
__global__ void auxiliary_kernel(AuxiliaryLoss args, std::int64_t count, int experts) {
  using Reduce = cub::BlockReduce<float, kThreads>;
  __shared__ typename Reduce::TempStorage storage;
  float sum = 0;
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    sum += args.probabilities[i] * args.load[i % experts];
  }
  sum = Reduce(storage).Sum(sum);
  if (threadIdx.x == 0) args.partial[blockIdx.x] = sum;
}

__global__ void auxiliary_end_kernel(AuxiliaryLoss args, float factor) {
  using Reduce = cub::BlockReduce<float, kAuxiliaryParts>;
  __shared__ typename Reduce::TempStorage storage;
  const float sum = Reduce(storage).Sum(args.partial[threadIdx.x]);
  if (threadIdx.x == 0) *args.loss = sum * factor;
}

template <int kLanes, int kValues>
void launch_scores(const DeviceRouting& routing, const GateScores& args, cudaStream_t stream) {
  const int levels = static_cast<int>(levels_of(routing));
  const int tiles = static_cast<int>(tiles_of(routing));
  const auto shared = static_cast<std::size_t>(levels * routing.num_experts) * sizeof(std::int32_t);
  ensure(args.parts == 1 || args.parts == 3, "gate_scores: parts");
  const auto kernel =
      args.parts == 1 ? scores_kernel<kLanes, kValues, 1> : scores_kernel<kLanes, kValues, 3>;
  kernel<<<static_cast<unsigned>(tiles), kScoreThreads, shared, stream>>>(routing, args, levels,
                                                                          tiles);
}

}  // namespace

std::int64_t tile_counts_size(const DeviceRouting& routing) {
  return levels_of(routing) * tiles_of(routing) * routing.num_experts;
}

void split_gate_weight(const SplitGateWeight& args, cudaStream_t stream) {
  split_kernel<<<blocks_for(args.padded_experts * args.model_dim, kThreads), kThreads, 0, stream>>>(
      args);
  check(cudaGetLastError());
}

void gate_scores(const DeviceRouting& routing, const GateScores& args, cudaStream_t stream) {
  const std::int64_t experts = routing.num_experts;
  ensure(experts <= kMostExperts && routing.top_k <= kMostChoices, "gate_scores: size");
  if (experts <= 4) {
    launch_scores<4, 1>(routing, args, stream);
  } else if (experts <= 8) {
    launch_scores<8, 1>(routing, args, stream);
  } else if (experts <= 16) {
    launch_scores<16, 1>(routing, args, stream);
  } else if (experts <= 32) {
    launch_scores<32, 1>(routing, args, stream);
  } else if (experts <= 64) {
    launch_scores<32, 2>(routing, args, stream);
  } else if (experts <= 128) {
    launch_scores<32, 4>(routing, args, stream);
  } else {
    launch_scores<32, 16>(routing, args, stream);
  }
  check(cudaGetLastError());
}

void count_choices(const DeviceRouting& routing, const CountChoices& args, cudaStream_t stream) {
  count_kernel<<<static_cast<unsigned>(routing.num_experts), kThreads, 0, stream>>>(
      args, static_cast<int>(routing.num_experts),
      static_cast<int>(levels_of(routing) * tiles_of(routing)),
      static_cast<float>(routing.choices()));
  check(cudaGetLastError());
}

void place_blocks(const DeviceRouting& routing, const std::int32_t* counts, const RowMap& map,
                  cudaStream_t stream) {
  blocks_kernel<<<1, kThreads, 0, stream>>>(counts, static_cast<int>(routing.num_experts),
                                            static_cast<int>(map.degree), map.block_begin);
  check(cudaGetLastError());
}

void place_choices(const DeviceRouting& routing, const PlaceChoices& args, cudaStream_t stream) {
  const std::int64_t entries = levels_of(routing) * tiles_of(routing);
  const auto shared =
      static_cast<std::size_t>(kPlaceWarps * routing.num_experts) * sizeof(std::int32_t);
  place_kernel<<<blocks_for(entries, kPlaceWarps), kPlaceWarps * 32, shared, stream>>>(
      routing, args, static_cast<int>(levels_of(routing)), static_cast<int>(tiles_of(routing)));
  check(cudaGetLastError());
}

void auxiliary_loss(const DeviceRouting& routing, const AuxiliaryLoss& args, cudaStream_t stream) {
  auxiliary_kernel<<<kAuxiliaryParts, kThreads, 0, stream>>>(
      args, routing.tokens * routing.num_experts, static_cast<int>(routing.num_experts));
  check(cudaGetLastError());
  auxiliary_end_kernel<<<1, kAuxiliaryParts, 0, stream>>>(
      args, static_cast<float>(routing.num_experts) / static_cast<float>(routing.tokens));
  check(cudaGetLastError());
}

}  // namespace pipemoe::cuda
