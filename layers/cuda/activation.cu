#include "core/cuda/map.cuh"
#include "layers/cuda/operations.h"
#include "layers/gelu.h"

namespace quietformer::cuda {
namespace {

template <class T, class Form>
struct GeluForward {
  __device__ T operator()(T x) const { return Form::value(x); }
};

template <class T, class Form>
struct GeluBackward {
  __device__ T operator()(T dy, T x) const { return dy * Form::slope(x); }
};

template <class T>
struct SwigluForward {
  __device__ T operator()(T gate, T up) const { return gate * math::sigmoid(gate) * up; }
};

/// An output may alias an input, so nothing is __restrict__.
template <class T>
__global__ void swiglu_backward_kernel(T* d_gate, T* d_up, const T* dy, const T* gate, const T* up,
                                       std::int64_t count) {
  for (std::int64_t i = first_index(); i < count; i += index_step()) {
    const T d = dy[i], s = math::sigmoid(gate[i]), silu = gate[i] * s, u = up[i];
    d_gate[i] = d * u * (s + silu * (T(1) - s));
    d_up[i] = d * silu;
  }
}

}  // namespace

void gelu_forward(const Context& ctx, GeluForm form, const Tensor& y, const Tensor& x) {
  expect_on_device(ctx, y, x);
  const CurrentDevice current(ctx.device);
  dispatch_gelu(x.dtype, form, [&]<class T, class Form>() {
    map(ctx, "gelu_forward", y.as<T>(), x.count(), GeluForward<T, Form>(), x.as<T>());
  });
}

void gelu_backward(const Context& ctx, GeluForm form, const Tensor& dx, const Tensor& dy,
                   const Tensor& x) {
  expect_on_device(ctx, dx, dy, x);
  const CurrentDevice current(ctx.device);
  dispatch_gelu(x.dtype, form, [&]<class T, class Form>() {
    map(ctx, "gelu_backward", dx.as<T>(), x.count(), GeluBackward<T, Form>(), dy.as<T>(),
        x.as<T>());
  });
}

void swiglu_forward(const Context& ctx, const Tensor& y, const Tensor& gate, const Tensor& up) {
  expect_on_device(ctx, y, gate, up);
  const CurrentDevice current(ctx.device);
  dispatch_floating(y.dtype, [&]<class T>() {
    map(ctx, "swiglu_forward", y.as<T>(), y.count(), SwigluForward<T>(), gate.as<T>(), up.as<T>());
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
