// The contract of every layer.
//
// A layer is built in three steps: the constructor takes its description and registers its
// parameters (add to a ParameterList, names prefixed by the layer's path); declare() declares its
// saved slots and shared temporaries in an Arena for given batch dimensions; after both are
// committed, forward() and backward() run any number of times without allocating, on batches up to
// the declared dimensions.
//
//   forward(ctx, out, in)        writes `out` and the layer's saved slots, nothing else
//   backward(ctx, d_in, d_out)   reads saved slots, d_out and parameters; overwrites d_in;
//                                adds to the parameters' gradients
//
// Whether the input itself must survive until backward, and what may alias, is stated per layer; by
// default the input must stay unchanged (the layer keeps a view, not a copy) and nothing may alias.
// In formulas of all headers here `=` overwrites and `+=` adds. Shapes and types that do not fit
// are the caller's bugs (std::logic_error); token ids and configurations come from users
// (InputError).
//
// Tensors are contiguous. A layer works in the type of its ParameterList (f32, or f64 for checks;
// on a GPU also bf16 and f16, whose statistics and parameters' gradients are f32) and on its
// device, which is ctx.device and every tensor's. Activations are (B, T, C); operations without a
// sequence take any leading dimensions as rows.
//
// Operations are free functions on tensors (layernorm_forward, gelu_backward, ...), documented in
// their headers and tested one by one; layer classes hold parameters and saved slots and call them.
#pragma once

#include <string>
#include <string_view>

#include "core/buffer.h"
#include "core/context.h"
#include "core/parameter.h"

namespace quietformer {

/// Sizes a layer is declared for: B sequences of T tokens.
struct BatchShape {
  std::int64_t batch = 0;
  std::int64_t tokens = 0;
  std::int64_t rows() const { return batch * tokens; }
};

/// Whether declare() reserves what backward needs.
enum class Purpose : std::uint8_t { inference, training };

/// A tensor that backward reads: in training one of its own, `path.name`; in inference one that all
/// layers share under `name`.
Slot declare_saved(Arena& arena, Purpose purpose, const std::string& path, const std::string& name,
                   DType dtype, const Shape& shape);

/// Offers an activation to whoever watches. Names are built once, in constructors.
inline void record(const Context& ctx, std::string_view name, const Tensor& value) {
  if (ctx.probes != nullptr && ctx.probes->wants(name)) ctx.probes->record(ctx, name, value);
}

}  // namespace quietformer
