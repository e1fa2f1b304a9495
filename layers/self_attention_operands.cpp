// What a hook does to attention's operands.
#include "core/gemm.h"
#include "layers/rows.h"
#include "layers/self_attention.h"

namespace quietformer {

void SelfAttention::set_operand_hook(OperandHook* hook) {
  hook_ = hook;
  qkv_.set_operand_hook(hook);
  if (gate_) gate_->set_operand_hook(hook);
  out_.set_operand_hook(hook);
}

/// In place: without a backward pass nobody else reads these rows.
void SelfAttention::replace_operands(const Context& ctx) {
  const std::int64_t query = heads_ * head_dim_, key = kv_heads_ * head_dim_;
  const auto replace = [&](const char* site, const Slot& slot, std::int64_t width,
                           std::int64_t first, std::int64_t columns) {
    const Tensor matrix = fit(slot, {shape_.rows(), width});
    hook_->overwrite(ctx, path_ + site, matrix.slice(1, first, columns));
  };
  const std::int64_t near = q_norm_ ? query + key : packed_width();
  replace(".q", q_norm_ ? normed_ : qkv_out_, near, 0, query);
  replace(".k", q_norm_ ? normed_ : qkv_out_, near, query, key);
  replace(".v", qkv_out_, packed_width(), query + key, key);
  if (!far_) return;
  replace(".q2", far_, query + key, 0, query);
  replace(".k2", far_, query + key, query, key);
}

/// o again, where weights were replaced: a product for each sequence and head.
void SelfAttention::replace_weights(const Context& ctx, const AttentionProblem& p) {
  if (!hook_->overwrite(ctx, weights_name_, p.weights)) return;
  const auto matrix = [](const Tensor& t, std::int64_t b, std::int64_t h) {
    Tensor view = t;
    view.data = static_cast<char*>(t.data) + (b * t.stride[0] + h * t.stride[1]) * size_of(t.dtype);
    view.shape = {t.shape[2], t.shape[3]};
    view.stride = {t.stride[2], 1, 0, 0, 0};
    return view;
  };
  for (std::int64_t b = 0; b < shape_.batch; ++b)
    for (std::int64_t h = 0; h < heads_; ++h)
      gemm(ctx, matrix(p.o, b, h), matrix(p.weights, b, h), Transpose::no,
           matrix(p.v, b, h * kv_heads_ / heads_), Transpose::no);
}

}  // namespace quietformer
