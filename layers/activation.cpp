#include "layers/activation.h"

#include "layers/cuda/operations.h"
#include "layers/gelu.h"
#include "layers/rows.h"

namespace quietformer {
namespace {

void check_alike(const Tensor& a, const Tensor& b) {
  QF_EXPECTS(a.shape == b.shape && a.dtype == b.dtype && a.contiguous() && b.contiguous());
}

}  // namespace

void gelu_forward(const Context& ctx, GeluForm form, const Tensor& y, const Tensor& x) {
  check_alike(y, x);
  if (ctx.device.type == DeviceType::cuda) return cuda::gelu_forward(ctx, form, y, x);
  dispatch_gelu(x.dtype, form, [&]<class T, class Form>() {
    T* out = y.as<T>();
    const T* in = x.as<T>();
    elementwise(ctx, x.count(), [=](std::int64_t i) { out[i] = Form::value(in[i]); });
  });
}

void gelu_backward(const Context& ctx, GeluForm form, const Tensor& dx, const Tensor& dy,
                   const Tensor& x) {
  check_alike(dx, dy), check_alike(dx, x);
  if (ctx.device.type == DeviceType::cuda) return cuda::gelu_backward(ctx, form, dx, dy, x);
  dispatch_gelu(x.dtype, form, [&]<class T, class Form>() {
    T* d_in = dx.as<T>();
    const T *d_out = dy.as<T>(), *in = x.as<T>();
    elementwise(ctx, x.count(), [=](std::int64_t i) { d_in[i] = d_out[i] * Form::slope(in[i]); });
  });
}

void swiglu_forward(const Context& ctx, const Tensor& y, const Tensor& gate, const Tensor& up) {
  check_alike(y, gate), check_alike(y, up);
  if (ctx.device.type == DeviceType::cuda) return cuda::swiglu_forward(ctx, y, gate, up);
  dispatch_floating(y.dtype, [&]<class T>() {
    T* out = y.as<T>();
    const T *g = gate.as<T>(), *u = up.as<T>();
    elementwise(ctx, y.count(),
                [=](std::int64_t i) { out[i] = g[i] * math::sigmoid(g[i]) * u[i]; });
  });
}

void swiglu_backward(const Context& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& dy,
                     const Tensor& gate, const Tensor& up) {
  check_alike(dy, gate), check_alike(dy, up), check_alike(dy, d_gate), check_alike(dy, d_up);
  if (ctx.device.type == DeviceType::cuda)
    return cuda::swiglu_backward(ctx, d_gate, d_up, dy, gate, up);
  dispatch_floating(dy.dtype, [&]<class T>() {
    T *dg = d_gate.as<T>(), *du = d_up.as<T>();
    const T *d_out = dy.as<T>(), *g = gate.as<T>(), *u = up.as<T>();
    elementwise(ctx, dy.count(), [=](std::int64_t i) {
      const T d = d_out[i], s = math::sigmoid(g[i]), silu = g[i] * s;
      const T slope = s + silu * (T(1) - s);
      dg[i] = d * u[i] * slope;
      du[i] = d * silu;
    });
  });
}

}  // namespace quietformer
