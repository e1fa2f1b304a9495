// GELU (Hendrycks, Gimpel, arXiv 1606.08415) in both forms, and SwiGLU (Shazeer, arXiv 2002.05202).
// All tensors of a call have one shape and are contiguous.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

/// tanh: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's. erf: x Phi(x), exact.
enum class GeluForm : std::uint8_t { tanh, erf };

/// y = gelu(x); y may alias x.
void gelu_forward(const Context& ctx, GeluForm form, const Tensor& y, const Tensor& x);
/// dx = dy gelu'(x); dx may alias dy.
void gelu_backward(const Context& ctx, GeluForm form, const Tensor& dx, const Tensor& dy,
                   const Tensor& x);

/// y = silu(gate) * up with silu(z) = z sigmoid(z); y may alias gate or up.
void swiglu_forward(const Context& ctx, const Tensor& y, const Tensor& gate, const Tensor& up);
/// Gradients of both inputs; one of d_gate, d_up may alias dy.
void swiglu_backward(const Context& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& dy,
                     const Tensor& gate, const Tensor& up);

}  // namespace quietformer
