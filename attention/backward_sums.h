// What several tasks of a CPU backward add to: the gradient of a broadcast bias, and the gradients
// of per-head parameters and of scale.
#pragma once

#include "attention/sequence.h"

namespace quietformer {

/// Whether dbias is summed over batch, heads or queries, and so in f64 scratch of bias's size.
inline bool sums_bias_gradient(const AttentionProblem& problem) {
  const Shape& bias = problem.bias.shape;
  return bias.rank == 4 && (bias[0] < problem.batch() || bias[1] < problem.heads() ||
                            (bias[2] == 1 && problem.q.shape[2] > 1));
}

/// Zeroes the sums, before any task; `scratch` as in add_bias_gradient.
inline void begin_bias_gradient(const AttentionProblem& p, double* scratch) {
  if (!p.dbias) return;
  if (sums_bias_gradient(p))
    std::fill_n(scratch, p.dbias.count(), 0.0);
  else
    fill_zero(p.dbias);
}

/// Adds the score gradients of row i to dbias, or to `scratch` (f64, shape of bias) where it is
/// summed. `grads` and `keys` count from key `first` of the sequence.
template <class T>
void add_bias_gradient(const AttentionProblem& p, const Sequence& sequence, std::int64_t head,
                       std::int64_t i, const T* grads, KeyRange keys, double* scratch,
                       std::int64_t first = 0) {
  const auto add = [&]<class U>(const Tensor& target, U*) {
    const RowView<U> view = sequence.broadcast_row<U>(target, head, i, first);
    U* out = const_cast<U*>(view.data);
    if (view.stride == 0)
      *out += U(sum_keys(keys, [&](std::int64_t j) { return grads[j]; }));
    else
      for (std::int64_t j = keys.begin; j < keys.end; ++j) out[j] += U(grads[j]);
  };
  if (sums_bias_gradient(p))
    add(Tensor(scratch, DType::f64, p.bias.shape), static_cast<double*>(nullptr));
  else
    add(p.dbias, static_cast<T*>(nullptr));
}

/// Rounds the sums, after all tasks.
template <class T>
void finish_bias_gradient(const AttentionProblem& p, const double* scratch) {
  if (!p.dbias || !sums_bias_gradient(p)) return;
  for (std::int64_t i = 0; i < p.dbias.count(); ++i) p.dbias.as<T>()[i] = T(scratch[i]);
}

/// Which (sequence, key head) tasks must run one after the other, because a broadcast bias makes
/// them add to the same gradient: chunk = (sequence or all) x (key head or all).
struct BackwardChunks {
  std::int64_t sequences, kv_heads;              // tasks along each dimension
  std::int64_t sequence_chunks, kv_head_chunks;  // chunks along each dimension

  explicit BackwardChunks(const AttentionProblem& p)
      : sequences(p.batch()),
        kv_heads(p.kv_heads()),
        sequence_chunks(p.dbias && p.bias.shape[0] == 1 ? 1 : sequences),
        kv_head_chunks(p.dbias && p.bias.shape[1] == 1 ? 1 : kv_heads) {}

  std::int64_t count() const { return sequences == 0 ? 0 : sequence_chunks * kv_head_chunks; }

  template <class F>
  void for_each_task(std::int64_t chunk, F&& f) const {
    const std::int64_t b = chunk / kv_head_chunks * (sequences / sequence_chunks);
    const std::int64_t h = chunk % kv_head_chunks * (kv_heads / kv_head_chunks);
    for (std::int64_t sequence = b; sequence < b + sequences / sequence_chunks; ++sequence)
      for (std::int64_t head = h; head < h + kv_heads / kv_head_chunks; ++head) f(sequence, head);
  }
};

/// Adds the sums of each (sequence, head) up in order and writes the gradients of parameters and of
/// scale. partials: (B, H, kMaxHeadParameters + 1), the last one for scale.
template <class T>
void write_parameter_gradients(const AttentionProblem& p, const double* partials) {
  const std::int64_t heads = p.heads(), width = kMaxHeadParameters + 1;
  const auto sum = [&](std::int64_t head, int k) {
    double total = 0;
    for (std::int64_t b = 0; b < p.batch(); ++b) total += partials[(b * heads + head) * width + k];
    return total;
  };
  double scale = 0;
  for (std::int64_t h = 0; h < heads; ++h) {
    for (int k = 0; k < kMaxHeadParameters; ++k)
      if (p.d_head_parameters[k]) p.d_head_parameters[k].as<T>()[h] = T(sum(h, k));
    scale += sum(h, kMaxHeadParameters);
  }
  if (p.dscale) *p.dscale.as<T>() = T(scale);
}

}  // namespace quietformer
