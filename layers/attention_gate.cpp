#include "layers/attention_gate.h"

#include "core/math.h"
#include "layers/cuda/operations.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

void check(const Tensor& gate, const AttentionGateInputs& in) {
  const DType dtype = accumulation_dtype(in.x.dtype);
  QF_EXPECTS(in.x.contiguous() && in.context.contiguous() && in.x.shape == in.context.shape &&
             in.x.dtype == in.context.dtype);
  QF_EXPECTS(in.weight.shape.rank == 2 && in.weight.contiguous() && in.weight.dtype == dtype &&
             in.weight.count() == columns_of(in.x));
  QF_EXPECTS(in.bias.count() == in.weight.shape[0] && in.bias.dtype == dtype);
  QF_EXPECTS(gate.shape == (Shape{rows_of(in.x), in.weight.shape[0]}) && gate.contiguous() &&
             gate.dtype == dtype);
}

}  // namespace

void attention_gate_forward(const Context& ctx, const Tensor& y, const Tensor& gate,
                            const AttentionGateInputs& in) {
  check(gate, in);
  QF_EXPECTS(y.shape == in.x.shape && y.dtype == in.x.dtype && y.contiguous());
  if (ctx.device.type == DeviceType::cuda) return cuda::attention_gate_forward(ctx, y, gate, in);
  const std::int64_t heads = in.weight.shape[0], dim = in.weight.shape[1];
  dispatch_floating(y.dtype, [&]<class T>() {
    const T *weight = in.weight.as<T>(), *bias = in.bias.as<T>();
    parallel_for(ctx, rows_of(y), row_grain(heads * dim), [=, &in](std::int64_t begin, auto end) {
      for (std::int64_t unit = begin * heads; unit < end * heads; ++unit) {
        const std::int64_t head = unit % heads;
        const T *x = in.x.as<T>() + unit * dim, *w = weight + head * dim;
        const T* context = in.context.as<T>() + unit * dim;
        T* out = y.as<T>() + unit * dim;
        const T g = math::sigmoid(lane_sum<T>(dim, [=](std::int64_t d) { return x[d] * w[d]; }) +
                                  bias[head]);
        gate.as<T>()[unit] = g;
        simd_for(0, dim, [=](std::int64_t d) { out[d] = g * context[d]; });
      }
    });
  });
}

void attention_gate_backward_input(const Context& ctx, const AttentionGateGradients& out,
                                   const Tensor& dy, const Tensor& gate,
                                   const AttentionGateInputs& in) {
  check(gate, in);
  for (const Tensor& t : {dy, out.d_context, out.dx})
    QF_EXPECTS(t.shape == in.x.shape && t.dtype == in.x.dtype && t.contiguous());
  QF_EXPECTS(out.d_logit.shape == gate.shape && out.d_logit.dtype == gate.dtype);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::attention_gate_backward_input(ctx, out, dy, gate, in);
  const std::int64_t heads = in.weight.shape[0], dim = in.weight.shape[1];
  dispatch_floating(dy.dtype, [&]<class T>() {
    parallel_for(ctx, rows_of(dy), row_grain(heads * dim), [&](std::int64_t begin, auto end) {
      for (std::int64_t unit = begin * heads; unit < end * heads; ++unit) {
        const T *d_out = dy.as<T>() + unit * dim, *context = in.context.as<T>() + unit * dim;
        const T* w = in.weight.as<T>() + unit % heads * dim;
        T *d_context = out.d_context.as<T>() + unit * dim, *dx = out.dx.as<T>() + unit * dim;
        const T g = gate.as<T>()[unit];
        const T d_logit = g * (T(1) - g) *
                          lane_sum<T>(dim, [=](std::int64_t d) { return d_out[d] * context[d]; });
        out.d_logit.as<T>()[unit] = d_logit;
        simd_for(0, dim, [=](std::int64_t d) {
          d_context[d] = g * d_out[d];
          dx[d] = d_logit * w[d];
        });
      }
    });
  });
}

void attention_gate_backward_parameters(const Context& ctx, const Tensor& d_weight,
                                        const Tensor& d_bias, const Tensor& d_logit,
                                        const Tensor& x) {
  QF_EXPECTS(d_weight.shape.rank == 2 && d_weight.count() == columns_of(x) && x.contiguous());
  QF_EXPECTS(d_logit.shape == (Shape{rows_of(x), d_weight.shape[0]}) &&
             d_bias.count() == d_weight.shape[0]);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::attention_gate_backward_parameters(ctx, d_weight, d_bias, d_logit, x);
  const std::int64_t rows = rows_of(x), heads = d_weight.shape[0], dim = d_weight.shape[1];
  dispatch_floating(x.dtype, [&]<class T>() {
    const T *logit = d_logit.as<T>(), *in = x.as<T>();
    for (std::int64_t h = 0; h < heads; ++h)
      add_column_sums(ctx, d_weight.as<T>() + h * dim, rows, dim,
                      [=](std::int64_t r, std::int64_t c) {
                        return logit[r * heads + h] * in[(r * heads + h) * dim + c];
                      });
    add_column_sums(ctx, d_bias.as<T>(), rows, heads,
                    [=](std::int64_t r, std::int64_t h) { return logit[r * heads + h]; });
  });
}

AttentionGate::AttentionGate(ParameterList& parameters, const std::string& path, std::int64_t heads,
                             std::int64_t head_dim, Init weight, double bias)
    : path_(path),
      input_name_(path + ".input"),
      heads_(heads),
      dtype_(parameters.master_dtype()),
      weight_(parameters.add(path + ".weight", {heads, head_dim}, weight)),
      bias_(parameters.add(path + ".bias", {heads}, Init::constant(bias))) {}

void AttentionGate::declare(Arena& arena, std::int64_t rows, Purpose purpose) {
  gate_ = declare_saved(arena, purpose, path_, "gate", dtype_, {rows, heads_});
  if (purpose == Purpose::training)
    d_logit_ = arena.declare_shared("d_gate_logit", dtype_, {rows, heads_});
}

AttentionGateInputs AttentionGate::inputs() const {
  return {x_, context_, weight_.master, bias_.master};
}

void AttentionGate::forward(const Context& ctx, const Tensor& y, const Tensor& x,
                            const Tensor& context) {
  x_ = x;
  context_ = context;
  AttentionGateInputs in = inputs();
  in.x = operand(ctx, hook_, input_name_, x);
  attention_gate_forward(ctx, y, fit(gate_, {rows_of(x), heads_}), in);
}

void AttentionGate::backward(const Context& ctx, const Tensor& dx, const Tensor& d_context,
                             const Tensor& dy) {
  const Shape per_head{rows_of(dy), heads_};
  const Tensor d_logit = fit(d_logit_, per_head);
  attention_gate_backward_input(ctx, {d_logit, d_context, dx}, dy, fit(gate_, per_head), inputs());
  attention_gate_backward_parameters(ctx, weight_.grad, bias_.grad, d_logit, x_);
}

Tensor AttentionGate::gates(BatchShape shape) const {
  return fit(gate_, {shape.batch, shape.tokens, heads_});
}

}  // namespace quietformer
