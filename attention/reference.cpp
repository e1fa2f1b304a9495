#include "attention/reference.h"

#include <algorithm>

#include "attention/backward_sums.h"
#include "attention/policies.h"
#include "attention/registry.h"
#include "attention/workspace.h"
#include "core/buffer.h"

namespace quietformer {
namespace {

struct PairEntry {
  std::string_view score, normalizer;
  void (*forward)(const Context&, const AttentionProblem&);
  void (*backward)(const Context&, const AttentionProblem&);
};

#define QF_PAIR(S, N) \
  {S::name, N::name, &ReferencePair<S, N>::forward, &ReferencePair<S, N>::backward},
constexpr PairEntry kPairs[] = {QUIETFORMER_ATTENTION_PAIRS(QF_PAIR)};
#undef QF_PAIR

const PairEntry& find_pair(const AttentionProblem& problem) {
  const auto* pair =
      std::find_if(std::begin(kPairs), std::end(kPairs), [&](const PairEntry& entry) {
        return entry.score == name_of(problem.score) && entry.normalizer == problem.normalizer;
      });
  QF_EXPECTS(pair != std::end(kPairs));
  return *pair;
}

class Reference final : public AttentionImplementation {
 public:
  std::string_view name() const override { return "reference"; }

  std::optional<std::string> why_not(const AttentionProblem& problem, Direction) const override {
    if (problem.q.device.type != DeviceType::cpu) return "runs on the CPU only";
    return std::nullopt;
  }

  std::int64_t workspace_bytes(const Context& ctx, const AttentionProblem& problem) const override {
    return ReferenceLayout(ctx, problem).bytes;
  }

  void forward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::forward);
    find_pair(problem).forward(ctx, problem);
  }

  void backward(const Context& ctx, const AttentionProblem& problem) const override {
    prepare(*this, ctx, problem, Direction::backward);
    find_pair(problem).backward(ctx, problem);
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
