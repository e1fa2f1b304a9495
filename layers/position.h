// Sinusoids, rotations, and positions that count tokens.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/context.h"
#include "core/gemm.h"

namespace quietformer {

/// table (T, C): table[t, 2i] = sin(t / 10000^(2i/C)), table[t, 2i+1] = cos of the same (Vaswani et
/// al., arXiv 1706.03762, 3.5). Overwrites a contiguous table of any floating type, on any
/// device; waits for a GPU.
void fill_sinusoids(const Tensor& table);

/// Angles of rotary positions (Su et al., arXiv 2104.09864), one table for all layers of a model:
/// cosine and sine (positions, D/2) of p * base^(-2d/D), computed in double.
class RotaryTable {
 public:
  RotaryTable() = default;
  RotaryTable(DType dtype, std::int64_t head_dim, std::int64_t positions, double base,
              Device device = {});
  const Tensor& cosine() const { return cosine_; }
  const Tensor& sine() const { return sine_; }

 private:
  OwnedTensor cosine_, sine_;
};

/// Rotates every head vector by the angles of its token's position: features d and d + D/2 form a
/// pair (the half-split layout of GPT-NeoX and Llama's converted checkpoints, not adjacent pairs):
///   y[d] = x[d] cos - x[d + D/2] sin,   y[d + D/2] = x[d + D/2] cos + x[d] sin.
/// x, y (B,T,H,D): dimension 1 is the token, whatever the strides; unit inner stride. y may alias x
/// exactly. The table has the accumulation type of x. `positions` i32 (T) gives the table row of
/// every token, so that two different maps can serve near and far pairs; values outside the table
/// are std::logic_error, on a GPU NaN.
void rotary_forward(const Context& ctx, const Tensor& y, const Tensor& x, const RotaryTable& table,
                    const Tensor& positions);

/// The opposite rotation: dx is overwritten (may alias dy exactly) or added to.
void rotary_backward(const Context& ctx, const Tensor& dx, const Tensor& dy,
                     const RotaryTable& table, const Tensor& positions,
                     Accumulate accumulate = Accumulate::overwrite);

/// RoBERTa's positions: padding sits at padding_token, and the tokens of a sequence that are not
/// padding at padding_token + 1, + 2, ... in their order. positions, tokens i32 (B,T), contiguous.
void padding_positions(const Context& ctx, const Tensor& positions, const Tensor& tokens,
                       std::int32_t padding_token);

}  // namespace quietformer
