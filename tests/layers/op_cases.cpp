#include "tests/layers/op_case.h"

#include "layers/activation.h"
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
  if (scaled) c.inputs.push_back({"weight", {n}, Writes::accumulates, 1});
  if (shifted) c.inputs.push_back({"bias", {n}, Writes::accumulates});
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
    const DType dtype = dy.dtype;
    const OwnedTensor y(dtype, wide, ctx.device), mean(dtype, {rows * count}, ctx.device),
        rstd(dtype, {rows * count}, ctx.device);
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
           {{"branch", s.shape()}, {"gain", {s.columns}, Writes::accumulates}},
           s.shape()};
  const auto stream = [s](DType dtype) { return normal(dtype, s.shape(), 77); };
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
    rotary_forward(ctx, y, in[0], RotaryTable(y.dtype, dim, s.tokens, 100, ctx.device),
                   copy_to(ctx.device, positions()));
  };
  c.backward = [=](const Context& ctx, const Tensors& d, const Tensor& dy, const Tensors&) {
    rotary_backward(ctx, d[0], dy, RotaryTable(dy.dtype, dim, s.tokens, 100, ctx.device),
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
  for (const bool heads : {false, true}) {
    cases.push_back(norm(s, NormKind::layernorm, "layernorm", heads));
    cases.push_back(norm(s, NormKind::rmsnorm, "rmsnorm", heads));
    cases.push_back(norm(s, NormKind::l2, "l2norm", heads));
  }
  return cases;
}

}  // namespace quietformer::test
