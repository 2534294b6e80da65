#include "kernels/device_layer.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "kernels/device_layer_state.hpp"

namespace pipemoe::cuda {
namespace {

using kernels::ReceivedRows;

std::vector<std::int64_t> capacity_rows(const DeviceLayerShape& shape) {
  return std::vector<std::int64_t>(static_cast<std::size_t>(shape.num_experts), shape.capacity);
}

ReceivedRows capacity_received(const DeviceLayerShape& shape) {
  const auto blocks = static_cast<std::size_t>(shape.num_ranks * shape.local_experts());
  return {shape.num_ranks, shape.local_experts(),
          std::vector<std::int64_t>(blocks, shape.capacity)};
}

void check_width(const char* name, std::int64_t width, Element element) {
  const std::int64_t unit = kUnitBytes / size_of(element);
  if (width > 0 && width % unit == 0) return;
  throw InputError(fmt::format("{} is {}, must be a multiple of {} for {} on a GPU", name, width,
                               unit, element == Element::Fp32 ? "fp32" : "bf16"));
}

void check_range(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value >= least && value <= most) return;
  throw InputError(fmt::format("{} is {}, must be {}..{} on a GPU", name, value, least, most));
}

std::int64_t divided_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

void check_runs_here(const DeviceLayerShape& shape) { check_runs_on(shape, current_device()); }

void check_runs_on(const DeviceLayerShape& shape, const Device& device) {
  check_width("model_dim", shape.model_dim, shape.element);
  check_width("hidden_dim", shape.hidden_dim, shape.element);
  check_range("num_experts", shape.num_experts, 1, kMostExperts);
  check_range("top_k", shape.top_k, 1, std::min(kMostChoices, shape.num_experts));
  check_range("tokens_per_rank", shape.tokens, 1, (std::int64_t{1} << 31) / kMostChoices);
  if (shape.num_experts % shape.num_ranks != 0) {
    throw InputError(fmt::format("num_experts is {}, must be a multiple of the {} ranks",
                                 shape.num_experts, shape.num_ranks));
  }
  ensure(!shape.direct || shape.num_ranks == 1, "device layer: direct needs one rank");
  ensure(!shape.keeps_own || (shape.num_ranks > 1 && shape.capacity >= 0),
         "device layer: keeps_own needs several ranks and a capacity");
  ensure(!shape.exchanges_by_expert || shape.capacity >= 0,
         "device layer: exchanges_by_expert needs a capacity");
  if (shape.element == Element::Bf16 && !device.has_bf16()) {
    throw InputError(fmt::format("dtype is bf16, which {} (compute capability {}.{}) lacks: fp32",
                                 device.name, device.major, device.minor));
  }
}

DeviceLayer::State::State(const DeviceLayerShape& of, const DeviceWeights& with,
                          const DeviceGradients& to, const DeviceTokens& on,
                          DeviceAllocator exchanged)
    : shape(of),
      weights(with),
      gradients(to),
      tokens(on),
      matmuls(of.capacity < 0 ? Search::Heuristic : of.search),  // dropless shapes are always new
      exchanged_allocator(std::move(exchanged)) {
  const bool bf16 = shape.element == Element::Bf16;
  padded_experts = bf16 ? divided_up(shape.num_experts, 8) * 8 : shape.num_experts;
  gate_parts = bf16 ? 3 : 1;
  packs = received_order(shape) == ReceivedOrder::Packed;
  two_maps = !shape.direct && shape.forward_degree != shape.backward_degree;
  regroups = two_maps && !is_expert_major(shape);
  // What the library can fuse depends on types and strides, not on the number of rows.
  fusion = choose_fusion(
      shape, {.experts = shape.capacity < 0 ? 1 : shape.local_experts(), .rows = 64, .stride = 64},
      matmuls);
  products = ExpertProducts(shape, fusion);
  if (shape.capacity >= 0) {
    placement = place(shape, capacity_rows(shape), capacity_received(shape));
  }
  allocate_gate();
  if (shape.capacity >= 0) {
    const Stream stream;
    write_blocks();
    allocate_rows();
    upload_moves(stream);
    stream.synchronize();
  }
  prepare_products();
}

void DeviceLayer::State::need(const char* name, std::int64_t bytes,
                              const DeviceAllocator& allocator) {
  DeviceBuffer& buffer = buffers[name];
  if (static_cast<std::int64_t>(buffer.bytes()) >= bytes) return;
  buffer = DeviceBuffer();
  const auto size = static_cast<std::size_t>(bytes);
  buffer = allocator ? allocator(size) : DeviceBuffer(size);
}

const DeviceBuffer& DeviceLayer::State::buffer(const char* name) const {
  const auto found = buffers.find(name);
  ensure(found != buffers.end(), name);
  return found->second;
}

void DeviceLayer::State::allocate_gate() {
  const std::int64_t choices = shape.routing().choices(), element = size_of(shape.element);
  need("logits", shape.tokens * gate_parts * padded_experts * 4);
  need("probabilities", shape.tokens * shape.num_experts * 4);
  need("experts", choices * 4);
  need("combine_weights", choices * 4);
  need("tile_counts", tile_counts_size(shape.routing()) * 4);
  need("counts", shape.num_experts * 4);
  need("load", shape.num_experts * 4);
  need("logit_gradient", shape.tokens * padded_experts * element);
  need("gate_input_gradient", shape.tokens * shape.model_dim * element);
  if (sums_tokens()) need("expert_weights", shape.tokens * padded_experts * element);
  if (shape.num_experts <= kFewExperts) need("token_sums", sum_tokens_scratch(token_sums()) * 4);
  if (gate_parts > 1) need("gate_split", gate_parts * padded_experts * shape.model_dim * 2);
  if (shape.auxiliary_loss_weight != 0) {
    need("loss", 4);
    need("loss_parts", kAuxiliaryParts * 4);
  }
  need("forward_blocks", map_blocks(shape.forward_degree) * shape.num_experts * 4);
  need("forward_row_of", choices * 4);
  if (two_maps) {
    need("backward_blocks", map_blocks(shape.backward_degree) * shape.num_experts * 4);
    need("backward_row_of", choices * 4);
  }
  staged = PinnedBuffer(static_cast<std::size_t>(shape.num_experts * 4));
}

void DeviceLayer::State::write_blocks() {
  const auto write = [&](const char* name, const std::vector<ChunkPlacement>& chunks) {
    const std::vector<std::int32_t> begins = capacity_blocks(shape, placement, chunks);
    copy_to_device(at(name), begins.data(), begins.size() * 4);
  };
  write("forward_blocks", placement.forward);
  if (!two_maps) return;
  write("backward_blocks", placement.backward);
  if (!placement.expert_major) return;
  const std::vector<std::int64_t>& bounds = placement.expert_major->bounds();
  const std::vector<std::int32_t> narrow(bounds.begin(), bounds.end());
  need("bounds", static_cast<std::int64_t>(narrow.size()) * 4);
  copy_to_device(at("bounds"), narrow.data(), narrow.size() * 4);
}

void DeviceLayer::State::allocate_rows() {
  const std::int64_t rows = placement.received_rows, element = size_of(shape.element);
  const std::int64_t model = rows * shape.model_dim * element;
  const std::int64_t hidden = rows * shape.hidden_dim * element;
  const std::int64_t first = rows * shape.first_width() * element;
  const DeviceAllocator& exchanged = exchanged_allocator;
  const DeviceAllocator packed = packs ? DeviceAllocator() : exchanged;
  need("input", model, packed);
  need("hidden", hidden);
  need("output", model, packed);  // also holds the gradient of the input
  need("output_gradient", model, packed);
  need("first_gradient", first);
  if (gelu_or_swiglu()) need("first", first);
  if (shape.activation == DeviceActivation::SwiGlu) need("hidden_gradient", hidden);
  if (!shape.direct) {
    need("sent", placement.sent_rows * shape.model_dim * element, exchanged);
    need("back", placement.sent_rows * shape.model_dim * element, exchanged);
  }
  if (packs) {
    need("received", model, exchanged);
    need("returned", model, exchanged);
  }
  if (regroups) {
    need("input_regrouped", model);
    need("hidden_regrouped", hidden);
    if (gelu_or_swiglu()) need("first_regrouped", first);
  }
  if (shape.biases) need("first_bias_sums", placement.first_bias_sums * 4);
  std::int64_t sums = 0;
  for (const ChunkPlacement& chunk : placement.backward) {
    for (const ExpertGroup& group : chunk.groups) {
      sums = std::max(
          sums, partial_sums_size({.experts = group.experts, .rows = group.rows}, shape.model_dim));
    }
  }
  if (shape.biases && !sums_tokens()) need("second_bias_sums", sums * 4);
  need("moves", static_cast<std::int64_t>(placement.moves.size() * sizeof(RowMove)));
}

void DeviceLayer::State::upload_moves(cudaStream_t stream) {
  const std::size_t table = placement.moves.size() * sizeof(RowMove);
  const auto counts = static_cast<std::size_t>(shape.num_experts * 4);
  if (staged.bytes() < counts + 64 + table) staged = PinnedBuffer(2 * (counts + 64 + table));
  if (table == 0) return;
  std::byte* from = staged.data() + (counts + 63) / 64 * 64;
  std::copy_n(reinterpret_cast<const std::byte*>(placement.moves.data()), table, from);
  check(cudaMemcpyAsync(at("moves"), from, table, cudaMemcpyHostToDevice, stream));
}

void DeviceLayer::State::prepare_products() {
  const auto each_group = [](const std::vector<ChunkPlacement>& chunks, auto visit) {
    for (const ChunkPlacement& chunk : chunks) {
      for (const ExpertGroup& group : chunk.groups) {
        if (group.rows > 0) visit(group);
      }
    }
  };
  if (shape.search != Search::Timed) return;
  std::size_t zeroed_bytes = 0;
  const auto prepare = [&](const Matmul& product) {
    matmuls.prepare(product);
    zeroed_bytes += ZeroedWorkspaces::size_of(matmuls.workspace_bytes(product));
  };
  each_group(placement.forward, [&](const ExpertGroup& group) {
    prepare(products.first(group));
    prepare(products.second(group));
  });
  each_group(placement.backward, [&](const ExpertGroup& group) {
    prepare(products.hidden_gradient(group));
    prepare(products.input_gradient(group));
    for (const bool accumulate : {false, true}) {
      if (group.continues ? !accumulate : accumulate && shape.backward_degree == 1) continue;
      prepare(products.first_weight(group, accumulate));
      prepare(products.second_weight(group, accumulate));
    }
  });
  zeroed = ZeroedWorkspaces(zeroed_bytes);
}

DeviceRows DeviceLayer::State::rows() const {
  return {shape.routing(), shape.model_dim, shape.element, at<std::int32_t>("counts")};
}

std::int64_t DeviceLayer::State::map_blocks(std::int64_t degree) const {
  if (placement.expert_major) return placement.expert_major->segments();
  return shape.direct ? 1 : degree;
}

RowMap DeviceLayer::State::map(Pass pass) const {
  const bool segments = two_maps && placement.expert_major;
  const std::int32_t* bounds = segments ? at<std::int32_t>("bounds") : nullptr;
  if (pass == Pass::Backward && two_maps) {
    return {map_blocks(shape.backward_degree), at<std::int32_t>("backward_blocks"),
            at<std::int32_t>("backward_row_of"), bounds};
  }
  return {map_blocks(shape.forward_degree), at<std::int32_t>("forward_blocks"),
          at<std::int32_t>("forward_row_of"), bounds};
}

const ChunkPlacement& DeviceLayer::State::chunk(Pass pass, std::int64_t index) const {
  const auto& chunks = pass == Pass::Forward ? placement.forward : placement.backward;
  ensure(index >= 0 && index < static_cast<std::int64_t>(chunks.size()),
         "device layer: chunk out of range");
  return chunks[static_cast<std::size_t>(index)];
}

void DeviceLayer::State::note(const char* name, double flops, double bytes,
                              cudaStream_t stream) const {
  if (observer) observer({name, flops, bytes, stream});
}

DeviceLayer::DeviceLayer(const DeviceLayerShape& shape, const DeviceWeights& weights,
                         const DeviceGradients& gradients, const DeviceTokens& tokens,
                         DeviceAllocator exchanged) {
  check_runs_here(shape);
  state_ = std::make_unique<State>(shape, weights, gradients, tokens, std::move(exchanged));
}
DeviceLayer::~DeviceLayer() = default;

std::vector<std::int64_t> DeviceLayer::read_counts(cudaStream_t stream) {
  State& s = *state_;
  ensure(s.shape.capacity < 0, "read_counts: only for dropless layers");
  const auto experts = static_cast<std::size_t>(s.shape.num_experts);
  check(cudaMemcpyAsync(s.staged.data(), s.at("counts"), experts * 4, cudaMemcpyDeviceToHost,
                        stream));
  check(cudaStreamSynchronize(stream));
  const auto* counts = s.staged.as<std::int32_t>();
  return {counts, counts + experts};
}

void DeviceLayer::place_rows(const std::vector<std::int64_t>& sent, const ReceivedRows& received,
                             cudaStream_t stream) {
  State& s = *state_;
  ensure(s.shape.capacity < 0, "place_rows: only for dropless layers");
  s.placement = place(s.shape, sent, received);
  s.allocate_rows();
  s.upload_moves(stream);
}

std::byte* DeviceLayer::State::experts_side(const char* name, const ChunkPlacement& chunk) const {
  return row(name, shape.exchanges_by_expert ? 0 : chunk.received_begin, shape.model_dim);
}

ExchangeBlocks DeviceLayer::State::blocks_of(std::int64_t degree, std::int64_t index) const {
  const ExpertMajor& order = required(placement.expert_major, "blocks of another order");
  const std::int64_t row_bytes = shape.model_dim * size_of(shape.element);
  ExchangeBlocks blocks{.count = shape.local_experts(), .pitch = order.expert_rows() * row_bytes};
  for (const std::int64_t segment : order.of_chunk(degree, index)) {
    blocks.pieces.push_back(
        {order.begin(0, 0, segment) * row_bytes, order.slots(segment) * row_bytes});
  }
  return blocks;
}

DeviceExchange DeviceLayer::dispatch(Pass pass, std::int64_t index) const {
  const State& s = *state_;
  ensure(!s.shape.direct, "dispatch: a direct layer has no exchange");
  const ChunkPlacement& chunk = s.chunk(pass, index);
  const std::int64_t width = s.shape.model_dim, row_bytes = width * size_of(s.shape.element);
  const char* packed = pass == Pass::Forward ? "input" : "output_gradient";
  DeviceExchange exchange{.send = s.row("sent", chunk.sent_begin, width),
                          .receive = s.experts_side(s.packs ? "received" : packed, chunk),
                          .kept = s.shape.keeps_own};
  if (s.shape.exchanges_by_expert) {
    const std::int64_t degree =
        pass == Pass::Forward ? s.shape.forward_degree : s.shape.backward_degree;
    exchange.blocks = s.blocks_of(degree, index);
  }
  for (const std::int64_t rows : chunk.sent_rows) exchange.send_bytes.push_back(rows * row_bytes);
  for (const std::int64_t rows : chunk.received_rows) {
    exchange.receive_bytes.push_back(rows * row_bytes);
  }
  return exchange;
}

DeviceExchange DeviceLayer::combine_exchange(Pass pass, std::int64_t index) const {
  const State& s = *state_;
  DeviceExchange exchange = dispatch(pass, index);
  const ChunkPlacement& chunk = s.chunk(pass, index);
  const std::int64_t width = s.shape.model_dim;
  std::swap(exchange.send_bytes, exchange.receive_bytes);
  if (exchange.blocks) exchange.blocks->to_experts = false;
  exchange.send = s.experts_side(s.packs ? "returned" : "output", chunk);
  exchange.receive = s.row("back", chunk.sent_begin, width);
  return exchange;
}

std::int64_t DeviceExchange::equal_part() const {
  const std::int64_t part = send_bytes.front();
  for (const auto* parts : {&send_bytes, &receive_bytes}) {
    for (const std::int64_t bytes : *parts)
      ensure(bytes == part, "all-to-all: the parts are not equally large");
  }
  return part;
}

std::vector<ExchangeCopy> DeviceExchange::copies(std::int64_t from_rank,
                                                 std::int64_t to_rank) const {
  const std::int64_t part = equal_part();
  if (part == 0) return {};
  if (!blocks) return {{.from = to_rank * part, .to = from_rank * part, .bytes = part}};
  const std::int64_t block = part / blocks->count;
  std::vector<ExchangeCopy> all;
  std::int64_t before = 0;
  for (const auto& [begin, bytes] : blocks->pieces) {
    ExchangeCopy copy{.bytes = bytes, .blocks = blocks->count};
    if (blocks->to_experts) {
      copy.from = to_rank * part + before, copy.from_pitch = block;
      copy.to = begin + from_rank * bytes, copy.to_pitch = blocks->pitch;
    } else {
      copy.from = begin + to_rank * bytes, copy.from_pitch = blocks->pitch;
      copy.to = from_rank * part + before, copy.to_pitch = block;
    }
    before += bytes;
    all.push_back(copy);
  }
  return all;
}

const DeviceLayerShape& DeviceLayer::shape() const { return state_->shape; }
const std::int32_t* DeviceLayer::experts() const { return state_->at<std::int32_t>("experts"); }
const float* DeviceLayer::combine_weights() const { return state_->at<float>("combine_weights"); }
const float* DeviceLayer::auxiliary_loss() const { return state_->at<float>("loss"); }

std::vector<std::pair<std::string, std::size_t>> DeviceLayer::bytes() const {
  std::vector<std::pair<std::string, std::size_t>> all;
  for (const auto& [name, buffer] : state_->buffers) all.emplace_back(name, buffer.bytes());
  all.emplace_back("workspaces", 4 * Workspace::kBytes + state_->zeroed.all().size());
  return all;
}

std::string DeviceLayer::fused() const {
  const Fusion& fusion = state_->fusion;
  std::string list;
  const auto add = [&](bool is, const char* name) {
    if (is) list += (list.empty() ? "" : ", ") + std::string(name);
  };
  add(fusion.first_bias, "first bias");
  add(fusion.relu, "ReLU");
  add(fusion.second_bias, "second bias");
  return list.empty() ? "nothing" : list;
}

void DeviceLayer::simplify(cudaGraph_t recorded) const { state_->zeroed.drop_memsets(recorded); }

void DeviceLayer::poison(cudaStream_t stream) {
  for (const auto& [name, buffer] : state_->buffers) {
    const bool constant =
        name == "moves" || name == "bounds" || (name.ends_with("_blocks") && shape().capacity >= 0);
    if (constant || buffer.bytes() == 0) continue;
    check(cudaMemsetAsync(buffer.data(), 0xff, buffer.bytes(), stream));
  }
}

void DeviceLayer::observe(std::function<void(const DeviceStep&)> observer) {
  state_->observer = std::move(observer);
}

}  // namespace pipemoe::cuda
