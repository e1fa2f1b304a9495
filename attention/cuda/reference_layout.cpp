#include <algorithm>

#include "attention/backward_sums.h"
#include "attention/cuda/reference.h"
#include "attention/cuda/reference_steps.h"
#include "attention/registry.h"
#include "attention/workspace.h"

namespace quietformer::cuda {
namespace {

bool present(const Tensor& tensor) {
  return tensor.shape.rank != 0;
}

/// cuBLAS takes no rows that overlap; ours may, say in a view that repeats one row.
bool rows_overlap(const Tensor& tensor) {
  return present(tensor) && tensor.shape[2] > 1 && tensor.stride[2] < tensor.shape[3];
}

}  // namespace

ReferenceLayout::ReferenceLayout(const AttentionProblem& p, Direction direction) {
  const std::int64_t size = size_of(p.q.dtype), queries = p.q.shape[2], keys = p.k.shape[2];
  const bool backward = direction == Direction::backward,
             unit = info_of(p.score).operands == Operands::unit_groups;
  row_stride = std::max<std::int64_t>((keys + 31) / 32 * 32, 32);
  const std::int64_t row_bytes = row_stride * size, all_tasks = p.q.shape[0] * p.kv_heads(),
                     most_rows = std::clamp<std::int64_t>(queries, 1, kRows),
                     most_tasks = std::clamp<std::int64_t>(all_tasks, 1, kTasks);
  rows = most_rows;
  while (rows > kFewestRows && rows * row_bytes > kBufferBytes) rows = (rows + 1) / 2;
  tasks = std::clamp<std::int64_t>(kBufferBytes / (rows * row_bytes), 1, most_tasks);
  // What is taken grows with every dimension, so that scratch for the largest of several problems
  // serves them all; a block may use less of it.
  const std::int64_t buffer = std::max(std::min(kBufferBytes, most_tasks * most_rows * row_bytes),
                                       std::min(kFewestRows, most_rows) * row_bytes);
  const std::int64_t sums_rows = std::min(most_tasks * most_rows, kBufferBytes / (32 * size));
  Carver take;
  const auto copy = [&](bool wanted, const Tensor& of) {
    return wanted && present(of) ? take(of.count() * size) : -1;
  };
  weights = take(buffer);
  if (backward || info_of(p.score).pairs == 2) gradients = take(buffer);
  pointers = take(kMaxOperands * most_tasks * 8);
  q = copy(unit || rows_overlap(p.q), p.q);
  k = copy(unit || rows_overlap(p.k), p.k);
  q2 = copy(rows_overlap(p.q2), p.q2);
  k2 = copy(rows_overlap(p.k2), p.k2);
  v = copy(rows_overlap(p.v), p.v);
  if (!backward) {
    if (present(p.total_attention)) totals = take(most_tasks * keys * 8);
  } else {
    d_out = copy(rows_overlap(p.do_), p.do_);
    // The gradient of scale is read off those of the queries.
    dq = copy(unit || (present(p.dscale) && !present(p.dq)), p.q);
    dq2 = copy(present(p.dscale) && !present(p.dq2), p.q2);
    dk = copy(unit && present(p.dk), p.k);
    row_sums = take(sums_rows * kMaxHeadParameters * 8);
    sums = take(p.q.shape[0] * p.heads() * (kMaxHeadParameters + 1) * 8);
    if (present(p.dbias) && sums_bias_gradient(p)) dbias = take(p.bias.shape.count() * 8);
  }
  bytes = take.bytes;
}

}  // namespace quietformer::cuda
