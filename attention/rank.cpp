// The rank adaptor: every problem is rank 4 inside.
#include <fmt/format.h>

#include "attention/attention.h"

namespace quietformer {
namespace {

/// The view with a dimension of size 1 put before dimension `at`.
Tensor insert_dimension(const Tensor& tensor, int at) {
  Tensor wider = tensor;
  wider.shape.rank = tensor.shape.rank + 1;
  for (int i = tensor.shape.rank; i > at; --i) {
    wider.shape[i] = tensor.shape[i - 1];
    wider.stride[i] = tensor.stride[i - 1];
  }
  wider.shape[at] = 1;
  wider.stride[at] = 0;
  return wider;
}

Tensor to_rank_4(const char* name, const Tensor& tensor, int rank) {
  if (tensor.shape.rank == 0) return tensor;
  if (tensor.shape.rank != rank)
    throw InputError(fmt::format("attention {}: shape {}, expected rank {} like its fellows", name,
                                 to_string(tensor.shape), rank));
  Tensor wider = tensor;
  if (rank == 2) wider = insert_dimension(wider, 0);  // (L, D): one head
  if (rank <= 3) wider = insert_dimension(wider, 1);  // (N, L, D): N batch entries of one head
  return wider;
}

}  // namespace

void set_inputs(AttentionProblem& problem, const AttentionViews& views) {
  const int queries = views.q.shape.rank, keys = views.k.shape.rank;
  const bool legal = queries == keys ? queries >= 2 && queries <= 4 : queries == 4 && keys == 3;
  if (!legal)
    throw InputError(
        fmt::format("attention: q of rank {} with k of rank {}, expected both 2, 3 or 4, "
                    "or 4 with 3 (one shared key head)",
                    queries, keys));
  problem.q = to_rank_4("q", views.q, queries);
  problem.q2 = to_rank_4("q2", views.q2, queries);
  problem.o = to_rank_4("o", views.o, queries);
  problem.do_ = to_rank_4("do", views.do_, queries);
  problem.dq = to_rank_4("dq", views.dq, queries);
  problem.dq2 = to_rank_4("dq2", views.dq2, queries);
  problem.k = to_rank_4("k", views.k, keys);
  problem.v = to_rank_4("v", views.v, keys);
  problem.k2 = to_rank_4("k2", views.k2, keys);
  problem.dk = to_rank_4("dk", views.dk, keys);
  problem.dv = to_rank_4("dv", views.dv, keys);
  problem.dk2 = to_rank_4("dk2", views.dk2, keys);
}

}  // namespace quietformer
