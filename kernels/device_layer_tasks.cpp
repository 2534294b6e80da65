// The tasks of DeviceLayer: each enqueues its kernels and products on its stream.
#include <algorithm>

#include "kernels/device_layer_state.hpp"

namespace pipemoe::cuda {
namespace {

// Returns the least number of bytes that a product reads and writes.
double traffic(const Matmul& p) {
  const auto count = [](std::int64_t rows, std::int64_t columns, std::int64_t batch) {
    return static_cast<double>(rows * columns * batch);
  };
  const auto in = static_cast<double>(size_of(p.in)), out = static_cast<double>(size_of(p.out));
  return in * (count(p.m, p.k, p.batch) + count(p.k, p.n, p.batch)) +
         out * count(p.m, p.n, p.batch) * (p.accumulate ? 2 : 1);
}

}  // namespace

// ---- Shapes of the products ----

// A product that uses every multiprocessor delays the kernel of an exchange until it ends, or takes
// twice as long beside it (PyTorch issue 143988).
int ExpertProducts::multiprocessors(bool beside_exchanges) const {
  return beside_exchanges ? shape_.multiprocessors_beside_exchanges : 0;
}

// The product of rows and weights: [rows, k] * [k, n].
Matmul ExpertProducts::on_rows(const ExpertGroup& group, std::int64_t n, std::int64_t k,
                               std::int64_t degree) const {
  const bool several = group.experts > 1;
  return {.m = group.rows,
          .n = n,
          .k = k,
          .batch = group.experts,
          .lda = k,
          .ldb = n,
          .ldd = n,
          .stride_a = several ? group.stride * k : 0,
          .stride_b = several ? k * n : 0,
          .stride_d = several ? group.stride * n : 0,
          .in = shape_.element,
          .out = shape_.element,
          .tf32 = shape_.tf32,
          .multiprocessors = multiprocessors(degree > 1),
          .zeroed = true};
}

// The product of transposed rows and rows: [m, rows] * [rows, n].
Matmul ExpertProducts::over_rows(const ExpertGroup& group, std::int64_t m, std::int64_t n,
                                 bool accumulate) const {
  const bool several = group.experts > 1;
  return {.m = m,
          .n = n,
          .k = group.rows,
          .batch = group.experts,
          .transpose_a = true,
          .lda = m,
          .ldb = n,
          .ldd = n,
          .stride_a = several ? group.stride * m : 0,
          .stride_b = several ? group.stride * n : 0,
          .stride_d = several ? m * n : 0,
          .in = shape_.element,
          .out = shape_.element,
          .accumulate = accumulate,
          .tf32 = shape_.tf32,
          .multiprocessors =
              multiprocessors(shape_.backward_degree > 1 || shape_.defers_weight_gradients),
          .zeroed = true};
}

Matmul ExpertProducts::first(const ExpertGroup& group) const {
  Matmul product = on_rows(group, shape_.first_width(), shape_.model_dim, shape_.forward_degree);
  if (fusion_.first_bias) {
    product.epilogue = fusion_.relu ? Epilogue::ReluBias : Epilogue::Bias;
    product.stride_bias = group.experts > 1 ? shape_.first_width() : 0;
  } else if (fusion_.relu) {
    product.epilogue = Epilogue::Relu;
  }
  return product;
}

Matmul ExpertProducts::second(const ExpertGroup& group) const {
  Matmul product = on_rows(group, shape_.model_dim, shape_.hidden_dim, shape_.forward_degree);
  if (fusion_.second_bias) {
    product.epilogue = Epilogue::Bias;
    product.stride_bias = group.experts > 1 ? shape_.model_dim : 0;
  }
  return product;
}

Matmul ExpertProducts::hidden_gradient(const ExpertGroup& group) const {
  Matmul product = on_rows(group, shape_.hidden_dim, shape_.model_dim, shape_.backward_degree);
  product.transpose_b = true;
  product.ldb = shape_.model_dim;
  return product;
}

Matmul ExpertProducts::input_gradient(const ExpertGroup& group) const {
  Matmul product = on_rows(group, shape_.model_dim, shape_.first_width(), shape_.backward_degree);
  product.transpose_b = true;
  product.ldb = shape_.first_width();
  return product;
}

Matmul ExpertProducts::first_weight(const ExpertGroup& group, bool accumulate) const {
  return over_rows(group, shape_.model_dim, shape_.first_width(), accumulate);
}

Matmul ExpertProducts::second_weight(const ExpertGroup& group, bool accumulate) const {
  return over_rows(group, shape_.hidden_dim, shape_.model_dim, accumulate);
}

Fusion choose_fusion(const DeviceLayerShape& shape, const ExpertGroup& group,
                     const Matmuls& matmuls) {
  Fusion fusion{.first_bias = shape.biases,
                .relu = shape.activation == DeviceActivation::Relu,
                .second_bias = shape.biases};
  const auto first = [&] { return ExpertProducts(shape, fusion).first(group); };
  if (!matmuls.can(first())) fusion.relu = false;
  if (!matmuls.can(first())) fusion.first_bias = false;
  if (!matmuls.can(ExpertProducts(shape, fusion).second(group))) fusion.second_bias = false;
  return fusion;
}

// ---- Tasks ----

void DeviceLayer::State::multiply(const char* name, const Matmul& shape_of, const MatmulArgs& args,
                                  const Workspace& workspace, cudaStream_t stream) {
  std::span<std::byte> own;
  if (shape_of.zeroed) own = zeroed.take(matmuls.workspace_bytes(shape_of));
  matmuls.run(shape_of, args, own.empty() ? workspace.all() : own, stream);
  note(name, shape_of.flops(), traffic(shape_of), stream);
}

void DeviceLayer::State::move(const char* name, const MoveRange& moves, std::int64_t row_bytes,
                              const char* from, const char* to, cudaStream_t stream) {
  if (moves.count == 0) return;
  move_rows({at<RowMove>("moves") + moves.begin, moves.count, moves.most_rows, row_bytes, at(from),
             at(to)},
            stream);
  note(name, 0, 0, stream);
}

void DeviceLayer::gate(cudaStream_t stream) {
  State& s = *state_;
  const DeviceLayerShape& shape = s.shape;
  const DeviceRouting routing = shape.routing();
  const bool split = s.gate_parts > 1;
  if (split) {
    split_gate_weight(
        {s.weights.gate, s.at("gate_split"), shape.num_experts, s.padded_experts, shape.model_dim},
        stream);
    s.note("split gate", 0, 0, stream);
  }
  const std::int64_t columns = s.gate_parts * s.padded_experts;
  s.multiply("gate",
             {.m = shape.tokens,
              .n = columns,
              .k = shape.model_dim,
              .transpose_b = true,
              .lda = shape.model_dim,
              .ldb = shape.model_dim,
              .ldd = columns,
              .in = shape.element,
              .out = Element::Fp32},
             {.a = s.tokens.input,
              .b = split ? s.at<void>("gate_split") : s.weights.gate,
              .d = s.at("logits")},
             s.gate_workspace, stream);
  gate_scores(routing,
              {s.at<float>("logits"), s.gate_parts, s.padded_experts, s.at<float>("probabilities"),
               s.at<std::int32_t>("experts"), s.at<float>("combine_weights"),
               s.at<std::int32_t>("tile_counts")},
              stream);
  s.note("scores", 0, 0, stream);
  auto* counts = s.at<std::int32_t>("counts");
  s.zeroed.begin_iteration();
  const auto zeroed = s.zeroed.all();
  count_choices(routing,
                {.tile_counts = s.at<std::int32_t>("tile_counts"),
                 .counts = counts,
                 .load = s.at<float>("load"),
                 .zeroed = reinterpret_cast<std::int32_t*>(zeroed.data()),
                 .zeroed_words = static_cast<std::int64_t>(zeroed.size() / sizeof(std::int32_t))},
                stream);
  s.note("count choices", 0, 0, stream);
  if (routing.dropless()) {
    place_blocks(routing, counts, s.map(Pass::Forward), stream);
    if (s.two_maps) place_blocks(routing, counts, s.map(Pass::Backward), stream);
    s.note("place blocks", 0, 0, stream);
  }
  PlaceChoices args{s.at<std::int32_t>("experts"), s.at<std::int32_t>("tile_counts"), counts,
                    s.map(Pass::Forward)};
  if (s.two_maps) args.backward = s.map(Pass::Backward);
  place_choices(routing, args, stream);
  s.note("place choices", 0, 0, stream);
  if (shape.auxiliary_loss_weight == 0) return;
  cuda::auxiliary_loss(routing,
                       {s.at<float>("probabilities"), s.at<float>("load"),
                        s.at<float>("loss_parts"), s.at<float>("loss")},
                       stream);
  s.note("auxiliary loss", 0, 0, stream);
}

void DeviceLayer::permute(cudaStream_t stream) {
  State& s = *state_;
  cuda::permute(s.rows(),
                {s.tokens.input, s.map(Pass::Forward), s.rows_of<RowsOut>("sent", "input")},
                stream);
  const auto width = static_cast<double>(s.shape.model_dim * size_of(s.shape.element));
  s.note("permute", 0, width * static_cast<double>(s.shape.tokens + s.placement.sent_rows), stream);
}

void DeviceLayer::State::forward_group(const ExpertGroup& group, cudaStream_t stream) {
  const std::int64_t first_width = shape.first_width(), element = size_of(shape.element);
  const auto of = [&](const void* weights_of, std::int64_t size) {
    return static_cast<const std::byte*>(weights_of) + group.first_expert * size * element;
  };
  const bool relu = shape.activation == DeviceActivation::Relu;
  const char* product = relu ? "hidden" : "first";
  const auto* first_bias = shape.biases ? of(weights.first_bias, first_width) : nullptr;
  const auto* second_bias = shape.biases ? of(weights.second_bias, shape.model_dim) : nullptr;
  multiply("first product", products.first(group),
           {.a = row("input", group.first_row, shape.model_dim),
            .b = of(weights.first, shape.model_dim * first_width),
            .d = row(product, group.first_row, first_width),
            .bias = const_cast<std::byte*>(first_bias)},
           expert_workspace, stream);
  const ExpertRows rows{group.experts, group.rows, group.stride, shape.element};
  if (!fusion.relu) {
    activate(rows,
             {.activation = shape.activation,
              .hidden_dim = shape.hidden_dim,
              .input = row(product, group.first_row, first_width),
              .bias = fusion.first_bias ? nullptr : first_bias,
              .output = row("hidden", group.first_row, shape.hidden_dim)},
             stream);
    note("activation", 0,
         static_cast<double>(group.all_rows() * (first_width + shape.hidden_dim) * element),
         stream);
  }
  multiply("second product", products.second(group),
           {.a = row("hidden", group.first_row, shape.hidden_dim),
            .b = of(weights.second, shape.hidden_dim * shape.model_dim),
            .d = row("output", group.first_row, shape.model_dim),
            .bias = const_cast<std::byte*>(second_bias)},
           expert_workspace, stream);
  if (!shape.biases || fusion.second_bias) return;
  add_bias(rows, {shape.model_dim, second_bias, row("output", group.first_row, shape.model_dim)},
           stream);
  note("second bias", 0, static_cast<double>(2 * group.all_rows() * shape.model_dim * element),
       stream);
}

void DeviceLayer::expert_forward(std::int64_t index, cudaStream_t stream) {
  State& s = *state_;
  const ChunkPlacement& chunk = s.chunk(Pass::Forward, index);
  const std::int64_t row_bytes = s.shape.model_dim * size_of(s.shape.element);
  s.move("pack", chunk.pack, row_bytes, "received", "input", stream);
  for (const ExpertGroup& group : chunk.groups) {
    if (group.rows > 0) s.forward_group(group, stream);
  }
  s.move("unpack", chunk.unpack, row_bytes, "output", "returned", stream);
}

void DeviceLayer::combine(cudaStream_t stream) {
  State& s = *state_;
  cuda::combine(s.rows(),
                {s.rows_of<RowsIn>("back", "output"), s.at<float>("combine_weights"),
                 s.map(Pass::Forward), s.tokens.output},
                stream);
  const auto width = static_cast<double>(s.shape.model_dim * size_of(s.shape.element));
  s.note("combine", 0, width * static_cast<double>(s.shape.tokens + s.placement.sent_rows), stream);
}

void DeviceLayer::combine_backward(cudaStream_t stream) {
  State& s = *state_;
  const bool has_loss = s.shape.auxiliary_loss_weight != 0;
  cuda::combine_backward(s.rows(),
                         {.output_gradient = s.tokens.output_gradient,
                          .rows = s.rows_of<RowsIn>("back", "output"),
                          .forward = s.map(Pass::Forward),
                          .backward = s.map(Pass::Backward),
                          .combine_weights = s.at<float>("combine_weights"),
                          .probabilities = s.at<float>("probabilities"),
                          .experts = s.at<std::int32_t>("experts"),
                          .load = has_loss ? s.at<float>("load") : nullptr,
                          .auxiliary_loss_gradient = s.shape.auxiliary_loss_weight,
                          .row_gradient = s.rows_of<RowsOut>("sent", "output_gradient"),
                          .logit_gradient = s.at("logit_gradient"),
                          .expert_weights = s.sums_tokens() ? s.at("expert_weights") : nullptr,
                          .padded_experts = s.padded_experts},
                         stream);
  const auto width = static_cast<double>(s.shape.model_dim * size_of(s.shape.element));
  s.note("combine backward", 0,
         width * static_cast<double>(s.shape.tokens + 2 * s.placement.sent_rows), stream);
}

void DeviceLayer::State::regroup(const ChunkPlacement& chunk, cudaStream_t stream) {
  const std::int64_t element = size_of(shape.element);
  const auto each = [&](std::int64_t row_bytes, const char* from, const char* to) {
    move("regroup", chunk.regroup, row_bytes, from, to, stream);
  };
  each(shape.model_dim * element, "input", "input_regrouped");
  each(shape.hidden_dim * element, "hidden", "hidden_regrouped");
  if (gelu_or_swiglu()) each(shape.first_width() * element, "first", "first_regrouped");
}

void DeviceLayer::State::gradient_group(const ExpertGroup& group, cudaStream_t stream) {
  const std::int64_t first_width = shape.first_width(), element = size_of(shape.element);
  const auto of = [&](const void* weights_of, std::int64_t size) {
    return static_cast<const std::byte*>(weights_of) + group.first_expert * size * element;
  };
  const bool swiglu = shape.activation == DeviceActivation::SwiGlu;
  std::byte* hidden_gradient =
      row(swiglu ? "hidden_gradient" : "first_gradient", group.first_row, shape.hidden_dim);
  multiply("hidden gradient", products.hidden_gradient(group),
           {.a = row("output_gradient", group.first_row, shape.model_dim),
            .b = of(weights.second, shape.hidden_dim * shape.model_dim),
            .d = hidden_gradient},
           expert_workspace, stream);
  const char* input =
      gelu_or_swiglu() ? saved("first", "first_regrouped") : saved("hidden", "hidden_regrouped");
  activate_backward(
      {group.experts, group.rows, group.stride, shape.element},
      {.activation = shape.activation,
       .hidden_dim = shape.hidden_dim,
       .input = row(input, group.first_row, first_width),
       .output_gradient = hidden_gradient,
       .input_gradient = row("first_gradient", group.first_row, first_width),
       .partial = shape.biases ? at<float>("first_bias_sums") + group.sums_begin : nullptr},
      stream);
  note("activation backward", 0,
       static_cast<double>(group.all_rows() * (2 * first_width + shape.hidden_dim) * element),
       stream);
  multiply("input gradient", products.input_gradient(group),
           {.a = row("first_gradient", group.first_row, first_width),
            .b = of(weights.first, shape.model_dim * first_width),
            .d = row("output", group.first_row, shape.model_dim)},
           expert_workspace, stream);
}

void DeviceLayer::expert_input_gradient(std::int64_t index, cudaStream_t stream) {
  State& s = *state_;
  const ChunkPlacement& chunk = s.chunk(Pass::Backward, index);
  const std::int64_t row_bytes = s.shape.model_dim * size_of(s.shape.element);
  s.move("pack", chunk.pack, row_bytes, "received", "output_gradient", stream);
  if (s.regroups) s.regroup(chunk, stream);
  for (const ExpertGroup& group : chunk.groups) {
    if (group.rows > 0) s.gradient_group(group, stream);
  }
  s.move("unpack", chunk.unpack, row_bytes, "output", "returned", stream);
}

void DeviceLayer::State::clear_gradients(const ExpertGroup& group, cudaStream_t stream) {
  const auto clear = [&](void* of, std::int64_t size) {
    const std::int64_t bytes = size * size_of(shape.element);
    check(cudaMemsetAsync(static_cast<std::byte*>(of) + group.first_expert * bytes, 0,
                          static_cast<std::size_t>(group.experts * bytes), stream));
  };
  clear(gradients.first, shape.model_dim * shape.first_width());
  clear(gradients.second, shape.hidden_dim * shape.model_dim);
  if (shape.biases) clear(gradients.first_bias, shape.first_width());
  if (shape.biases && !sums_tokens()) clear(gradients.second_bias, shape.model_dim);
}

void DeviceLayer::State::weight_group(const ExpertGroup& group, bool accumulate,
                                      cudaStream_t stream) {
  const std::int64_t first_width = shape.first_width(), element = size_of(shape.element);
  const auto of = [&](void* gradients_of, std::int64_t size) {
    return static_cast<std::byte*>(gradients_of) + group.first_expert * size * element;
  };
  const std::byte* output_gradient = row("output_gradient", group.first_row, shape.model_dim);
  multiply("second weight gradient", products.second_weight(group, accumulate),
           {.a = row(saved("hidden", "hidden_regrouped"), group.first_row, shape.hidden_dim),
            .b = output_gradient,
            .d = of(gradients.second, shape.hidden_dim * shape.model_dim)},
           weight_workspace, stream);
  multiply("first weight gradient", products.first_weight(group, accumulate),
           {.a = row(saved("input", "input_regrouped"), group.first_row, shape.model_dim),
            .b = row("first_gradient", group.first_row, first_width),
            .d = of(gradients.first, shape.model_dim * first_width)},
           weight_workspace, stream);
  if (!shape.biases) return;
  const ExpertRows rows{group.experts, group.rows, group.stride, shape.element};
  add_partial_sums(rows,
                   {first_width, at<float>("first_bias_sums") + group.sums_begin,
                    of(gradients.first_bias, first_width), accumulate},
                   stream);
  note("first bias gradient", 0, 0, stream);
  if (sums_tokens()) return;
  auto* partial = at<float>("second_bias_sums");
  sum_columns(rows, {shape.model_dim, output_gradient, partial}, stream);
  add_partial_sums(
      rows, {shape.model_dim, partial, of(gradients.second_bias, shape.model_dim), accumulate},
      stream);
  note("second bias gradient", 0, static_cast<double>(group.all_rows() * shape.model_dim * element),
       stream);
}

void DeviceLayer::expert_weight_gradient(std::int64_t index, bool accumulate, cudaStream_t stream) {
  State& s = *state_;
  for (const ExpertGroup& group : s.chunk(Pass::Backward, index).groups) {
    const bool adds = accumulate || group.continues;
    if (group.rows > 0) {
      s.weight_group(group, adds, stream);
    } else if (!adds) {
      s.clear_gradients(group, stream);
    }
  }
}

void DeviceLayer::gate_input_gradient(cudaStream_t stream) {
  State& s = *state_;
  const DeviceLayerShape& shape = s.shape;
  s.multiply("gate input gradient",
             {.m = shape.tokens,
              .n = shape.model_dim,
              .k = s.padded_experts,
              .lda = s.padded_experts,
              .ldb = shape.model_dim,
              .ldd = shape.model_dim,
              .in = shape.element,
              .out = shape.element},
             {.a = s.at("logit_gradient"),
              .b = s.gate_parts > 1 ? s.at<void>("gate_split") : s.weights.gate,
              .d = s.at("gate_input_gradient")},
             s.gate_workspace, stream);
}

void DeviceLayer::gate_weight_gradient(cudaStream_t stream) {
  State& s = *state_;
  const DeviceLayerShape& shape = s.shape;
  const bool bias = s.sums_tokens();
  if (shape.num_experts <= kFewExperts) {
    const SumTokens gate{s.tokens.input, s.at("logit_gradient"), s.gradients.gate, Element::Fp32};
    SumTokens second_bias;
    if (bias) {
      second_bias = {s.tokens.output_gradient, s.at("expert_weights"), s.gradients.second_bias,
                     shape.element};
    }
    sum_tokens(s.token_sums(), gate, second_bias, s.at<float>("token_sums"), stream);
    s.note("gate weight gradient", 0,
           static_cast<double>((bias ? 2 : 1) * shape.tokens * shape.model_dim *
                               size_of(shape.element)),
           stream);
    return;
  }
  Matmul product{.m = shape.num_experts,
                 .n = shape.model_dim,
                 .k = shape.tokens,
                 .transpose_a = true,
                 .lda = s.padded_experts,
                 .ldb = shape.model_dim,
                 .ldd = shape.model_dim,
                 .in = shape.element,
                 .out = Element::Fp32};
  s.multiply("gate weight gradient", product,
             {.a = s.at("logit_gradient"), .b = s.tokens.input, .d = s.gradients.gate},
             s.gate_weight_workspace, stream);
  if (!bias) return;
  product.out = shape.element;
  s.multiply(
      "second bias gradient", product,
      {.a = s.at("expert_weights"), .b = s.tokens.output_gradient, .d = s.gradients.second_bias},
      s.gate_weight_workspace, stream);
}

void DeviceLayer::permute_backward(cudaStream_t stream) {
  State& s = *state_;
  cuda::permute_backward(s.rows(),
                         {s.rows_of<RowsIn>("back", "output"), s.map(Pass::Backward),
                          s.at("gate_input_gradient"), s.tokens.input_gradient},
                         stream);
  const auto width = static_cast<double>(s.shape.model_dim * size_of(s.shape.element));
  s.note("permute backward", 0,
         width * static_cast<double>(2 * s.shape.tokens + s.placement.sent_rows), stream);
}

}  // namespace pipemoe::cuda
