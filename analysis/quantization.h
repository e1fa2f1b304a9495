// Simulated uniform quantisation: numbers are rounded to the grid that integers of some bits could
// hold, and stay floating-point numbers, so that any model shows what a quantised one would lose.
//
//   scheme       grid of b bits, integers q                  scale s                      zero
//   point z symmetric    -(2^(b-1) - 1) ... 2^(b-1) - 1              max|x| / (2^(b-1) - 1)       0
//   asymmetric   0 ... 2^b - 1                               (high - low) / (2^b - 1) round(-low/s)
//
//   q(x) = clamp(round(x / s) + z)        x^ = s (q(x) - z)
//
// Symmetric int8 is [-127, 127]: -128 is given up, so that x and -x are equally well represented.
// An asymmetric range is first widened to hold 0, and z is an integer of the grid, so 0 is exactly
// representable: padding, ReLU's zeros and hidden weights of attention stay 0. The range is then
// what s and z make of it, at most half a step away from the one asked for.
//
// round() goes to the nearest, ties to even. x / s is x times the rounded 1 / s, as in PyTorch's
// fake_quantize_per_tensor_affine, whose results in f32 these are bit for bit. NaN stays NaN,
// infinities become the ends of the range.
//
// Sources: Jacob et al., arXiv 1712.05877, eq. 1-3; Nagel et al., "A White Paper on Neural Network
// Quantization", arXiv 2106.08295, 2.2; Krishnamoorthi, arXiv 1806.08342, 2.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

struct Grid {
  float scale = 1;  // f32 whatever the type of the numbers, as kernels of integers have it
  std::int32_t zero = 0;
  std::int32_t first = 0, last = 0;  // integers

  double low() const { return double(scale) * (first - zero); }  // the range's ends
  double high() const { return double(scale) * (last - zero); }
};

/// Bits that a grid may have.
inline constexpr int kFewestBits = 2, kMostBits = 16;

/// A range of 0 width gives scale 1: zeros stay zeros. max_abs, low <= high: finite in f32.
Grid symmetric_grid(double max_abs, int bits);
Grid asymmetric_grid(double low, double high, int bits);

/// out = x^ of in. Equal shapes, f32 or f64; contiguous, or of rank 2 with any row strides. out may
/// be in. On a GPU in the order of ctx.stream's work.
void fake_quantize(const Context& ctx, const Tensor& out, const Tensor& in, const Grid& grid);

enum class WeightScales : std::uint8_t { tensor, channel };
enum class WeightRange : std::uint8_t { minmax, mse };

/// How the weights of linear layers are quantised: symmetrically, with one scale or, by output
/// channel, one for each row. `mse` takes the range with the least squared error among max|w|
/// 2^(-i/16), i = 0 ... 127.
struct WeightQuantization {
  int bits = 8;
  WeightScales scales = WeightScales::tensor;
  WeightRange range = WeightRange::minmax;
};

struct QuantizedWeights {
  OwnedTensor values;        // on the host
  double low = 0, high = 0;  // ends of the widest range
  double squared_error = 0;  // mean over all weights
};

/// weight (out, in) on the host, contiguous, finite, f32 or f64. The result does not depend on
/// ctx.threads.
QuantizedWeights quantize_weights(const Context& ctx, const Tensor& weight,
                                  const WeightQuantization& how);

}  // namespace quietformer
