#include "layers/mlp.h"

#include "layers/initialisation.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

Linear make_up(ParameterList& parameters, const std::string& path, const ModelConfig& model) {
  return Linear(
      parameters, path, model.dim, model.mlp_dim, model.bias ? Bias::yes : Bias::no,
      projection_init(model, Projection::inner, model.dim, model.mlp_dim, deepnet_beta(model)));
}

}  // namespace

Mlp::Mlp(ParameterList& parameters, const std::string& path, const ModelConfig& model)
    : path_(path),
      output_name_(path + ".output"),
      kind_(find_mlp(model.mlp)),
      dim_(model.mlp_dim),
      dtype_(parameters.dtype()),
      up_(make_up(parameters, path + ".up", model)),
      gate_(kind_ == MlpKind::swiglu
                ? std::optional<Linear>(make_up(parameters, path + ".gate", model))
                : std::nullopt),
      down_(parameters, path + ".down", model.mlp_dim, model.dim, model.bias ? Bias::yes : Bias::no,
            projection_init(model, Projection::residual, model.mlp_dim, model.dim,
                            deepnet_beta(model))) {}

void Mlp::declare(Arena& arena, BatchShape shape, Purpose purpose) {
  const Shape hidden{shape.rows(), dim_};
  up_out_ = declare_saved(arena, purpose, path_, "up", dtype_, hidden);
  active_ = declare_saved(arena, purpose, path_, "active", dtype_, hidden);
  if (gate_) gate_out_ = declare_saved(arena, purpose, path_, "gate", dtype_, hidden);
  if (purpose == Purpose::inference) return;
  d_up_ = arena.declare_shared("d_mlp_up", dtype_, hidden);
  if (gate_) d_gate_ = arena.declare_shared("d_mlp_gate", dtype_, hidden);
}

void Mlp::forward(const Context& ctx, const Tensor& y, const Tensor& x) {
  const Shape hidden{rows_of(x), dim_};
  const Tensor active = fit(active_, hidden), up = fit(up_out_, hidden);
  if (gate_) {
    const Tensor gate = fit(gate_out_, hidden);
    up_.forward(ctx, up, x);
    gate_->forward(ctx, gate, x);
    swiglu_forward(ctx, active, gate, up);
  } else {
    up_.forward_gelu(ctx, gelu_form(), active, up, x);
  }
  down_.forward(ctx, y, active);
  record(ctx, output_name_, y);
}

void Mlp::backward(const Context& ctx, const Tensor& dx, const Tensor& dy) {
  const Shape hidden{rows_of(dx), dim_};
  const Tensor d_up = fit(d_up_, hidden), up = fit(up_out_, hidden);
  if (gate_) {
    down_.backward(ctx, d_up, dy);  // the gradient of the activation, for a moment
    const Tensor d_gate = fit(d_gate_, hidden);
    swiglu_backward(ctx, d_gate, d_up, d_up, fit(gate_out_, hidden), up);
    gate_->backward(ctx, dx, d_gate);
    up_.backward(ctx, dx, d_up, Accumulate::add);
    return;
  }
  down_.backward_gelu(ctx, gelu_form(), d_up, dy, up);
  up_.backward(ctx, dx, d_up);
}

void Mlp::set_operand_hook(OperandHook* hook) {
  up_.set_operand_hook(hook);
  if (gate_) gate_->set_operand_hook(hook);
  down_.set_operand_hook(hook);
}

}  // namespace quietformer
