#include "core/cuda/map.cuh"
#include "layers/cuda/operations.h"
#include "layers/gelu.h"

namespace quietformer::cuda {
namespace {

/// Where values are stored in 16 bits, the GPU's own exponential and reciprocal are exact enough
/// (1e-6), and with less arithmetic memory is what limits.
__device__ float fast_sigmoid(float x) {
  return math::sigmoid_affine(x, 1.0f, 0.0f);
}

struct FastTanhGelu {
  using Exact = TanhGelu<float>;
  static __device__ float value(float x) {
    return x * fast_sigmoid(Exact::kLinear * (x + Exact::kCubic * x * x * x));
  }
  static __device__ float slope(float x) {
    const float s = fast_sigmoid(Exact::kLinear * (x + Exact::kCubic * x * x * x));
    return s + x * s * (1.0f - s) * Exact::kLinear * (1.0f + 3.0f * Exact::kCubic * x * x);
  }
};

template <class T>
__device__ Compute<T> sigmoid(Compute<T> x) {
  if constexpr (kSixteenBit<T>)
    return fast_sigmoid(x);
  else
    return math::sigmoid(x);
}

template <class T>
using TanhForm = std::conditional_t<kSixteenBit<T>, FastTanhGelu, TanhGelu<Compute<T>>>;

template <class C, class Form>
struct GeluForward {
  __device__ C operator()(C x) const { return Form::value(x); }
};

template <class C, class Form>
struct GeluBackward {
  __device__ C operator()(C dy, C x) const { return dy * Form::slope(x); }
};

template <class T>
struct SwigluForward {
  using C = Compute<T>;
  __device__ C operator()(C gate, C up) const { return gate * sigmoid<T>(gate) * up; }
};

template <class T>
__device__ void swiglu_slopes(Compute<T>& dy_to_gate, Compute<T>& gate_to_up, Compute<T> up) {
  using C = Compute<T>;
  const C d = dy_to_gate, gate = gate_to_up, s = sigmoid<T>(gate), silu = gate * s;
  dy_to_gate = d * up * (s + silu * (C(1) - s));
  gate_to_up = d * silu;
}

/// `packs` packs, then single elements up to `count`. An output may alias an input, so nothing is
/// __restrict__.
template <class T>
__global__ void swiglu_backward_kernel(T* d_gate, T* d_up, const T* dy, const T* gate, const T* up,
                                       std::int64_t packs, std::int64_t count) {
  constexpr int kSize = Pack<T>::kSize;
  for (std::int64_t i = first_index(); i < packs; i += index_step()) {
    Wide<T> d = load_pack(dy + i * kSize), g = load_pack(gate + i * kSize);
    const Wide<T> u = load_pack(up + i * kSize);
#pragma unroll
    for (int j = 0; j < kSize; ++j) swiglu_slopes<T>(d.value[j], g.value[j], u.value[j]);
    store_pack(d_gate + i * kSize, d);
    store_pack(d_up + i * kSize, g);
  }
  for (std::int64_t i = packs * kSize + first_index(); i < count; i += index_step()) {
    Compute<T> d = widen(dy[i]), g = widen(gate[i]);
    swiglu_slopes<T>(d, g, widen(up[i]));
    d_gate[i] = narrow<T>(d);
    d_up[i] = narrow<T>(g);
  }
}

/// body.operator()<T, Form>() for the storage type and the form.
template <class Body>
void dispatch_form(DType dtype, GeluForm form, const Body& body) {
  dispatch_storage(dtype, [&]<class T>() {
    if (form == GeluForm::tanh)
      body.template operator()<T, TanhForm<T>>();
    else
      body.template operator()<T, ErfGelu<Compute<T>>>();
  });
}

}  // namespace

void gelu_forward(const Context& ctx, GeluForm form, const Tensor& y, const Tensor& x) {
  expect_on_device(ctx, y, x);
  const CurrentDevice current(ctx.device);
  dispatch_form(x.dtype, form, [&]<class T, class Form>() {
    map(ctx, "gelu_forward", y.as<T>(), x.count(), GeluForward<Compute<T>, Form>(), x.as<T>());
  });
}

void gelu_backward(const Context& ctx, GeluForm form, const Tensor& dx, const Tensor& dy,
                   const Tensor& x) {
  expect_on_device(ctx, dx, dy, x);
  const CurrentDevice current(ctx.device);
  dispatch_form(x.dtype, form, [&]<class T, class Form>() {
    map(ctx, "gelu_backward", dx.as<T>(), x.count(), GeluBackward<Compute<T>, Form>(), dy.as<T>(),
        x.as<T>());
  });
}

void swiglu_forward(const Context& ctx, const Tensor& y, const Tensor& gate, const Tensor& up) {
  expect_on_device(ctx, y, gate, up);
  const CurrentDevice current(ctx.device);
  dispatch_storage(y.dtype, [&]<class T>() {
    map(ctx, "swiglu_forward", y.as<T>(), y.count(), SwigluForward<T>(), gate.as<T>(), up.as<T>());
  });
}

void swiglu_backward(const Context& ctx, const Tensor& d_gate, const Tensor& d_up, const Tensor& dy,
                     const Tensor& gate, const Tensor& up) {
  expect_on_device(ctx, d_gate, d_up, dy, gate, up);
  const CurrentDevice current(ctx.device);
  dispatch_storage(dy.dtype, [&]<class T>() {
    const bool whole =
        starts_pack(d_gate.as<T>(), d_up.as<T>(), dy.as<T>(), gate.as<T>(), up.as<T>());
    const std::int64_t packs = whole ? dy.count() / Pack<T>::kSize : 0;
    launch(ctx, "swiglu_backward", shape_for(packs > 0 ? packs : dy.count()),
           swiglu_backward_kernel<T>, d_gate.as<T>(), d_up.as<T>(), dy.as<T>(), gate.as<T>(),
           up.as<T>(), packs, dy.count());
  });
}

}  // namespace quietformer::cuda
