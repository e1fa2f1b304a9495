#include <utility>

#include "core/cuda/storage.cuh"
#include "optim/cuda/operations.h"
#include "optim/rules.h"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFour = 4;  // neighbouring elements of a thread

/// The flat tensors as typed pointers: master, gradient, K states and rounded value (or null).
template <class T, class V, std::size_t K>
struct Arrays {
  T* master;
  const T* grad;
  T* state[K];
  V* value;
};

/// What a step does, made from its numbers by one thread.
template <class Update, class T>
struct Prepared {
  Update decayed, plain;
  T grad_scale;
  bool acts;
};

template <class Update, class T>
__global__ void prepare_kernel(Prepared<Update, T>* prepared, RuleConstants constants,
                               double weight_decay, StepValues given, StepValues* state,
                               float* loss_scale, LossScaling scaling) {
  const StepValues now = state != nullptr ? *state : given;
  const double step = now.step - now.skipped;
  prepared->decayed = Update(constants, now.lr, step, weight_decay);
  prepared->plain = Update(constants, now.lr, step, 0);
  prepared->grad_scale = T(now.scale);
  prepared->acts = now.finite != 0;
  if (state == nullptr) return;
  double factor = now.loss_scale, good = now.good_steps + 1;
  if (now.finite == 0) {
    state->skipped = now.skipped + 1;
    factor *= 0.5, good = 0;
  } else if (good >= double(scaling.interval)) {
    factor *= 2, good = 0;
  }
  if (!scaling.dynamic) return;
  state->good_steps = good;
  state->loss_scale = factor;
  *loss_scale = float(factor);
}

template <class T>
struct alignas(kFour * sizeof(T) > 16 ? 16 : kFour * sizeof(T)) Four {
  T value[kFour];
};

template <class T>
__device__ Four<T> load_four(const T* at) {
  return *reinterpret_cast<const Four<T>*>(at);
}
template <class T>
__device__ void store_four(T* at, const Four<T>& four) {
  *reinterpret_cast<Four<T>*>(at) = four;
}

template <class Update, class T, class V, std::size_t K, std::size_t... S>
__device__ void apply_four(const Update& update, const Arrays<T, V, K>& arrays, std::int64_t i,
                           T grad_scale, std::index_sequence<S...>) {
  Four<T> master = load_four(arrays.master + i);
  const Four<T> grad = load_four(arrays.grad + i);
  Four<T> state[K] = {load_four(arrays.state[S] + i)...};
#pragma unroll
  for (int j = 0; j < kFour; ++j)
    update(master.value[j], grad.value[j] * grad_scale, state[S].value[j]...);
  store_four(arrays.master + i, master);
  (store_four(arrays.state[S] + i, state[S]), ...);
  if constexpr (!std::is_same_v<T, V>) {
    Four<V> value;
#pragma unroll
    for (int j = 0; j < kFour; ++j) value.value[j] = narrow<V>(master.value[j]);
    store_four(arrays.value + i, value);
  }
}

template <class Update, class T, class V, std::size_t K, std::size_t... S>
__device__ void apply(const Update& update, const Arrays<T, V, K>& arrays, std::int64_t i,
                      T grad_scale, std::index_sequence<S...>) {
  update(arrays.master[i], arrays.grad[i] * grad_scale, arrays.state[S][i]...);
  if constexpr (!std::is_same_v<T, V>) arrays.value[i] = narrow<V>(arrays.master[i]);
}

/// A block updates one piece, all of whose elements decay or none.
template <class Update, class T, class V, std::size_t K>
__global__ void __launch_bounds__(kThreads)
    step_kernel(Arrays<T, V, K> arrays, const std::int64_t* __restrict__ pieces,
                const Prepared<Update, T>* __restrict__ prepared) {
  if (!prepared->acts) return;
  const std::int64_t* piece = pieces + std::int64_t{blockIdx.x} * 3;
  const std::int64_t begin = piece[0], end = piece[1];
  const std::int64_t whole = begin + (end - begin) / kFour * kFour;
  const Update update = piece[2] != 0 ? prepared->decayed : prepared->plain;
  const T grad_scale = prepared->grad_scale;
  const auto states = std::make_index_sequence<K>();
#pragma unroll 2
  for (std::int64_t i = begin + threadIdx.x * kFour; i < whole; i += kThreads * kFour)
    apply_four(update, arrays, i, grad_scale, states);
  for (std::int64_t i = whole + threadIdx.x; i < end; i += kThreads)
    apply(update, arrays, i, grad_scale, states);
}

template <class Rule, class T, class V>
void step_as(const Context& ctx, const OptimConfig& config, const StepTensors& tensors,
             const StepNumbers& numbers) {
  constexpr std::size_t kStates = Rule::kState.size();
  using Update = typename Rule::template Update<T>;
  using Ready = Prepared<Update, T>;
  static_assert(sizeof(Ready) <= kUpdateBytes);
  Arrays<T, V, kStates> arrays{tensors.masters.as<T>(), tensors.grads.as<T>(), {}, nullptr};
  if constexpr (!std::is_same_v<T, V>) arrays.value = tensors.values.as<V>();
  for (std::size_t s = 0; s < kStates; ++s) {
    expect_on_device(ctx, tensors.state[s]);
    arrays.state[s] = tensors.state[s].as<T>();
  }
  auto* const ready = static_cast<Ready*>(tensors.update.data);
  StepValues given;
  given.lr = numbers.lr, given.step = numbers.step, given.scale = numbers.grad_scale;
  launch(ctx, "optimizer_step", {dim3(1), dim3(1)}, prepare_kernel<Update, T>, ready,
         config.constants(), config.weight_decay, given,
         static_cast<StepValues*>(numbers.state.data), numbers.loss_scale.as<float>(),
         numbers.scaling);
  launch(ctx, "optimizer_step",
         {dim3(static_cast<unsigned>(tensors.pieces.shape[0])), dim3(kThreads)},
         step_kernel<Update, T, V, kStates>, arrays, tensors.pieces.as<std::int64_t>(), ready);
}

}  // namespace

void optimizer_step(const Context& ctx, const OptimConfig& config, const StepTensors& tensors,
                    const StepNumbers& numbers) {
  expect_on_device(ctx, tensors.masters, tensors.values, tensors.grads, tensors.pieces,
                   tensors.update);
  expect_on_device(ctx, numbers.state, numbers.loss_scale);
  if (tensors.pieces.count() == 0) return;
  const CurrentDevice current(ctx.device);
  for_each_rule([&]<class Rule>(std::string_view name) {
    if (name != config.type) return;
    dispatch_floating(tensors.masters.dtype, [&]<class T>() {
      if (!tensors.values) return step_as<Rule, T, T>(ctx, config, tensors, numbers);
      if constexpr (std::is_same_v<T, float>) {
        if (tensors.values.dtype == DType::bf16)
          return step_as<Rule, T, __nv_bfloat16>(ctx, config, tensors, numbers);
        return step_as<Rule, T, __half>(ctx, config, tensors, numbers);
      }
    });
  });
}

}  // namespace quietformer::cuda
