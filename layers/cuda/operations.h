// The operations of layers/ on a GPU: each is the function of the same name in namespace
// quietformer, which has checked shapes and types and calls it when ctx.device is a GPU. Host code:
// includes nothing of CUDA; in a build without CUDA (absent.cpp) every call is the RunError of
// core/cuda/memory.h.
//
// All return before the GPU is done and none waits for it. Sums run in an order that depends on
// sizes alone, so the same inputs give the same bits. f64, f32, bf16 and f16; the last two compute
// in f32 and round each result once. Tensors that are not on ctx.device are std::logic_error.
#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/gemm.h"
#include "core/tensor.h"
#include "layers/activation.h"
#include "layers/attention_gate.h"
#include "layers/cross_entropy.h"
#include "layers/dropout.h"
#include "layers/norm.h"
#include "layers/position.h"

namespace quietformer::cuda {

// linear.cu. Matrices (rows, columns) with unit inner stride.
void copy_to_rows(const Context& ctx, const Tensor& y, const Tensor& bias);
void add_rows(const Context& ctx, const Tensor& sums, const Tensor& matrix);

// activation.cu
void gelu_forward(const Context& ctx, GeluForm form, const Tensor& y, const Tensor& x);
void gelu_backward(const Context& ctx, GeluForm form, const Tensor& dx, const Tensor& dy,
                   const Tensor& x);
void swiglu_forward(const Context& ctx, const Tensor& y, const Tensor& gate, const Tensor& up);
void swiglu_backward(const Context& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& dy,
                     const Tensor& gate, const Tensor& up);

// attention_gate.cu
void attention_gate_forward(const Context& ctx, const Tensor& y, const Tensor& gate,
                            const AttentionGateInputs& in);
void attention_gate_backward_input(const Context& ctx, const AttentionGateGradients& out,
                                   const Tensor& dy, const Tensor& gate,
                                   const AttentionGateInputs& in);
void attention_gate_backward_parameters(const Context& ctx, const Tensor& d_weight,
                                        const Tensor& d_bias, const Tensor& d_logit,
                                        const Tensor& x);

// residual.cu: residual sums and dropout
void residual_forward(const Context& ctx, const Tensor& out, const Tensor& x, const Tensor& branch,
                      double alpha, const Tensor& gain);
void residual_backward_gain(const Context& ctx, const Tensor& d_branch, const Tensor& d_gain,
                            const Tensor& d_out, const Tensor& branch, const Tensor& gain);
void dropout_apply(const Context& ctx, const Dropout& dropout, const Tensor& y, const Tensor& x);

// norm.cu
void norm_forward(const Context& ctx, NormKind kind, const Tensor& y, const NormStatistics& saved,
                  const Tensor& x, const Tensor& weight, const Tensor& bias, double eps);
void norm_backward_input(const Context& ctx, NormKind kind, const Tensor& dx, const Tensor& dy,
                         const Tensor& x, const NormStatistics& saved, const Tensor& weight,
                         double eps, Accumulate accumulate);
void norm_backward_parameters(const Context& ctx, NormKind kind, const Tensor& d_weight,
                              const Tensor& d_bias, const Tensor& dy, const Tensor& x,
                              const NormStatistics& saved);

void norm_backward(const Context& ctx, NormKind kind, const Tensor& dx, const Tensor& d_weight,
                   const Tensor& d_bias, const Tensor& dy, const Tensor& x,
                   const NormStatistics& saved, const Tensor& weight, double eps,
                   Accumulate accumulate);
void join_norm_forward(const Context& ctx, NormKind kind, const Tensor& y,
                       const NormStatistics& saved, const Join& join, const Tensor& weight,
                       const Tensor& bias, double eps);

// embedding.cu, embedding_backward.cu: embedding and rotary positions
void embedding_forward(const Context& ctx, const Tensor& y, const Tensor& tokens,
                       const Tensor& weight, const Tensor& positions, double scale);
void embedding_backward(const Context& ctx, const Tensor& d_weight, const Tensor& d_positions,
                        const Tensor& dy, const Tensor& tokens, double scale);
/// `direction` 1 rotates forward, -1 back.
void rotate(const Context& ctx, const Tensor& y, const Tensor& x, const RotaryTable& table,
            const Tensor& positions, int direction, Accumulate accumulate);
void padding_positions(const Context& ctx, const Tensor& positions, const Tensor& tokens,
                       std::int32_t padding_token);

// cross_entropy.cu
void cross_entropy_forward(const Context& ctx, const Tensor& loss, const Tensor& row_loss,
                           const Tensor& row_lse, const Tensor& logits, const Tensor& targets,
                           const LossGradient& gradient);
void cross_entropy_backward(const Context& ctx, const Tensor& d_logits, const Tensor& logits,
                            const Tensor& targets, const Tensor& loss, const Tensor& row_lse,
                            double scale);

}  // namespace quietformer::cuda
