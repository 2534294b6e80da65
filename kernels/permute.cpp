#include "kernels/permute.hpp"

#include "kernels/vector_ops.hpp"

namespace pipemoe::kernels {
namespace {

void check_plan(const RowShape& shape, const ChunkPlan& plan) {
  ensure(static_cast<std::int64_t>(plan.row_of.size()) == shape.tokens * shape.top_k,
         "permute: plan of other tokens");
}

// Calls visit(choice, row) for each choice of a token that has a row.
template <class Visit>
void for_each_row(const RowShape& shape, const ChunkPlan& plan, std::int64_t token, Visit visit) {
  for (std::int64_t choice = token * shape.top_k; choice < (token + 1) * shape.top_k; ++choice) {
    const std::int64_t row = plan.row_of[static_cast<std::size_t>(choice)];
    if (row != kDropped) visit(static_cast<std::size_t>(choice), row);
  }
}

void clear_empty_rows(const ChunkPlan& plan, std::int64_t width, std::span<float> rows) {
  for (std::int64_t row = 0; row < plan.rows(); ++row) {
    if (plan.choice_of[static_cast<std::size_t>(row)] == kEmpty) {
      fill(rows_of(rows, row, 1, width), 0);
    }
  }
}

}  // namespace

void permute(const RowShape& shape, const ChunkPlan& plan, const Permute& args) {
  const std::int64_t width = shape.model_dim;
  check_plan(shape, plan);
  check_size(args.input, shape.tokens * width, "permute: input");
  check_size(args.rows, plan.rows() * width, "permute: rows");
  for (std::int64_t row = 0; row < plan.rows(); ++row) {
    const std::int64_t choice = plan.choice_of[static_cast<std::size_t>(row)];
    const auto to = rows_of(args.rows, row, 1, width);
    if (choice == kEmpty) {
      fill(to, 0);
    } else {
      copy(rows_of(args.input, choice / shape.top_k, 1, width), to);
    }
  }
}

void permute_backward(const RowShape& shape, const ChunkPlan& plan, const PermuteBackward& args) {
  const std::int64_t width = shape.model_dim;
  check_plan(shape, plan);
  check_size(args.row_gradient, plan.rows() * width, "permute_backward: row_gradient");
  check_size(args.input_gradient, shape.tokens * width, "permute_backward: input_gradient");
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    const auto sum = rows_of(args.input_gradient, token, 1, width);
    if (!args.accumulate) fill(sum, 0);
    for_each_row(shape, plan, token, [&](std::size_t, std::int64_t row) {
      add(rows_of(args.row_gradient, row, 1, width), sum);
    });
  }
}

void combine(const RowShape& shape, const ChunkPlan& plan, const Combine& args) {
  const std::int64_t width = shape.model_dim;
  check_plan(shape, plan);
  check_size(args.rows, plan.rows() * width, "combine: rows");
  check_size(args.combine_weights, shape.tokens * shape.top_k, "combine: combine_weights");
  check_size(args.output, shape.tokens * width, "combine: output");
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    const auto sum = rows_of(args.output, token, 1, width);
    fill(sum, 0);
    for_each_row(shape, plan, token, [&](std::size_t choice, std::int64_t row) {
      add_scaled(args.combine_weights[choice], rows_of(args.rows, row, 1, width), sum);
    });
  }
}

void combine_backward(const RowShape& shape, const ChunkPlan& forward, const ChunkPlan& backward,
                      const CombineBackward& args) {
  const std::int64_t width = shape.model_dim;
  check_plan(shape, forward);
  check_plan(shape, backward);
  check_size(args.output_gradient, shape.tokens * width, "combine_backward: output_gradient");
  check_size(args.rows, forward.rows() * width, "combine_backward: rows");
  check_size(args.combine_weights, shape.tokens * shape.top_k, "combine_backward: weights");
  check_size(args.row_gradient, backward.rows() * width, "combine_backward: row_gradient");
  check_size(args.combine_weight_gradient, shape.tokens * shape.top_k,
             "combine_backward: combine_weight_gradient");
  fill(args.combine_weight_gradient, 0);
  clear_empty_rows(backward, width, args.row_gradient);
  for (std::int64_t token = 0; token < shape.tokens; ++token) {
    const auto gradient = rows_of(args.output_gradient, token, 1, width);
    for_each_row(shape, forward, token, [&](std::size_t choice, std::int64_t row) {
      args.combine_weight_gradient[choice] = dot(gradient, rows_of(args.rows, row, 1, width));
      scale(args.combine_weights[choice], gradient,
            rows_of(args.row_gradient, backward.row_of[choice], 1, width));
    });
  }
}

}  // namespace pipemoe::kernels
