#include "tests/layers/op_case.h"

#include "layers/activation.h"
#include "layers/attention_gate.h"
#include "layers/dropout.h"
#include "layers/embedding.h"
#include "layers/linear.h"
#include "layers/norm.h"
#include "layers/position.h"
#include "layers/residual.h"
#include "layers/rows.h"
#include "tests/support/tensors.h"

namespace quietformer::test {
namespace {

struct Sizes {
  std::int64_t batch, tokens, columns;
  Shape shape() const { return {batch, tokens, columns}; }
};

Sizes sizes_of(OpSize size) {
  return size == OpSize::small ? Sizes{2, 3, 7} : Sizes{3, 67, 273};
}

OpCase linear(Sizes s, bool bias) {
  const std::int64_t out = s.columns + 5;
  OpCase c{bias ? "linear" : "linear_no_bias",
           {{"x", s.shape()}, {"weight", {out, s.columns}, Writes::accumulates}},
           {s.batch, s.tokens, out}};
  if (bias) c.inputs.push_back({"bias", {out}, Writes::accumulates});
  c.forward = [bias](const Context& ctx, const Tensor& y, const Tensors& in) {
    linear_forward(ctx, y, in[0], in[1], bias ? in[2] : Tensor());
  };
  c.backward = [bias](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors& in) {
    linear_backward_input(ctx, d[0], dy, in[1]);
    linear_backward_parameters(ctx, d[1], bias ? d[2] : Tensor(), dy, in[0]);
  };
  return c;
}

OpCase embedding(Sizes s, bool positions) {
  constexpr std::int64_t kVocab = 13;
  OpCase c{positions ? "embedding_positions" : "embedding",
           {{"weight", {kVocab, s.columns}, Writes::accumulates}},
           s.shape()};
  if (positions) c.inputs.push_back({"positions", {s.tokens + 2, s.columns}, Writes::accumulates});
  const auto tokens = [s] {
    OwnedTensor ids(DType::i32, {s.batch, s.tokens});
    for (std::int64_t i = 0; i < ids.view().count(); ++i)
      ids.as<std::int32_t>()[i] = static_cast<std::int32_t>(i * 5 % kVocab);
    return ids;
  };
  c.forward = [=](const Context& ctx, const Tensor& y, const Tensors& in) {
    embedding_forward(ctx, y, copy_to(ctx.device, tokens()), in[0], positions ? in[1] : Tensor(),
                      1.5);
  };
  c.backward = [=](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors&) {
    embedding_backward(ctx, d[0], positions ? d[1] : Tensor(), dy, copy_to(ctx.device, tokens()),
                       1.5);
  };
  return c;
}

/// Rows of x: contiguous, or heads in the middle of wider rows.
OpCase norm(Sizes s, NormKind kind, const std::string& name, bool heads) {
  const std::int64_t rows = s.batch * s.tokens, count = heads ? 2 : 1, n = s.columns;
  const Shape wide = heads ? Shape{rows, count + 1, n} : Shape{rows, n};
  OpCase c{name + (heads ? "_heads" : ""), {{"x", wide}}, wide};
  c.inputs[0].mean = 0.4;
  const bool scaled = kind != NormKind::l2, shifted = kind == NormKind::layernorm;
  if (scaled) c.inputs.push_back({"weight", {n}, Writes::accumulates, 1, true});
  if (shifted) c.inputs.push_back({"bias", {n}, Writes::accumulates, 0, true});
  const auto part = [=](const Tensor& t) { return heads ? t.slice(1, 1, count) : t; };
  const auto run = [=](const Context& ctx, const Tensor& y, const NormStatistics& saved,
                       const Tensors& in) {
    norm_forward(ctx, kind, part(y), saved, part(in[0]), scaled ? in[1] : Tensor(),
                 shifted ? in[2] : Tensor(), 1e-3);
  };
  c.forward = [=](const Context& ctx, const Tensor& y, const Tensors& in) {
    fill_any(y, 0);  // what lies between the heads is nobody's output
    run(ctx, y, {}, in);
  };
  c.backward = [=](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors& in) {
    const DType dtype = dy.dtype, statistics = accumulation_dtype(dtype);
    const OwnedTensor y(dtype, wide, ctx.device), mean(statistics, {rows * count}, ctx.device),
        rstd(statistics, {rows * count}, ctx.device);
    const NormStatistics saved{mean, rstd};
    run(ctx, y, saved, in);
    fill_any(d[0], 0);
    norm_backward_parameters(ctx, kind, scaled ? d[1] : Tensor(), shifted ? d[2] : Tensor(),
                             part(dy), part(in[0]), saved);
    norm_backward_input(ctx, kind, part(d[0]), part(dy), part(in[0]), saved,
                        scaled ? in[1] : Tensor(), 1e-3);
  };
  return c;
}

/// A residual sum, dropped, and the norm that reads it.
OpCase join_norm(Sizes s, NormKind kind, const std::string& name) {
  const std::int64_t rows = s.batch * s.tokens, n = s.columns;
  OpCase c{name,
           {{"x", s.shape()},
            {"branch", s.shape()},
            {"weight", {n}, Writes::accumulates, 1, true},
            {"bias", {n}, Writes::accumulates, 0, true}},
           s.shape(),
           Mode::train,
           3};  // the dropped branch, the sum
  const Dropout dropout{0.3, 3, DropoutSite::attention};
  const auto run = [=](const Context& ctx, const Tensor& y, const Tensor& sum,
                       const NormStatistics& saved, const Tensors& in) {
    const OwnedTensor branch = copy_to(ctx.device, copy_to({}, in[1]));  // dropped in place
    join_norm_forward(ctx, kind, y, saved, {in[0], branch, sum, 0.5, {}, dropout}, in[2], in[3],
                      1e-3);
  };
  c.forward = [=](const Context& ctx, const Tensor& y, const Tensors& in) {
    run(ctx, y, OwnedTensor(y.dtype, y.shape, ctx.device), {}, in);
  };
  c.backward = [=](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors& in) {
    const DType dtype = dy.dtype, statistics = accumulation_dtype(dtype);
    const OwnedTensor y(dtype, dy.shape, ctx.device), sum(dtype, dy.shape, ctx.device),
        mean(statistics, {rows}, ctx.device), rstd(statistics, {rows}, ctx.device),
        zero(dtype, dy.shape, ctx.device);
    const NormStatistics saved{mean, rstd};
    run(ctx, y, sum, saved, in);
    norm_backward(ctx, kind, sum, d[2], d[3], dy, sum, saved, in[2], 1e-3);
    dropout_apply(ctx, dropout, d[1], sum);
    residual_forward(ctx, d[0], sum, zero, 0.5, {});
  };
  return c;
}

/// gelu(x W^T + b) in one product.
OpCase linear_gelu(Sizes s, GeluForm form, const std::string& name) {
  const std::int64_t out = s.columns + 8;
  OpCase c{name,
           {{"x", s.shape()},
            {"weight", {out, s.columns}, Writes::accumulates},
            {"bias", {out}, Writes::accumulates}},
           {s.batch, s.tokens, out},
           Mode::evaluate,
           3};  // z and dz
  c.forward = [=](const Context& ctx, const Tensor& y, const Tensors& in) {
    linear_gelu_forward(ctx, form, y, OwnedTensor(y.dtype, y.shape, ctx.device), in[0], in[1],
                        in[2]);
  };
  c.backward = [=](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors& in) {
    const OwnedTensor y(dy.dtype, dy.shape, ctx.device), z(dy.dtype, dy.shape, ctx.device);
    linear_gelu_forward(ctx, form, y, z, in[0], in[1], in[2]);
    gelu_backward(ctx, form, y, dy, z);
    linear_backward_input(ctx, d[0], y, in[1]);
    linear_backward_parameters(ctx, d[1], d[2], y, in[0]);
  };
  return c;
}

/// gelu(z) W^T, whose gradient with respect to z is one product.
OpCase gelu_linear(Sizes s, GeluForm form, const std::string& name) {
  const std::int64_t out = s.columns + 8;
  OpCase c{name,
           {{"z", s.shape()}, {"weight", {out, s.columns}, Writes::accumulates}},
           {s.batch, s.tokens, out},
           Mode::evaluate,
           2};  // gelu(z)
  c.forward = [=](const Context& ctx, const Tensor& y, const Tensors& in) {
    const OwnedTensor active(y.dtype, s.shape(), ctx.device);
    gelu_forward(ctx, form, active, in[0]);
    linear_forward(ctx, y, active, in[1], {});
  };
  c.backward = [=](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors& in) {
    const OwnedTensor active(dy.dtype, s.shape(), ctx.device);
    gelu_forward(ctx, form, active, in[0]);
    linear_backward_parameters(ctx, d[1], {}, dy, active);
    linear_gelu_backward_input(ctx, form, d[0], dy, in[1], in[0]);
  };
  return c;
}

OpCase gelu(Sizes s, GeluForm form, const std::string& name) {
  OpCase c{name, {{"x", s.shape()}}, s.shape()};
  c.forward = [=](const Context& ctx, const Tensor& y, const Tensors& in) {
    gelu_forward(ctx, form, y, in[0]);
  };
  c.backward = [=](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors& in) {
    gelu_backward(ctx, form, d[0], dy, in[0]);
  };
  return c;
}

OpCase swiglu(Sizes s) {
  OpCase c{"swiglu", {{"gate", s.shape()}, {"up", s.shape()}}, s.shape()};
  c.forward = [](const Context& ctx, const Tensor& y, const Tensors& in) {
    swiglu_forward(ctx, y, in[0], in[1]);
  };
  c.backward = [](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors& in) {
    swiglu_backward(ctx, d[0], d[1], dy, in[0], in[1]);
  };
  return c;
}

/// Three heads of s.columns features.
OpCase attention_gate(Sizes s, const std::string& name) {
  constexpr std::int64_t kHeads = 3;
  const Shape shape{s.batch, s.tokens, kHeads * s.columns};
  OpCase c{name,
           {{"x", shape},
            {"context", shape},
            {"weight", {kHeads, s.columns}, Writes::accumulates, 0, true},
            {"bias", {kHeads}, Writes::accumulates, 0.5, true}},
           shape};
  const Shape per_head{s.batch * s.tokens, kHeads};
  const auto gates = [=](const Tensor& y) {
    return OwnedTensor(accumulation_dtype(y.dtype), per_head, y.device);
  };
  c.forward = [=](const Context& ctx, const Tensor& y, const Tensors& in) {
    attention_gate_forward(ctx, y, gates(y), {in[0], in[1], in[2], in[3]});
  };
  c.backward = [=](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors& in) {
    const OwnedTensor gate = gates(dy), d_logit = gates(dy), y(dy.dtype, shape, dy.device);
    const AttentionGateInputs inputs{in[0], in[1], in[2], in[3]};
    attention_gate_forward(ctx, y, gate, inputs);
    attention_gate_backward_input(ctx, {d_logit, d[1], d[0]}, dy, gate, inputs);
    attention_gate_backward_parameters(ctx, d[2], d[3], d_logit, in[0]);
  };
  return c;
}

OpCase dropout(Sizes s, Mode mode) {
  OpCase c{mode == Mode::train ? "dropout" : "dropout_off", {{"x", s.shape()}}, s.shape(), mode};
  const Dropout description{0.4, 2, DropoutSite::mlp};
  c.forward = [=](const Context& ctx, const Tensor& y, const Tensors& in) {
    dropout_apply(ctx, description, y, in[0]);
  };
  c.backward = [=](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors&) {
    dropout_apply(ctx, description, d[0], dy);
  };
  return c;
}

OpCase residual_with_gain(Sizes s) {
  OpCase c{"residual_gain",
           {{"branch", s.shape()}, {"gain", {s.columns}, Writes::accumulates, 0, true}},
           s.shape()};
  const auto stream = [s](DType dtype) {  // of few bits: the same in every type
    return copy_as(normal(DType::bf16, s.shape(), 77), dtype);
  };
  c.forward = [=](const Context& ctx, const Tensor& y, const Tensors& in) {
    residual_forward(ctx, y, copy_to(ctx.device, stream(y.dtype)), in[0], 1.7, in[1]);
  };
  c.backward = [](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors& in) {
    residual_backward_gain(ctx, d[0], d[1], dy, in[0], in[1]);
  };
  return c;
}

/// Without a gain the backward pass needs no operation of its own: d_x = alpha dy, d_branch = dy.
OpCase residual(Sizes s) {
  OpCase c{"residual", {{"x", s.shape()}, {"branch", s.shape()}}, s.shape()};
  c.forward = [](const Context& ctx, const Tensor& y, const Tensors& in) {
    residual_forward(ctx, y, in[0], in[1], 1.7, {});
  };
  c.backward = [](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors&) {
    const OwnedTensor zero(dy.dtype, dy.shape, ctx.device);
    residual_forward(ctx, d[0], dy, zero, 1.7, {});
    residual_forward(ctx, d[1], dy, zero, 1.0, {});
  };
  return c;
}

OpCase rotary(Sizes s) {
  const std::int64_t dim = s.columns / 2 * 2, heads = 2;
  const Shape shape{s.batch, s.tokens, heads, dim};
  OpCase c{"rotary", {{"x", shape}}, shape};
  const auto positions = [s] {
    OwnedTensor map(DType::i32, {s.tokens});
    for (std::int64_t t = 0; t < s.tokens; ++t)
      map.as<std::int32_t>()[t] = static_cast<std::int32_t>((t * 3 + 1) % s.tokens);
    return map;
  };
  c.forward = [=](const Context& ctx, const Tensor& y, const Tensors& in) {
    rotary_forward(ctx, y, in[0],
                   RotaryTable(accumulation_dtype(y.dtype), dim, s.tokens, 100, ctx.device),
                   copy_to(ctx.device, positions()));
  };
  c.backward = [=](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors&) {
    rotary_backward(ctx, d[0], dy,
                    RotaryTable(accumulation_dtype(dy.dtype), dim, s.tokens, 100, ctx.device),
                    copy_to(ctx.device, positions()));
  };
  return c;
}

}  // namespace

std::vector<OpCase> op_cases(OpSize size) {
  const Sizes s = sizes_of(size);
  std::vector<OpCase> cases{
      linear(s, true),
      linear(s, false),
      embedding(s, true),
      embedding(s, false),
      gelu(s, GeluForm::tanh, "gelu_tanh"),
      gelu(s, GeluForm::erf, "gelu_erf"),
      swiglu(s),
      dropout(s, Mode::train),
      dropout(s, Mode::evaluate),
      residual(s),
      residual_with_gain(s),
      rotary(s),
  };
  Sizes whole = s;  // what GPUs read in whole accesses
  whole.columns = (s.columns + 7) / 8 * 8;
  cases.push_back(norm(whole, NormKind::layernorm, "layernorm_whole", false));
  cases.push_back(norm(whole, NormKind::rmsnorm, "rmsnorm_whole", false));
  cases.push_back(attention_gate(s, "attention_gate"));
  cases.push_back(attention_gate(whole, "attention_gate_whole"));
  cases.push_back(join_norm(s, NormKind::layernorm, "join_layernorm"));
  cases.push_back(join_norm(whole, NormKind::layernorm, "join_layernorm_whole"));
  cases.push_back(linear(whole, true));
  cases.push_back(linear_gelu(s, GeluForm::tanh, "linear_gelu"));
  cases.push_back(linear_gelu(whole, GeluForm::tanh, "linear_gelu_whole"));
  cases.push_back(linear_gelu(whole, GeluForm::erf, "linear_gelu_erf"));
  cases.push_back(gelu_linear(whole, GeluForm::tanh, "gelu_linear_whole"));
  cases.push_back(gelu_linear(whole, GeluForm::erf, "gelu_linear_erf"));
  for (const bool heads : {false, true}) {
    cases.push_back(norm(s, NormKind::layernorm, "layernorm", heads));
    cases.push_back(norm(s, NormKind::rmsnorm, "rmsnorm", heads));
    cases.push_back(norm(s, NormKind::l2, "l2norm", heads));
  }
  return cases;
}

}  // namespace quietformer::test
