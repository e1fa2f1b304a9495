// The end of a language model: logits over the vocabulary and their cross-entropy.
#pragma once

#include <cstdint>

#include "layers/layer.h"
#include "layers/operand_hook.h"

namespace quietformer {

/// Which rows of logits are computed.
enum class LogitRows : std::uint8_t { all, last };

/// What a loss is multiplied by before its gradient is taken.
struct LossScale {
  double scale = 1;
  Tensor dynamic{};  // f32 (1) on a GPU, or absent
};

/// logits = features weight^T (+ bias), and their loss. On a GPU logits, weight and bias are padded
/// to a multiple of kRowPadding columns. It has no parameters of its own: the model registers them.
/// Site: head.input.
class VocabularyHead {
 public:
  /// `weight` (vocab, dim), `bias` (vocab) or one without slots, of these parameters.
  VocabularyHead(const ParameterList& parameters, const Parameter& weight, const Parameter& bias,
                 std::int64_t vocab, std::int64_t dim);
  void declare(Arena& arena, BatchShape shape);

  /// features (B,T,C), unchanged until backward() -> logits (B,T,V), or (B,1,V) of the last tokens.
  Tensor forward(const Context& ctx, const Tensor& features, LogitRows rows);
  /// forward() of all rows, and the cross-entropy of targets (B,T).
  void forward_loss(const Context& ctx, const Tensor& features, const Tensor& targets);
  /// The same, and loss_gradient() in one pass over the logits.
  void forward_loss_gradient(const Context& ctx, const Tensor& features, const Tensor& targets,
                             const LossScale& scale);
  /// After forward_loss(): the logits become `scale` times the gradient of loss()[0] by them.
  void loss_gradient(const Context& ctx, double scale);
  /// Then: adds to the parameters' gradients and writes d_features (B,T,C).
  void backward(const Context& ctx, const Tensor& d_features);

  const Parameter& weight() const { return weight_; }
  void set_operand_hook(OperandHook* hook) { hook_ = hook; }

  Tensor loss() const { return loss_; }  // as LanguageModel says, and token_losses()
  Tensor token_losses() const;

 private:
  Tensor padded(const Slot& slot) const;
  Tensor padded_logits(std::int64_t rows) const;
  Tensor logits(std::int64_t rows) const;
  void cross_entropy(const Context& ctx, const Tensor& features, const Tensor& targets,
                     const LossScale* gradient);

  OperandHook* hook_ = nullptr;
  Parameter weight_, bias_;
  std::int64_t vocab_, dim_, columns_;  // columns_: of logits, the vocabulary and its padding
  DType dtype_;
  Slot logits_, loss_, row_loss_, row_lse_;
  Tensor targets_, features_;  // of the last forward
};

}  // namespace quietformer
