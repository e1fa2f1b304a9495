// layers/cuda without CUDA: takes the place of the .cu files in builds with QUIETFORMER_CUDA=OFF.
#include "core/cuda/memory.h"
#include "layers/cuda/operations.h"

namespace quietformer::cuda {
namespace {

[[noreturn]] void absent() {
  throw RunError(unavailable());
}

}  // namespace

void copy_to_rows(const Context&, const Tensor&, const Tensor&) {
  absent();
}
void add_rows(const Context&, const Tensor&, const Tensor&) {
  absent();
}
void gelu_forward(const Context&, GeluForm, const Tensor&, const Tensor&) {
  absent();
}
void gelu_backward(const Context&, GeluForm, const Tensor&, const Tensor&, const Tensor&) {
  absent();
}
void swiglu_forward(const Context&, const Tensor&, const Tensor&, const Tensor&) {
  absent();
}
void swiglu_backward(const Context&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                     const Tensor&) {
  absent();
}
void attention_gate_forward(const Context&, const Tensor&, const Tensor&,
                            const AttentionGateInputs&) {
  absent();
}
void attention_gate_backward_input(const Context&, const AttentionGateGradients&, const Tensor&,
                                   const Tensor&, const AttentionGateInputs&) {
  absent();
}
void attention_gate_backward_parameters(const Context&, const Tensor&, const Tensor&, const Tensor&,
                                        const Tensor&) {
  absent();
}
void residual_forward(const Context&, const Tensor&, const Tensor&, const Tensor&, double,
                      const Tensor&) {
  absent();
}
void residual_backward_gain(const Context&, const Tensor&, const Tensor&, const Tensor&,
                            const Tensor&, const Tensor&) {
  absent();
}
void dropout_apply(const Context&, const Dropout&, const Tensor&, const Tensor&) {
  absent();
}
void norm_forward(const Context&, NormKind, const Tensor&, const NormStatistics&, const Tensor&,
                  const Tensor&, const Tensor&, double) {
  absent();
}
void norm_backward_input(const Context&, NormKind, const Tensor&, const Tensor&, const Tensor&,
                         const NormStatistics&, const Tensor&, double, Accumulate) {
  absent();
}
void norm_backward_parameters(const Context&, NormKind, const Tensor&, const Tensor&, const Tensor&,
                              const Tensor&, const NormStatistics&) {
  absent();
}
void norm_backward(const Context&, NormKind, const Tensor&, const Tensor&, const Tensor&,
                   const Tensor&, const Tensor&, const NormStatistics&, const Tensor&, double,
                   Accumulate) {
  absent();
}
void join_norm_forward(const Context&, NormKind, const Tensor&, const NormStatistics&, const Join&,
                       const Tensor&, const Tensor&, double) {
  absent();
}
void embedding_forward(const Context&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       double) {
  absent();
}
void embedding_backward(const Context&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                        double) {
  absent();
}
void rotate(const Context&, const Tensor&, const Tensor&, const RotaryTable&, const Tensor&, int,
            Accumulate) {
  absent();
}
void padding_positions(const Context&, const Tensor&, const Tensor&, std::int32_t) {
  absent();
}
void cross_entropy_forward(const Context&, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&, const Tensor&, const LossGradient&) {
  absent();
}
void cross_entropy_backward(const Context&, const Tensor&, const Tensor&, const Tensor&,
                            const Tensor&, const Tensor&, double) {
  absent();
}

}  // namespace quietformer::cuda
