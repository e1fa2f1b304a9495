// Attention on a GPU as a chain of 16-bit operations, each of which rounds what it writes to the
// storage type and sums in f32: what the twofold rule (design.md, Testing) compares with. Written
// from the definitions, without the kernels under test. Slow; memory for (B,H,L,S) several times.
#pragma once

#include "attention/attention.h"
#include "core/buffer.h"

namespace quietformer::test {

/// Fills an f64 tensor with N(0, std^2), rounded to `storage`; element i depends on (seed, i).
void fill_normal(const Context& ctx, const Tensor& out, std::uint32_t seed, double std,
                 DType storage);
/// Fills a u8 tensor with ones at this rate, else zeros.
void fill_mask(const Context& ctx, const Tensor& out, std::uint32_t seed, double rate);
/// Rank 4, any strides, bf16, f16 or f32 <- contiguous f64.
void narrow(const Context& ctx, const Tensor& out, const Tensor& in);
/// max |found - exact|, infinite where `found` is NaN. `found` as narrow()'s `out`, exact
/// contiguous f64. Waits.
double max_error(const Context& ctx, const Tensor& found, const Tensor& exact);

/// f32 tensors of numbers of the storage type, shapes as in the problem. [2]: near and far pair.
struct Unfused {
  OwnedTensor o, dq[2], dk[2], dv;
};

/// The computation for a problem in f64 whose inputs are numbers of `storage`; backward when there
/// is a do. All tensors are contiguous; `weights` of the problem, exported by the reference, say
/// which keys are hidden (0).
Unfused unfused(const Context& ctx, const AttentionProblem& exact, DType storage);

}  // namespace quietformer::test
