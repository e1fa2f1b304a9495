#include "attention/reference.h"

#include <algorithm>

#include "attention/backward_sums.h"
#include "attention/pair_table.h"
#include "attention/widen.h"
#include "attention/workspace.h"
#include "core/buffer.h"

namespace quietformer {
namespace {

class Reference final : public AttentionImplementation {
 public:
  std::string_view name() const override { return "reference"; }

  std::optional<std::string> why_not(const AttentionProblem& problem, Direction) const override {
    if (problem.q.device.type != DeviceType::cpu) return "runs on the CPU only";
    return std::nullopt;
  }

  std::int64_t workspace_bytes(const Context& ctx, const AttentionProblem& problem,
                               Direction direction) const override {
    if (stored_in_16_bits(problem)) return widened_workspace_bytes(*this, ctx, problem, direction);
    return ReferenceLayout(ctx, problem).bytes;
  }

  void forward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::forward);
    if (stored_in_16_bits(problem)) return run_widened(*this, ctx, problem, Direction::forward);
    PairTable<ReferencePair>::find(problem).forward(ctx, problem);
  }

  void backward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::backward);
    if (stored_in_16_bits(problem)) return run_widened(*this, ctx, problem, Direction::backward);
    PairTable<ReferencePair>::find(problem).backward(ctx, problem);
  }
};

}  // namespace

ReferenceLayout::ReferenceLayout(const Context& ctx, const AttentionProblem& p) {
  const std::int64_t size = size_of(p.q.dtype), queries = p.q.shape[2], keys = p.k.shape[2],
                     dim = p.q.shape[3], rows = std::min(kRows, queries);
  const bool unit = info_of(p.score).operands == Operands::unit_groups;
  Carver take;
  // A cache line more than S: row strides of a power of two would map a column to one cache set.
  row_stride = Carver::align(keys * size) / size + Buffer::kAlignment / size;
  weights = take(rows * row_stride * size);
  gradients = take(rows * row_stride * size);
  query_rows = take(unit ? rows * dim * size : 0);
  query_grads = take(rows * dim * size);
  this->keys = take(unit ? keys * dim * size : 0);
  key_grads = take(unit ? keys * dim * size : 0);
  keep = take(p.dropout.probability > 0 ? keys * size : 0);
  totals = take(keys * 8);
  slice_bytes = take.bytes;
  slices = std::max<std::int64_t>(1, std::min<std::int64_t>(ctx.threads, p.batch() * p.kv_heads()));
  take.bytes = slices * slice_bytes;
  partials = take(p.batch() * p.heads() * (kMaxHeadParameters + 1) * 8);
  dbias = take(sums_bias_gradient(p) ? p.bias.shape.count() * 8 : 0);
  bytes = take.bytes;
}

const AttentionImplementation& reference_implementation() {
  static const Reference reference;
  return reference;
}

}  // namespace quietformer
