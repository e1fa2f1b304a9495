#include "core/cuda/launch.h"
#include "layers/cuda/operations.h"
#include "layers/gelu.h"

namespace quietformer::cuda {
namespace {

// Outputs may alias inputs, so nothing here is __restrict__.

template <class T, class Form>
__global__ void gelu_forward_kernel(T* y, const T* x, std::int64_t count) {
  for (std::int64_t i = first_index(); i < count; i += index_step()) y[i] = Form::value(x[i]);
}

template <class T, class Form>
__global__ void gelu_backward_kernel(T* dx, const T* dy, const T* x, std::int64_t count) {
  for (std::int64_t i = first_index(); i < count; i += index_step())
    dx[i] = dy[i] * Form::slope(x[i]);
}

template <class T>
__global__ void swiglu_forward_kernel(T* y, const T* gate, const T* up, std::int64_t count) {
  for (std::int64_t i = first_index(); i < count; i += index_step())
    y[i] = gate[i] * math::sigmoid(gate[i]) * up[i];
}

template <class T>
__global__ void swiglu_backward_kernel(T* d_gate, T* d_up, const T* dy, const T* gate, const T* up,
                                       std::int64_t count) {
  for (std::int64_t i = first_index(); i < count; i += index_step()) {
    const T d = dy[i], s = math::sigmoid(gate[i]), silu = gate[i] * s, u = up[i];
    d_gate[i] = d * u * (s + silu * (T(1) - s));
    d_up[i] = d * silu;
  }
}

/// body.operator()<T, Form>() for the type and the form.
template <class Body>
void dispatch_gelu(DType dtype, GeluForm form, const Body& body) {
  dispatch_floating(dtype, [&]<class T>() {
    if (form == GeluForm::tanh)
      body.template operator()<T, TanhGelu<T>>();
    else
      body.template operator()<T, ErfGelu<T>>();
  });
}

}  // namespace

void gelu_forward(const Context& ctx, GeluForm form, const Tensor& y, const Tensor& x) {
  expect_on_device(ctx, y, x);
  const CurrentDevice current(ctx.device);
  dispatch_gelu(x.dtype, form, [&]<class T, class Form>() {
    launch(ctx, "gelu_forward", shape_for(x.count()), gelu_forward_kernel<T, Form>, y.as<T>(),
           x.as<T>(), x.count());
  });
}

void gelu_backward(const Context& ctx, GeluForm form, const Tensor& dx, const Tensor& dy,
                   const Tensor& x) {
  expect_on_device(ctx, dx, dy, x);
  const CurrentDevice current(ctx.device);
  dispatch_gelu(x.dtype, form, [&]<class T, class Form>() {
    launch(ctx, "gelu_backward", shape_for(x.count()), gelu_backward_kernel<T, Form>, dx.as<T>(),
           dy.as<T>(), x.as<T>(), x.count());
  });
}

void swiglu_forward(const Context& ctx, const Tensor& y, const Tensor& gate, const Tensor& up) {
  expect_on_device(ctx, y, gate, up);
  const CurrentDevice current(ctx.device);
  dispatch_floating(y.dtype, [&]<class T>() {
    launch(ctx, "swiglu_forward", shape_for(y.count()), swiglu_forward_kernel<T>, y.as<T>(),
           gate.as<T>(), up.as<T>(), y.count());
  });
}

void swiglu_backward(const Context& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& dy,
                     const Tensor& gate, const Tensor& up) {
  expect_on_device(ctx, d_gate, d_up, dy, gate, up);
  const CurrentDevice current(ctx.device);
  dispatch_floating(dy.dtype, [&]<class T>() {
    launch(ctx, "swiglu_backward", shape_for(dy.count()), swiglu_backward_kernel<T>, d_gate.as<T>(),
           d_up.as<T>(), dy.as<T>(), gate.as<T>(), up.as<T>(), dy.count());
  });
}

}  // namespace quietformer::cuda
