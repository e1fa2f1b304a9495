#include "attention/widen.h"

#include "attention/cuda/rows.h"
#include "attention/workspace.h"
#include "core/half.h"
#include "core/parallel.h"

namespace quietformer {
namespace {

enum class Use : std::uint8_t { none, read, written };

/// A tensor of the problem that has the storage type, and what either direction does with it.
struct Operand {
  Tensor AttentionProblem::*tensor;
  Use forward, backward;
  Use use(Direction direction) const {
    return direction == Direction::forward ? forward : backward;
  }
};

constexpr Operand kOperands[] = {
    {&AttentionProblem::q, Use::read, Use::read},
    {&AttentionProblem::k, Use::read, Use::read},
    {&AttentionProblem::v, Use::read, Use::read},
    {&AttentionProblem::q2, Use::read, Use::read},
    {&AttentionProblem::k2, Use::read, Use::read},
    {&AttentionProblem::o, Use::written, Use::read},
    {&AttentionProblem::do_, Use::none, Use::read},
    {&AttentionProblem::dq, Use::none, Use::written},
    {&AttentionProblem::dk, Use::none, Use::written},
    {&AttentionProblem::dv, Use::none, Use::written},
    {&AttentionProblem::dq2, Use::none, Use::written},
    {&AttentionProblem::dk2, Use::none, Use::written},
};

/// The problem with f32 operands in `memory` (which may be null: shapes alone); operands that the
/// direction does not use are absent. `used` becomes the bytes that they take.
AttentionProblem widened(const AttentionProblem& problem, Direction direction, char* memory,
                         std::int64_t& used) {
  AttentionProblem wide = problem;
  TensorCarver take(memory, problem.q.device);
  for (const Operand& operand : kOperands) {
    const Tensor& stored = problem.*operand.tensor;
    if (stored.shape.rank == 0) continue;
    Tensor& copy = wide.*operand.tensor;
    copy = take(operand.use(direction) != Use::none, DType::f32, stored.shape);
  }
  wide.workspace = {};
  used = take.bytes();
  return wide;
}

/// Calls f(stored row, wide row) for all rows of a rank-4 tensor and its contiguous copy.
template <class F>
void for_each_row(const Context& ctx, const Tensor& stored, const Tensor& wide, F&& f) {
  constexpr std::int64_t kRows = 256;  // of a chunk
  const Shape& shape = stored.shape;
  auto* const narrow = static_cast<std::uint16_t*>(stored.data);
  auto* const copy = wide.as<float>();
  parallel_for(ctx, shape[0] * shape[1] * shape[2], kRows,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t row = begin; row < end; ++row) {
                   const std::int64_t head = row / shape[2];
                   f(narrow + head / shape[1] * stored.stride[0] +
                         head % shape[1] * stored.stride[1] + row % shape[2] * stored.stride[2],
                     copy + row * shape[3]);
                 }
               });
}

void widen_rows(const Context& ctx, const Tensor& stored, const Tensor& wide) {
  if (ctx.device.type == DeviceType::cuda) return cuda::convert_rows(ctx, wide, stored);
  for_each_row(ctx, stored, wide, [&](const std::uint16_t* from, float* to) {
    for (std::int64_t i = 0; i < wide.shape[3]; ++i) to[i] = bf16_to_float(from[i]);
  });
}

void round_rows(const Context& ctx, const Tensor& stored, const Tensor& wide) {
  if (ctx.device.type == DeviceType::cuda) return cuda::convert_rows(ctx, stored, wide);
  for_each_row(ctx, stored, wide, [&](std::uint16_t* to, const float* from) {
    for (std::int64_t i = 0; i < wide.shape[3]; ++i) to[i] = float_to_bf16(from[i]);
  });
}

}  // namespace

std::int64_t widened_workspace_bytes(const AttentionImplementation& implementation,
                                     const Context& ctx, const AttentionProblem& problem,
                                     Direction direction) {
  std::int64_t copies = 0;
  const AttentionProblem wide = widened(problem, direction, nullptr, copies);
  return copies + implementation.workspace_bytes(ctx, wide, direction);
}

void run_widened(const AttentionImplementation& implementation, const Context& ctx,
                 const AttentionProblem& problem, Direction direction) {
  auto* const memory = static_cast<char*>(problem.workspace.data);
  std::int64_t copies = 0;
  AttentionProblem wide = widened(problem, direction, memory, copies);
  wide.workspace = Tensor(memory + copies, DType::u8, {problem.workspace.bytes() - copies},
                          problem.workspace.device);
  for (const Operand& operand : kOperands) {
    const Tensor& copy = wide.*operand.tensor;
    if (copy && operand.use(direction) == Use::read) widen_rows(ctx, problem.*operand.tensor, copy);
  }
  if (direction == Direction::forward)
    implementation.forward(ctx, wide);
  else
    implementation.backward(ctx, wide);
  for (const Operand& operand : kOperands) {
    const Tensor& copy = wide.*operand.tensor;
    if (copy && operand.use(direction) == Use::written)
      round_rows(ctx, problem.*operand.tensor, copy);
  }
}

}  // namespace quietformer
