// Scores of two pairs: which keys of a row take the far one.
#include "attention/cuda/reference_steps.h"
#include "attention/cuda/row_problem.cuh"
#include "attention/policies.h"
#include "core/cuda/launch.h"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 256;

/// A block of threads per row. select: near = far where the far pair counts. Otherwise the far
/// pair's part moves from near to far, zeros stay behind.
template <class S, class T, bool select>
__global__ void pairs_kernel(RowProblem<T> p, RowBlock b, T* near, T* far) {
  const int x = static_cast<int>(blockIdx.y);
  const std::int64_t row = b.first_row + blockIdx.x, offset = b.at(x, blockIdx.x);
  const SequencePlace s = sequence_of(p, b.batch(x), row);
  const std::int64_t end =
      s.first_key + S::far_end(s.position(row - s.first_query), p.far_threshold, s.keys);
  for (std::int64_t c = b.key_begin + threadIdx.x; c < b.key_end; c += kThreads) {
    T &at_near = near[offset + c], &at_far = far[offset + c];
    if constexpr (select) {
      if (c < end) at_near = at_far;
    } else {
      at_far = c < end ? at_near : T(0);
      if (c < end) at_near = T(0);
    }
  }
}

template <bool select, class T>
void run(const Context& ctx, Score score, const RowProblem<T>& problem, const RowBlock& b, T* near,
         T* far) {
  const auto start = [&]<class S>() {
    if constexpr (S::pairs == 2)
      launch(ctx, "near and far scores",
             {dim3(static_cast<unsigned>(b.rows), static_cast<unsigned>(b.tasks)), dim3(kThreads)},
             pairs_kernel<S, T, select>, problem, b, near, far);
  };
#define QF_CASE(word, Type) \
  if (score == Score::word) start.template operator()<Type>();
  QUIETFORMER_SCORES(QF_CASE)
#undef QF_CASE
}

}  // namespace

template <class T>
void select_far(const Context& ctx, Score score, const RowProblem<T>& problem,
                const RowBlock& block, T* near, const T* far) {
  run<true>(ctx, score, problem, block, near, const_cast<T*>(far));
}
template <class T>
void split_far(const Context& ctx, Score score, const RowProblem<T>& problem, const RowBlock& block,
               T* near, T* far) {
  run<false>(ctx, score, problem, block, near, far);
}

#define QF_INSTANCE(T)                                                                       \
  template void select_far(const Context&, Score, const RowProblem<T>&, const RowBlock&, T*, \
                           const T*);                                                        \
  template void split_far(const Context&, Score, const RowProblem<T>&, const RowBlock&, T*, T*);
QF_INSTANCE(float)
QF_INSTANCE(double)
#undef QF_INSTANCE

}  // namespace quietformer::cuda
