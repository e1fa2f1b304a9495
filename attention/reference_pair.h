// One pair of the reference: distributes tasks over threads and adds up what tasks share. Included
// by the generated sources.
#pragma once

#include "attention/reference_backward.h"
#include "attention/reference_forward.h"
#include "core/parallel.h"

namespace quietformer {

template <class S, class N>
void ReferencePair<S, N>::forward(const Context& ctx, const AttentionProblem& problem) {
  const ReferenceLayout layout(ctx, problem);
  const std::int64_t kv_heads = problem.kv_heads();
  dispatch_floating(problem.q.dtype, [&]<class T>() {
    parallel_chunks(ctx, problem.batch() * kv_heads, [&](std::int64_t task, int thread) {
      ReferenceTask<S, N, T>(ctx, problem, layout, thread, task / kv_heads, task % kv_heads)
          .forward();
    });
  });
}

template <class S, class N>
void ReferencePair<S, N>::backward(const Context& ctx, const AttentionProblem& problem) {
  const ReferenceLayout layout(ctx, problem);
  char* const workspace = static_cast<char*>(problem.workspace.data);
  double* partials = reinterpret_cast<double*>(workspace + layout.partials);
  double* dbias = reinterpret_cast<double*>(workspace + layout.dbias);
  std::fill_n(partials, problem.batch() * problem.heads() * (kMaxHeadParameters + 1), 0.0);
  begin_bias_gradient(problem, dbias);
  const BackwardChunks chunks(problem);
  dispatch_floating(problem.q.dtype, [&]<class T>() {
    parallel_chunks(ctx, chunks.count(), [&](std::int64_t chunk, int thread) {
      chunks.for_each_task(chunk, [&](std::int64_t sequence, std::int64_t kv_head) {
        ReferenceTask<S, N, T>(ctx, problem, layout, thread, sequence, kv_head).backward();
      });
    });
    write_parameter_gradients<T>(problem, partials);
    finish_bias_gradient<T>(problem, dbias);
  });
}

}  // namespace quietformer
