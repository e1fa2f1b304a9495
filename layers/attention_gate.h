// Gated attention (Bondarenko, Nagel, Blankevoort, arXiv 2306.12929, section 4.2): every head's
// output times a gate that each token opens or closes, so that a head can do nothing without
// driving scores to extremes.
#pragma once

#include <cstdint>
#include <string>

#include "layers/layer.h"
#include "layers/operand_hook.h"

namespace quietformer {

/// What a gate reads. x and context (..., H D) contiguous, weight (H,D), bias (H); the last two in
/// the accumulation type.
struct AttentionGateInputs {
  Tensor x;        // the attention layer's input
  Tensor context;  // the heads' outputs
  Tensor weight, bias;
};

/// gate[r][h] = sigmoid(sum over d of weight[h][d] x[r][h D + d] + bias[h]) and
/// y[r][h D + d] = gate[r][h] context[r][h D + d]: equations 5 and 6 with G_h linear in the head's
/// own slice of x. y (..., H D); gate (rows, H) in the accumulation type. y may alias context.
void attention_gate_forward(const Context& ctx, const Tensor& y, const Tensor& gate,
                            const AttentionGateInputs& in);

/// From dy (..., H D): d_logit[r][h] = gate (1 - gate) sum over d of dy context, (rows, H) in the
/// accumulation type; d_context = gate dy, which may alias dy; dx = d_logit weight, overwritten.
struct AttentionGateGradients {
  Tensor d_logit, d_context, dx;
};
void attention_gate_backward_input(const Context& ctx, const AttentionGateGradients& out,
                                   const Tensor& dy, const Tensor& gate,
                                   const AttentionGateInputs& in);

/// d_weight[h][d] += sum over r of d_logit[r][h] x[r][h D + d]; d_bias[h] += sum over r of d_logit.
void attention_gate_backward_parameters(const Context& ctx, const Tensor& d_weight,
                                        const Tensor& d_bias, const Tensor& d_logit,
                                        const Tensor& x);

/// Parameters `path.weight` (H,D) and `path.bias` (H), read as masters: D + 1 numbers a head, the
/// width of the residual stream + H a layer. x and context must stay unchanged until
/// backward. Site: path.input, which is x.
class AttentionGate {
 public:
  /// The bias starts at `bias`, so that gates start near sigmoid(bias), the paper's pi_init.
  AttentionGate(ParameterList& parameters, const std::string& path, std::int64_t heads,
                std::int64_t head_dim, Init weight, double bias);
  void declare(Arena& arena, std::int64_t rows, Purpose purpose);
  void forward(const Context& ctx, const Tensor& y, const Tensor& x, const Tensor& context);
  /// Overwrites dx and d_context, which may alias dy.
  void backward(const Context& ctx, const Tensor& dx, const Tensor& d_context, const Tensor& dy);
  void set_operand_hook(OperandHook* hook) { hook_ = hook; }
  /// The gates of the last forward, (B,T,H).
  Tensor gates(BatchShape shape) const;

 private:
  AttentionGateInputs inputs() const;

  std::string path_, input_name_;
  OperandHook* hook_ = nullptr;
  std::int64_t heads_;
  DType dtype_;  // of gates
  Parameter weight_, bias_;
  Slot gate_;     // saved
  Slot d_logit_;  // shared
  Tensor x_, context_;
};

}  // namespace quietformer
