// The feed-forward sublayer: down(gelu(up(x))), or down(silu(gate(x)) * up(x)).
#pragma once

#include <optional>
#include <string>

#include "layers/activation.h"
#include "layers/linear.h"
#include "layers/model_config.h"

namespace quietformer {

/// Parameters `path.up`, `path.gate` (swiglu) and `path.down`, weights and, with model.bias,
/// biases. The input must stay unchanged until backward. Probe: path.output.
class Mlp {
 public:
  /// `model` is resolved.
  Mlp(ParameterList& parameters, const std::string& path, const ModelConfig& model);
  void declare(Arena& arena, BatchShape shape, Purpose purpose);
  void forward(const Context& ctx, const Tensor& y, const Tensor& x);
  void backward(const Context& ctx, const Tensor& dx, const Tensor& dy);
  void set_operand_hook(OperandHook* hook);

 private:
  GeluForm gelu_form() const { return kind_ == MlpKind::gelu ? GeluForm::tanh : GeluForm::erf; }

  std::string path_, output_name_;
  MlpKind kind_;
  std::int64_t dim_;
  DType dtype_;
  Linear up_;
  std::optional<Linear> gate_;
  Linear down_;
  Slot up_out_, gate_out_, active_;  // saved
  Slot d_up_, d_gate_;               // shared
};

}  // namespace quietformer
