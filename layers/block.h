// A transformer block: attention and MLP, each joined to the residual stream.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "layers/dropout.h"
#include "layers/mlp.h"
#include "layers/norm.h"
#include "layers/residual.h"
#include "layers/self_attention.h"

namespace quietformer {

/// The norm that reads a sum next, and where it writes: the sum and the norm are then one pass on a
/// GPU. No norm: nothing follows at once.
struct FollowingNorm {
  Norm* norm = nullptr;
  Tensor normed;
};

/// What surrounds a sublayer f (f is called by the owner, between input() and join()):
///   pre     y = x + g * drop(f(norm(x)))
///   post    y = norm(alpha x + g * drop(f(x)))       alpha: DeepNet's (2 layers)^(1/4), or 1
///   hybrid  y = x + g * drop(norm_post(f(norm(x))))  (axlearn's hybrid norm)
/// with LayerScale's gain g when model.layer_scale > 0. Parameters: `path.normI`, hybrid also
/// `path.normI_post`, and `path.layer_scaleI.weight` (C).
class ResidualBranch {
 public:
  /// `index` I is 1 for attention, 2 for the MLP.
  ResidualBranch(ParameterList& parameters, const std::string& path, int index,
                 const ModelConfig& model, std::uint32_t layer);
  void declare(Arena& arena, BatchShape shape, Purpose purpose);

  /// For the join() that writes this branch's x: input() then has nothing left to do. No norm where
  /// none is read first.
  FollowingNorm following(BatchShape shape);
  /// What f reads; x must stay unchanged until backward.
  Tensor input(const Context& ctx, const Tensor& x);
  /// Where f writes.
  Tensor output(BatchShape shape) const { return sized(branch_, shape); }
  /// Then: writes y, which may alias x when no backward follows, and what `next` says.
  void join(const Context& ctx, const Tensor& y, const Tensor& x, const FollowingNorm& next = {});

  /// Backward, in opposite order. `gradient` holds that of y and may be overwritten in the process.
  /// Returns the gradient of f's output.
  Tensor join_backward(const Context& ctx, const Tensor& gradient);
  /// Where f's backward writes the gradient of its input.
  Tensor d_input(BatchShape shape) const { return sized(d_input_, shape); }
  /// Then: `gradient` becomes that of x.
  void input_backward(const Context& ctx, const Tensor& gradient);

 private:
  Tensor sized(const Slot& slot, BatchShape shape) const;

  std::string path_, suffix_;
  NormStructure structure_;
  std::int64_t dim_;
  double alpha_;
  DType dtype_;
  Dropout dropout_;
  Norm norm_;
  std::optional<Norm> post_norm_;        // hybrid
  Parameter gain_;                       // empty without LayerScale
  Slot normed_, branch_, joined_, sum_;  // saved; joined_: hybrid's normed branch, sum_: post
  Slot d_branch_, d_input_;              // shared
  BatchShape shape_;                     // of the last forward
  bool normed_already_ = false;          // by the join() before
};

/// y = block(x), (B,T,C). x must stay unchanged until backward; y may alias x only in inference.
/// Probes: those of its parts and path.output.
class Block {
 public:
  /// `model` is resolved; `rotary` as in SelfAttention.
  Block(ParameterList& parameters, const std::string& path, const ModelConfig& model,
        const AttentionConfig& attention, std::uint32_t layer, const Rotary* rotary);
  void declare(const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose);
  /// `key_padding` as in SelfAttention::forward(); `next` is the norm that reads y next.
  void forward(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& key_padding = {},
               const FollowingNorm& next = {});
  /// For the block before, or the embedding.
  FollowingNorm following(BatchShape shape) { return branch1_.following(shape); }
  /// In place: `gradient` is that of y before and that of x after.
  void backward(const Context& ctx, const Tensor& gradient);
  std::string_view attention_implementation() const { return attention_.implementation(); }
  void set_schedule_step(const Context& ctx, std::int64_t step) {
    attention_.set_schedule_step(ctx, step);
  }
  void set_schedule_step(std::int64_t step) { attention_.set_schedule_step(step); }
  void set_operand_hook(OperandHook* hook) {
    attention_.set_operand_hook(hook);
    mlp_.set_operand_hook(hook);
  }

 private:
  std::string path_, output_name_;
  std::int64_t dim_;
  DType dtype_;
  ResidualBranch branch1_;
  SelfAttention attention_;
  ResidualBranch branch2_;
  Mlp mlp_;
  Slot middle_;  // saved: the residual stream between the sublayers
};

}  // namespace quietformer
