// The blocks of a model, one after another.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "layers/block.h"

namespace quietformer {

/// Blocks, the residual stream between them and, unless model.norm_structure is `post`, whose
/// blocks end in one, a final norm. Parameters: `blocks.N...`, then `norm`.
class BlockStack {
 public:
  /// `model` is resolved.
  BlockStack(ParameterList& parameters, const ModelConfig& model, const AttentionConfig& attention);
  BlockStack(const BlockStack&) = delete;  // blocks point to the rotations
  BlockStack& operator=(const BlockStack&) = delete;

  void declare(const Context& ctx, Arena& arena, BatchShape shape, Purpose purpose);

  /// Where the stream starts, (B,T,C): the caller writes it, and leaves it until backward.
  Tensor input(BatchShape shape) const { return residual(0, shape); }
  /// What becomes of it, (B,T,C); it stays until the next forward. key_padding u8 (B,T), 0: nobody
  /// attends to that token; absent: all take part.
  Tensor forward(const Context& ctx, BatchShape shape, const Tensor& key_padding);

  /// Where the gradient of forward()'s result goes.
  Tensor d_output(BatchShape shape) const;
  /// Then: the gradient of input(), which the caller may overwrite.
  Tensor backward(const Context& ctx, BatchShape shape);

  void set_schedule_step(const Context& ctx, std::int64_t step);
  void set_schedule_step(std::int64_t step);
  void set_operand_hook(OperandHook* hook) {
    for (Block& block : blocks_) block.set_operand_hook(hook);
  }
  std::string_view attention_implementation() const {
    return blocks_.front().attention_implementation();
  }

 private:
  Tensor sized(const Slot& slot, BatchShape shape) const;
  Tensor residual(std::size_t index, BatchShape shape) const {
    return sized(residuals_[index], shape);
  }
  FollowingNorm following(std::size_t block, BatchShape shape);

  std::int64_t dim_;
  DType dtype_;
  std::optional<Rotary> rotary_;
  std::vector<Block> blocks_;
  std::optional<Norm> norm_;
  std::vector<Slot> residuals_;  // saved: block inputs, and the last block's output
  Slot normed_;                  // saved
  Slot gradient_, d_normed_;     // shared
};

}  // namespace quietformer
