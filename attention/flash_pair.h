// One pair of the flash implementation. Included by the generated sources.
#pragma once

#include "attention/flash_backward.h"
#include "attention/flash_forward.h"

namespace quietformer {

template <class S, class N>
void FlashPair<S, N>::forward(const Context& ctx, const AttentionProblem& problem) {
  dispatch_floating(problem.q.dtype, [&]<class T>() { FlashForward<S, N, T>(ctx, problem).run(); });
}

template <class S, class N>
void FlashPair<S, N>::backward(const Context& ctx, const AttentionProblem& problem) {
  dispatch_floating(problem.q.dtype,
                    [&]<class T>() { FlashBackward<S, N, T>(ctx, problem).run(); });
}

}  // namespace quietformer
