// What a model's products read can be looked at and replaced: simulated quantisation, in
// evaluation.
#pragma once

#include <string_view>

#include "core/context.h"
#include "core/tensor.h"

namespace quietformer {

/// Sees the operands of products that are no parameters. Their names, sites, are paths:
///   LINEAR.input                  what a linear layer reads: blocks.N.attention.qkv, .gate, .out,
///                                 blocks.N.mlp.up, .gate (swiglu), .down, an encoder's head.dense.
///                                 It is multiplied by the parameter LINEAR.weight
///   head.input                    what is multiplied by LanguageModel::head_weight()
///   blocks.N.attention.q, .k, .v  what attention reads, after norms and rotation; with
///                                 attention.score piecewise also .q2 and .k2, the far pair
///   blocks.N.attention.weights    what v is multiplied by; only where wants() says so
/// A site is offered once per forward pass, with all of the batch. No backward pass may follow one
/// with a hook.
class OperandHook {
 public:
  virtual ~OperandHook() = default;

  /// Whether weights of attention are wanted: they are then computed by an implementation that can
  /// export them. Asked by declare(), and always answered alike.
  virtual bool wants(std::string_view site) const = 0;

  /// What is read instead of `value`, which is contiguous, or of rank 2 with any row stride: either
  /// `value` itself, or memory of the hook's, of the same shape and type, which stays as it is
  /// until the next call.
  virtual Tensor replace(const Context& ctx, std::string_view site, const Tensor& value) = 0;

  /// The same for what may be overwritten; whether it was.
  virtual bool overwrite(const Context& ctx, std::string_view site, const Tensor& value) = 0;
};

/// What a product reads.
inline Tensor operand(const Context& ctx, OperandHook* hook, std::string_view site,
                      const Tensor& value) {
  return hook == nullptr ? value : hook->replace(ctx, site, value);
}

}  // namespace quietformer
