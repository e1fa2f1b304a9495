#include <utility>

#include "core/cuda/launch.h"
#include "optim/cuda/operations.h"
#include "optim/rules.h"

namespace quietformer::cuda {
namespace {

constexpr int kThreads = 256;

/// The flat tensors as typed pointers: value, gradient and K states.
template <class T, std::size_t K>
struct Arrays {
  T* value;
  const T* grad;
  T* state[K];
};

template <class Update, class T, std::size_t K, std::size_t... S>
__device__ void apply(const Update& update, const Arrays<T, K>& arrays, std::int64_t i,
                      T grad_scale, std::index_sequence<S...>) {
  update(arrays.value[i], arrays.grad[i] * grad_scale, arrays.state[S][i]...);
}

/// A block updates one piece, all of whose elements decay or none.
template <class Update, class T, std::size_t K>
__global__ void step_kernel(Arrays<T, K> arrays, const std::int64_t* __restrict__ pieces,
                            Update decayed, Update plain, T grad_scale) {
  const std::int64_t* piece = pieces + std::int64_t{blockIdx.x} * 3;
  const Update update = piece[2] != 0 ? decayed : plain;
  for (std::int64_t i = piece[0] + threadIdx.x; i < piece[1]; i += kThreads)
    apply(update, arrays, i, grad_scale, std::make_index_sequence<K>());
}

template <class Rule, class T>
void step_as(const Context& ctx, const OptimConfig& config, const StepTensors& tensors, double lr,
             std::int64_t step, double grad_scale) {
  constexpr std::size_t kStates = Rule::kState.size();
  using Update = typename Rule::template Update<T>;
  Arrays<T, kStates> arrays{tensors.values.as<T>(), tensors.grads.as<T>(), {}};
  for (std::size_t s = 0; s < kStates; ++s) {
    expect_on_device(ctx, tensors.state[s]);
    arrays.state[s] = tensors.state[s].as<T>();
  }
  launch(ctx, "optimizer_step",
         {dim3(static_cast<unsigned>(tensors.pieces.shape[0])), dim3(kThreads)},
         step_kernel<Update, T, kStates>, arrays, tensors.pieces.as<std::int64_t>(),
         Update(config, lr, step, config.weight_decay), Update(config, lr, step, 0), grad_scale);
}

}  // namespace

void optimizer_step(const Context& ctx, const OptimConfig& config, const StepTensors& tensors,
                    double lr, std::int64_t step, double grad_scale) {
  expect_on_device(ctx, tensors.values, tensors.grads, tensors.pieces);
  if (tensors.pieces.count() == 0) return;
  const CurrentDevice current(ctx.device);
  for_each_rule([&]<class Rule>(std::string_view name) {
    if (name != config.type) return;
    dispatch_floating(tensors.values.dtype, [&]<class T>() {
      step_as<Rule, T>(ctx, config, tensors, lr, step, grad_scale);
    });
  });
}

}  // namespace quietformer::cuda
